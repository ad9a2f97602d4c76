"""Traced networks do what the user's do, and what has no integer form is named."""

import pytest
import torch
from quantization.nets import Branches, Moved, Tiny, pictures, seeded
from torch import Tensor, nn
from torch.nn import functional as F

from jostle.core.errors import JostleError
from jostle.quantization import quantize, to_integer, trace
from jostle.quantization.integer import to_pixels
from jostle.zoo import normalised


def follows(model: nn.Module, images: Tensor, tolerance: float = 2e-5) -> None:
    network = quantize(model, images)
    with torch.no_grad():
        wanted, found = model(images), network.float_forward(images)
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) < tolerance * max(1.0, float(wanted.abs().max()))


class Odd(nn.Module):
    """Asymmetric padding, 'same', dilation, groups, a layer used twice, BN alone, clamps, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.same = nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.first(F.pad(x, (0, 1, 0, 1))))
        y = self.same(x)
        x = self.norm(self.same(y) + x)
        x = F.max_pool2d(x.clamp(min=-0.5, max=2.0), 3, 2, 1, ceil_mode=True)
        return self.drop(F.adaptive_avg_pool2d(self.out(x), 1)).flatten(1)


@pytest.mark.parametrize("build", [Tiny, Odd, Moved])
def test_a_traced_network_computes_the_same(build: type[nn.Module]) -> None:
    model = seeded(build)
    shape = getattr(model, "input_shape", (3, 17, 17))
    follows(model, pictures(4, *shape))


def test_layers_keep_their_names_and_doubles_are_told_apart() -> None:
    program = trace(seeded(Odd), torch.zeros(1, 3, 17, 17))
    assert program.names == ["first", "same", "same#2", "norm", "out"]
    assert any("used 2 times" in note for note in program.notes)
    assert program["first"].padding == (0, 1, 0, 1) and program["first"].clamp == (0.0, 6.0)
    assert program["same"].padding == (2, 2, 2, 2)


@pytest.mark.study
def test_a_whole_normalisation_is_exact_and_another_goes_into_the_first_layer() -> None:
    net = seeded(Tiny)
    entry = trace(normalised(net, 127 / 255, 128 / 255), torch.zeros(1, 1, 28, 28)).steps[0]
    assert entry.zero == 127 and entry.scale == pytest.approx(1 / 128)
    program = trace(normalised(net, 0.1307, 0.3081), torch.zeros(1, 1, 28, 28))
    assert program.steps[0].zero == 33 and program.steps[0].scale == pytest.approx(1 / 255)
    assert "padded with pixel value 33, off by 0.3 at most" in program.notes[0]
    # Away from the border the folded layer is the same; without padding, everywhere.
    valid = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    colours = normalised(valid, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()
    follows(colours, pictures(4, 3, 8, 8))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    follows(normalised(flat, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval(), pictures(4, 3, 8, 8))
    several = normalised(seeded(Twice), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval()
    program = trace(several, torch.zeros(1, 3, 8, 8))
    assert program.names[0] == "input.normalise"
    follows(several, pictures(4, 3, 8, 8))


class Twice(nn.Module):
    """Two layers read the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.one(x) + self.two(x)).relu().mean((2, 3)))


def test_the_border_of_a_folded_normalisation_is_off_by_little() -> None:
    model = seeded(Branches)
    images = pictures(16, 3, 16, 16)
    network = quantize(model, images)
    with torch.no_grad():
        wanted, found = model(images), network.float_forward(images)
    assert 0 < float((found - wanted).abs().max()) < 0.05 * float(wanted.std())


class InPlace(nn.Module):
    """A residual whose shortcut was overwritten in place: it adds the ReLU, not what was before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = F.relu(x, inplace=True)
        return (self.b(y) + x).mean((2, 3))


class Kept(InPlace):
    """The same without writing in place: it adds what was before the ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return (self.b(F.relu(x)) + x).mean((2, 3))


@pytest.mark.parametrize("build", [InPlace, Kept])
def test_what_was_written_in_place_is_what_later_readers_see(build: type[nn.Module]) -> None:
    model, images = seeded(build), pictures(4, 1, 8, 8)
    follows(model, images)
    integers = to_integer(quantize(model, images))
    real = integers.real(integers.run(to_pixels(images)))
    assert float((real - model(images)).detach().abs().max()) < 0.05


def fails(model: object, sentence: str, shape: tuple[int, ...] = (1, 8, 8)) -> None:
    if not isinstance(model, nn.Module):
        model = Function(model)
    with pytest.raises(JostleError, match=sentence):
        trace(model, torch.zeros(1, *shape))


class Function(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(1, 2, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))  # type: ignore[operator]


@pytest.mark.study
def test_what_has_no_integer_form_is_named() -> None:
    fails(torch.sigmoid, r"'sigmoid' \(aten.sigmoid.default\) has no integer form; supported are Conv2d")
    fails(nn.Sequential(nn.Conv2d(1, 2, 3), nn.SiLU()), r"'silu' .* in '1'\) has no integer form")
    fails(lambda x: x + 1, "adds a number")
    fails(lambda x: x.mean(1), "mean over axes")
    fails(lambda x: F.adaptive_avg_pool2d(x, 4), "pools .* in windows of several sizes")
    fails(lambda x: F.avg_pool2d(x, 2, padding=1, count_include_pad=False), "count_include_pad=False")
    fails(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), "pads with something else than zeros")
    fails(lambda x: x.clamp(0.5, 1.0), "does not hold 0")
    fails(lambda x: torch.cat([x, x], 2), "concatenates along axis 2")
    fails(lambda x: x.reshape(x.shape[0], 4, -1), "only flattening will do")
    fails(lambda x: x.chunk(2, 2)[0], "splits along axis 2")
    fails(lambda x: x[:, :, 1:4], "slices along axis 2")
    fails(lambda x: F.interpolate(x, size=(9, 9)), r"brings \(6, 6\) to \(9, 9\); only whole factors")
    fails(lambda x: x.view(-1, 1, 2, 6, 6).transpose(1, 3).flatten(1), "only a shuffle of channels will do")
    fails(lambda x: (x, x), "must return one tensor, but 2 came")
    fails(nn.Sequential(nn.Flatten()), "no convolution or linear layer")
    fails(lambda x: x if x.sum() > 0 else -x, "could not be traced")
    fails(nn.Conv2d(1, 1, 3), "example must be a batch", ())


def test_bad_weights_and_inputs_are_named() -> None:
    model = seeded(Tiny)
    model.b.weight.data[0] = float("nan")
    fails(model, "NaN or infinite values in 'b.weight'", (1, 28, 28))

    class Squared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x * x)

    fails(Squared(), "is not affine in each channel")
