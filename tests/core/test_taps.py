"""Taps: what they record, that they disturb nothing, and that they leave nothing behind."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from helpers import plain
from torch import Tensor, nn

from jostle import JostleError, Taps, replaced
from jostle.core.taps import frozen, swap_first

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    """What in-place networks do: overwrite a convolution's output, then add to an activation in place."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.SiLU(inplace=inplace)

    def forward(self, x: Tensor) -> Tensor:
        """A residual block."""
        y = self.act(self.a(x))
        z = self.b(y)
        if self.inplace:
            z += y
        else:
            z = z + y
        return F.hardtanh(self.act(z), -1.0, 1.0, inplace=self.inplace)


def pair() -> tuple[Residual, Residual]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        left, right = Residual(inplace=True), Residual(inplace=False)
    right.load_state_dict(left.state_dict())
    return left, right


def hooks(model: nn.Module) -> int:
    return sum(
        len(child._forward_hooks) + len(child._forward_pre_hooks) + len(child._backward_hooks)
        for child in model.modules()
    )


def energy(values: list[Tensor]) -> Tensor:
    return torch.stack([value.square().sum() for value in values]).log().sum()


@pytest.mark.parametrize("where", [["a", "b"], ["a", "act", "b"], ["act"], "conv"])
@pytest.mark.parametrize("when", ["post", "pre"])
def test_in_place_networks_give_the_values_and_gradients_of_out_of_place_ones(where, when: str) -> None:
    left, right = pair()
    for _ in range(2):  # the second pass spares the copies that the first found unnecessary
        seen = []
        for model in (left, right):
            x = X.clone().requires_grad_()
            with Taps(model, where, when=when) as taps:
                for _ in range(2):
                    out = model(x)
            (energy(taps.values) + out.sum()).backward()
            seen.append((taps.names, [v.detach() for v in taps.values], out.detach(), x.grad))
        torch.testing.assert_close(seen[0][1:], seen[1][1:], rtol=1e-6, atol=1e-6)
        assert seen[0][0] == seen[1][0]


@pytest.mark.parametrize(
    "reduce", [lambda a: a.flatten(1), lambda a: a, lambda a: a[:1], lambda a: {"own": a}]
)
def test_a_reduction_that_hands_back_the_tensor_is_kept_safe_without_gradients(reduce: Callable) -> None:
    left, right = pair()
    with torch.no_grad():
        for model in (left, right):
            with Taps(model, "conv", reduce=reduce) as taps:
                model(X)
                model(X)
            if model is left:
                kept = taps.values
        torch.testing.assert_close(kept, taps.values, rtol=1e-6, atol=1e-6)


def test_only_what_is_overwritten_is_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.ReLU())
    passed: dict[str, int] = {}
    for name in ("1", "3"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda m, inputs, n=name: passed.update({n: inputs[0].data_ptr()})
        )
    with Taps(model, ["0", "2"]) as taps:
        model(X)
        model(X)
        kept = [value.data_ptr() for value in taps.values]
    assert kept[0] != passed["1"] and kept[1] == passed["3"]


def test_inference_mode() -> None:
    left, right = pair()
    with torch.inference_mode(), Taps(left, "conv") as taps, Taps(right, "conv") as others:
        left(X), right(X)
    torch.testing.assert_close(taps.values, others.values, rtol=1e-6, atol=1e-6)


@pytest.mark.study
def test_the_output_is_that_of_the_bare_network() -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        bare = model(X)
        for where in ("conv", "activation", "norm", "block"):
            with Taps(model, where) as taps:
                torch.testing.assert_close(model(X), bare, rtol=0, atol=0)
            assert taps.values
        torch.testing.assert_close(model(X), bare, rtol=0, atol=0)


def test_one_record_a_call_in_the_order_of_execution() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(self.first(x)))

    model = Twice()
    with Taps(model, "linear") as taps:
        out = model(torch.ones(1, 3))
        model(torch.ones(1, 3))
    assert taps.names == ["first", "first#2", "last"] and len(taps.values) == 3
    torch.testing.assert_close(taps.values[-1], out)
    with Taps(model, "linear", when="pre") as inputs:
        model(torch.ones(1, 3))
    torch.testing.assert_close(inputs.values[1], taps.values[0])
    torch.testing.assert_close(inputs.values[0], torch.ones(1, 3))


Pair = namedtuple("Pair", ["out", "aux"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda a: (a, 1),
        lambda a: [None, a],
        lambda a: Pair(a, a + 1),
        lambda a: {"n": 3, "out": a},
        lambda a: OrderedDict(out=a, aux=a + 1),
    ],
)
def test_the_first_tensor_of_what_a_layer_returns(wrap: Callable) -> None:
    class Wrapping(nn.Module):
        def forward(self, x: Tensor):
            return wrap(x * 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Wrapping()

        def forward(self, x: Tensor):
            return self.inner(x)

    net = Net()
    kind = type(net(torch.ones(2)))
    with Taps(net, ["inner"]) as taps:
        assert type(net(torch.ones(2))) is kind
    assert taps.values[0].tolist() == [2.0, 2.0]
    with replaced(net, {"inner": lambda a: a * 10}):
        out = net(torch.ones(2))
    assert type(out) is kind
    first = next(v for v in (out.values() if isinstance(out, dict) else out) if isinstance(v, Tensor))
    assert first.tolist() == [20.0, 20.0]


def test_a_layer_without_a_tensor_is_named() -> None:
    class Counting(nn.Module):
        def forward(self, x: Tensor) -> int:
            return len(x)

    model = nn.Sequential(OrderedDict(count=Counting()))
    with (
        pytest.raises(JostleError, match="layer 'count' returns a int that holds no tensor"),
        Taps(model, ["count"]),
    ):
        model(X)


def test_segmentation_networks_that_return_dictionaries() -> None:
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None
    ).eval()
    with torch.no_grad(), Taps(model, ["backbone", "classifier"]) as taps:
        out = model(X)
    assert set(out) == {"out"} and [value.ndim for value in taps.values] == [4, 4]


@pytest.mark.study
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_stays_behind(error: type[BaseException]) -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    for where in ("activation", "conv"):
        with (
            pytest.raises(error),
            Taps(model, where),
            replaced(model, {"layer1": lambda a: a}),
            frozen(model),
        ):
            assert hooks(model) > 0
            raise error
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_taps_go_on_after_an_exception_inside_the_network(error: type[BaseException]) -> None:
    class Fragile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.broken = nn.Linear(2, 2), False

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if self.broken:
                raise error
            return y

    model = Fragile()
    with Taps(model, ["a"]) as taps:
        model.broken = True
        with pytest.raises(error):
            model(torch.ones(1, 2))
        model.broken = False
        model(torch.ones(1, 2))
        assert taps.names == ["a"] and len(taps.values) == 1
    assert hooks(model) == 0


def test_taps_may_be_entered_again() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    taps = Taps(model, ["0"])
    for _ in range(2):
        with taps:
            model(torch.ones(1, 2))
        assert len(taps.values) == 1 and hooks(model) == 0


@pytest.mark.study
def test_a_reduction_keeps_only_what_it_returns() -> None:
    model = torchvision.models.resnet18(weights=None).eval()
    with (
        torch.no_grad(),
        Taps(model, "activation", reduce=lambda a: float(a.double().square().mean())) as taps,
    ):
        model(X)
    assert len(taps.values) == 17 and all(isinstance(value, float) for value in taps.values)


def test_replaced_is_undone_and_composes() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    with replaced(model, {"0": lambda a: a + 1, "1": lambda a: a * 3}):
        assert model(torch.ones(1)).tolist() == [6.0]
        with replaced(model, {"1": lambda a: -a}):
            assert model(torch.ones(1)).tolist() == [-6.0]
    assert model(torch.ones(1)).tolist() == [1.0] and hooks(model) == 0
    with pytest.raises(JostleError, match="no layer '7'"), replaced(model, {"7": lambda a: a}):
        pass


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_frozen_restores_every_flag(error: type[BaseException] | None) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes = [child.training for child in model.modules()]
    flags = [weight.requires_grad for weight in model.parameters()]
    try:
        with frozen(model) as same:
            assert same is model and not any(child.training for child in model.modules())
            assert not any(weight.requires_grad for weight in model.parameters())
            if error is not None:
                raise error
    except (ValueError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert [child.training for child in model.modules()] == modes
    assert [weight.requires_grad for weight in model.parameters()] == flags


def test_when_is_pre_or_post() -> None:
    with pytest.raises(JostleError, match="when must be 'pre' or 'post'"):
        plain(Taps.__init__)(object.__new__(Taps), nn.ReLU(), when="after")


def test_the_first_tensor_is_exchanged_in_whatever_holds_it() -> None:
    Pair = namedtuple("Pair", "label value")
    old, new = torch.zeros(1), torch.ones(1)
    assert swap_first(old, new) is new
    assert swap_first([None, old], new) == [None, new]
    assert swap_first(Pair("a", old), new) == Pair("a", new)
    kept = {"rest": 1, "out": old}
    assert swap_first(kept, new) == {"rest": 1, "out": new} and kept["out"] is old
