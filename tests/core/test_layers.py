"""Finding layers in the networks that people use."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as zoo
from helpers import plain
from torch import Tensor, nn

from jostle import JostleError, Taps
from jostle.core.layers import Tap, find, is_activation


def names(model: nn.Module, where: object) -> list[str]:
    return [tap.name for tap in find(model, where)]  # type: ignore[arg-type]


@pytest.mark.study
@pytest.mark.parametrize(
    ("build", "convs", "activations", "blocks"),
    [
        (zoo.resnet18, 20, 17, 8),  # 16 in blocks and the stem; the 3 shortcuts have none of their own
        (zoo.resnet50, 53, 49, 16),
        (zoo.vgg11, 8, 8, 0),
        (zoo.vgg16_bn, 13, 13, 0),
        (zoo.mobilenet_v2, 52, 35, 17),
        (zoo.mobilenet_v3_small, 52, 23, 11),
        (zoo.densenet121, 120, 117, 58),
        (zoo.squeezenet1_1, 26, 26, 8),
    ],
)
def test_the_layers_of_well_known_networks(build, convs: int, activations: int, blocks: int) -> None:
    model = build(weights=None).eval()
    assert len(find(model, "conv")) == convs
    assert len(find(model, "activation")) == activations
    if blocks:
        assert len(find(model, "block")) == blocks
    else:
        with pytest.raises(JostleError, match="matched no layer of VGG"):
            find(model, "block")


def test_efficientnet_lite0() -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch")
    model = network.EfficientNet.from_name("efficientnet-lite0").eval()
    assert [len(find(model, kind)) for kind in ("activation", "block", "conv", "norm")] == [33, 16, 49, 49]
    with torch.no_grad(), Taps(model, "activation", reduce=lambda a: float(a.min())) as taps:
        model(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert len(taps.values) == 33 and min(taps.values) == 0.0 and len(set(taps.names)) == 33


def test_functional_activations_are_taken_after_the_module_they_follow() -> None:
    model = zoo.googlenet(weights=None, init_weights=False, aux_logits=False).eval()
    taps = find(model, "activation")
    assert len(taps) == 57 == len(find(model, "conv")) and all(tap.after is not None for tap in taps)
    x = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), Taps(model, "activation") as watched, Taps(model, ["conv1.bn"]) as raw:
        model(x)
    assert all(float(value.min()) >= 0 for value in watched.values)
    torch.testing.assert_close(watched.values[0], raw.values[0].relu(), rtol=0, atol=0)


def test_a_transformer_has_blocks_and_no_convolution_with_an_activation() -> None:
    model = zoo.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32
    ).eval()
    assert names(model, "block") == [f"encoder.layers.encoder_layer_{i}" for i in range(3)]
    with pytest.raises(JostleError, match="block"):
        find(model, "activation")
    with Taps(model, "block", reduce=lambda a: tuple(a.shape)) as taps:
        model(torch.zeros(2, 3, 32, 32))
    assert taps.values == [(2, 17, 16)] * 3


def test_the_gates_of_squeeze_and_excitation_are_passed_over() -> None:
    found = names(zoo.mobilenet_v3_small(weights=None).eval(), "activation")
    assert found and not any(
        ".fc" in name or "activation" in name.split(".")[-1] or "scale" in name for name in found
    )


def test_a_network_of_linear_layers() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 1))
    assert names(model, "activation") == ["1", "3"] and names(model, "linear") == ["0", "2", "4"]


def test_one_activation_module_that_is_called_twice_gives_two_taps() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.act = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.b(self.act(self.a(x))))

    assert find(Reused(), "activation") == [Tap("act", 0), Tap("act", 1)]


def test_only_the_call_that_follows_a_convolution_is_tapped() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.act = nn.Conv2d(1, 2, 1), nn.Linear(2, 2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.head(self.act(self.conv(x)).mean((2, 3))))

    with Taps(Half(), "activation", reduce=lambda a: a.ndim) as taps:
        Half()(torch.zeros(1, 1, 4, 4))
        taps.module(torch.zeros(1, 1, 4, 4))
    assert taps.names == ["act"] and taps.values == [4]


def test_a_network_that_cannot_be_traced_goes_by_the_order_of_its_modules() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(self.conv(x))) if bool(x.sum() > 0) else x

    assert find(Branching(), "activation") == [Tap("act")]


@pytest.mark.parametrize("form", ["function", "method", "inplace", "positional", "torch"])
def test_every_way_to_write_a_relu(form: str) -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if form == "function":
                return F.relu(y)
            if form == "method":
                return y.relu_()
            if form == "inplace":
                return F.relu(y, inplace=True)
            if form == "positional":
                return F.relu(y, True)
            return torch.relu(y)

    model = Written()
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    wanted = model.conv(x).relu()
    with Taps(model, "activation") as taps:
        out = model(x)
    torch.testing.assert_close((taps.values[0], out), (wanted, wanted), rtol=0, atol=0)


def test_names_and_rules() -> None:
    model = zoo.resnet18(weights=None)
    assert names(model, ["layer1.0", "fc"]) == ["layer1.0", "fc"]
    assert names(model, lambda name, module: name.startswith("layer4") and isinstance(module, nn.Conv2d)) == [
        "layer4.0.conv1", "layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv1", "layer4.1.conv2"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (["layer1.0.conv3"], r"no layer 'layer1.0.conv3'; near it are layer1.0.conv"),
        (["zzz"], r"the model has no layer 'zzz'$"),
        (lambda name, module: False, "where matched no layer"),
        ("pool", "where must be conv, linear, norm, activation, block"),
        ([], "where must name at least one layer"),
    ],
)
def test_what_is_not_there_is_said(where, message: str) -> None:
    with pytest.raises(JostleError, match=message):
        plain(find)(zoo.resnet18(weights=None), where)


def test_what_counts_as_an_activation() -> None:
    assert is_activation(nn.ReLU6()) and is_activation(nn.PReLU())
    assert not any(is_activation(m) for m in (nn.Sigmoid(), nn.Softmax(1), nn.Dropout(), nn.Conv2d(1, 1, 1)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "activations", "blocks"),
    [
        ("efficientnet_lite0", 33, 15),  # its first block is of another kind
        ("resnetv2_50", 48, 16),
        ("mobilenetv3_small_050", 24, 10),
        ("regnetx_002", 40, 13),
        ("swin_tiny_patch4_window7_224", 0, 12),
        ("convnext_atto", 12, 12),
        ("vit_tiny_patch16_224", 0, 12),
    ],
)
def test_the_layers_of_timms_networks(name: str, activations: int, blocks: int) -> None:
    model = pytest.importorskip("timm").create_model(name, pretrained=False).eval()
    assert len(find(model, "block")) == blocks
    if activations:
        assert len(find(model, "activation")) == activations


class NormAct(nn.BatchNorm2d):
    """A normalisation that ends in its activation, as timm builds them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class Fused(nn.Module):
    """Three convolutions, the last without an activation; traceable or not."""

    def __init__(self, branch: bool) -> None:
        super().__init__()
        self.branch = branch
        self.a, self.norm_a = nn.Conv2d(1, 2, 1), NormAct(2)
        self.b, self.norm_b = nn.Conv2d(2, 2, 1), NormAct(2)
        self.c = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.branch and not bool(x.isfinite().all()):
            return x
        return self.c(self.norm_b(self.b(self.norm_a(self.a(x)))))


def test_activations_inside_normalisations() -> None:
    model = Fused(branch=False).eval()
    assert names(model, "activation") == ["norm_a", "norm_b"]
    x = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    with Taps(model, "activation") as taps:
        model(x)
    first = model.norm_a(model.a(x))
    torch.testing.assert_close(taps.values, [first, model.norm_b(model.b(first))], rtol=0, atol=0)
    assert names(Fused(branch=True), "activation") == ["norm_a", "norm_b"]


def test_a_stage_of_blocks_is_not_a_block() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

    class Stage(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*[Block() for _ in range(depth)])

    class Decoder(nn.Module):  # two attentions side by side are parts of one block
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = Block(), Block(), nn.Linear(2, 2)

    staged = nn.Sequential(Stage(1), Stage(2), Stage(3))
    assert names(staged, "block") == [
        "0.blocks.0",
        "1.blocks.0",
        "1.blocks.1",
        *(f"2.blocks.{i}" for i in range(3)),
    ]
    assert names(nn.Sequential(Decoder(), Decoder()), "block") == ["0", "1"]
