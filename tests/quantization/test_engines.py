"""Engines against the reference: not one element differs; and a mutation makes verification fail."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from quantization.nets import Branches, Moved, Tiny, pictures, seeded
from torch import nn

from jostle.core.errors import JostleError
from jostle.quantization import (
    IntegerModel,
    QuantConfig,
    audit,
    deploy,
    export,
    float_graph,
    quantize,
    to_integer,
    verify_engine,
)
from jostle.quantization.engines import int_mm, session
from jostle.quantization.integer import Node, to_pixels
from jostle.quantization.onnx_export import onnx_graph

pytest.importorskip(
    "onnxruntime", reason="the default engine is not installed: pip install 'jostle[quantization]'"
)

NAMES = ("onnxruntime", "torch")


def made(
    model: nn.Module, shape: tuple[int, ...], config: QuantConfig | None = None
) -> tuple[IntegerModel, torch.Tensor]:
    images = pictures(2, *shape)
    return to_integer(quantize(model, images, config)), to_pixels(pictures(2, *shape, seed=1))


@pytest.mark.study
@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize(
    "config",
    [
        QuantConfig(),
        QuantConfig(act_mode="symmetric"),
        QuantConfig(weight_bits=4, act_bits=4),
        QuantConfig(act_mode="affine", weight_bits=3, act_bits=5),
    ],
    ids=["default", "symmetric", "4 bits", "3 and 5 bits"],
)
@pytest.mark.parametrize("build", [Branches, Tiny, Moved])
def test_no_element_differs(build: type[nn.Module], config: QuantConfig, engine: str) -> None:
    integers, pixels = made(seeded(build), build.input_shape, config)
    found = verify_engine(integers, deploy(integers, engine), pixels)
    assert found.exact and found.numbers()["mismatches"] == 0
    assert set(found.elements) == {node.name for node in integers.nodes}
    assert audit(integers).integer_only and audit(integers).certified


NETS = {
    "resnet18": (torchvision.models.resnet18, {}, 64),
    "resnet50": (torchvision.models.resnet50, {}, 64),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, {}, 64),
    "inception_v3": (torchvision.models.inception_v3, {"init_weights": False, "transform_input": True}, 96),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, {}, 64),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, {}, 64),
    "vgg11_bn": (torchvision.models.vgg11_bn, {}, 32),
}


@pytest.mark.study
@pytest.mark.parametrize("name", NETS)
def test_torchvisions_networks_unmodified(name: str) -> None:
    build, options, size = NETS[name]
    model = seeded(build, **options)
    if name == "vgg11_bn":  # its classifier is made for 7x7 features: 103 million weights say nothing more
        model.avgpool, model.classifier = (
            nn.Identity(),
            nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
    images = pictures(4, 3, size, size)
    network = quantize(model, images)
    integers = to_integer(network)
    pixels = to_pixels(pictures(2, 3, size, size, seed=1))
    for engine in NAMES:
        assert verify_engine(integers, deploy(integers, engine), pixels).exact
    assert audit(integers).integer_only and audit(integers).certified
    with torch.no_grad():
        error, spread = integers.logits(images) - model(images), model(images).std()
    assert float(error.square().mean().sqrt()) < 0.35 * float(spread)


@pytest.mark.study
def test_timms_efficientnet_lite0() -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'jostle[timm]'")
    model = seeded(timm.create_model, "tf_efficientnet_lite0", num_classes=10)
    integers, pixels = made(model, (3, 64, 64))
    assert verify_engine(integers, deploy(integers), pixels).exact


def by_hand(op: str, zero: int, **fields: object) -> IntegerModel:
    """A model of one operation on two channels of 8x8 codes, with multipliers of one half: every other sum a tie."""
    entry = Node("input", "input", (), (2, 8, 8), 0, 255, 7, 1.0)
    return IntegerModel(
        (entry, Node("out", op, ("input",), (2, 8, 8), 0, 255, zero, 1.0, (7,), **fields)), "out"
    )


@pytest.mark.parametrize("zero", [0, 3, 128, 129])
@pytest.mark.parametrize("engine", NAMES)
def test_ties_and_odd_zero_points(engine: str, zero: int) -> None:
    """On trained networks ties are rare; here half of all elements are ties, against even and odd zero points."""
    pixels = torch.randint(0, 256, (4, 2, 8, 8), generator=torch.Generator().manual_seed(zero)).to(
        torch.uint8
    )
    half = {"b": torch.tensor([2**15, 2**15]), "c": torch.tensor([16, 16]), "bias": torch.zeros(2).long()}
    mixing = torch.tensor([[1, 0], [3, -2]]).reshape(2, 2, 1, 1)
    models = [
        by_hand("conv", zero, weight=mixing, **half),
        by_hand("conv", zero, weight=torch.ones(2, 1, 1, 1).long(), groups=2, **half),
    ]
    summed = by_hand("add", zero, b=torch.tensor([2048, 2048]), c=torch.tensor(12))
    twice = replace(
        summed.nodes[1], inputs=("input", "input"), zeros=(7, 7), b=torch.tensor([2048 * 3, 2048 * 4])
    )
    models.append(replace(summed, nodes=(summed.nodes[0], twice)))
    for model in models:
        assert verify_engine(model, deploy(model, engine), pixels).exact, model.nodes[1].op


def test_a_stream_of_16_bits_runs_in_torch_and_is_refused_by_onnxruntime() -> None:
    integers, pixels = made(seeded(Tiny), Tiny.input_shape, QuantConfig(residual_bits=16))
    sums = [node for node in integers.nodes if node.op == "add"]
    assert sums and all(node.upper == 2**15 - 1 and node.lower == 0 for node in sums)
    assert verify_engine(integers, deploy(integers, "torch"), pixels).exact
    with pytest.raises(JostleError, match="kernels hold 8 bits, but .* has more"):
        deploy(integers)


def test_31_bits_agree_but_carry_no_certificate() -> None:
    integers, pixels = made(seeded(Branches), Branches.input_shape, QuantConfig(multiplier="dyadic31"))
    assert not audit(integers).certified
    assert verify_engine(integers, deploy(integers, "torch"), pixels).exact


def change(integers: IntegerModel, name: str, **fields: object) -> IntegerModel:
    nodes = tuple(replace(n, **fields) if n.name == name else n for n in integers.nodes)
    return replace(integers, nodes=nodes)


@pytest.mark.parametrize("engine", NAMES)
def test_mutations_are_found(engine: str) -> None:
    integers, pixels = made(seeded(Branches), Branches.input_shape)
    deployed = deploy(integers, engine)
    # Another rounding.
    truncated = verify_engine(replace(integers, rounding="truncate"), deployed, pixels)
    assert not truncated.exact and truncated.mismatches["first"] > 0
    # Padding with 0 instead of the zero point, which is not 0 here.
    assert integers["first"].zeros[0] != 0
    padded = deploy(change(integers, "first", zeros=(0,), bias=integers["first"].bias - integers["first"].zeros[0]
                           * integers["first"].weight.flatten(1).sum(1)), engine)  # fmt: skip
    wrong = verify_engine(integers, padded, pixels)
    assert wrong.mismatches["first"] > 0
    inside = (padded.tensors(pixels)["first"] == integers.tensors(pixels)["first"])[:, :, 1:-1, 1:-1]
    assert bool(inside.all())  # only the border differs: the mutation is what it says
    # One filter and one multiplier, by little.
    node = integers["second"]
    bump = torch.zeros_like(node.weight)
    bump[0] = 1  # a filter; a single weight may sit on a channel that is always 0
    assert not verify_engine(change(integers, "second", weight=node.weight + bump), deployed, pixels).exact
    multiplier = change(integers, "second", b=node.b + 40)
    assert not verify_engine(multiplier, deployed, pixels).exact


def test_an_overflow_of_32_bits_is_found() -> None:
    integers, pixels = made(seeded(Branches), Branches.input_shape)
    loud = change(integers, "head", bias=torch.full((5,), 2**31 - 10))
    with pytest.raises(JostleError, match="leaves 32 bits"):
        loud.run(pixels)
    with pytest.raises(JostleError, match="more than 32 bits hold"):
        audit(loud)


def test_the_audit_sees_real_numbers_and_wide_weights() -> None:
    integers, _ = made(seeded(Branches), Branches.input_shape)
    node = integers["second"]
    assert audit(change(integers, "second", weight=node.weight.double())).floats == ("second.weight",)
    assert not audit(change(integers, "second", bias=node.bias.float())).integer_only
    with pytest.raises(JostleError, match="lie outside of 4 bits"):
        audit(change(integers, "second", bits=4))


def test_the_graph_holds_no_float_but_exact_dyadics() -> None:
    onnx = pytest.importorskip("onnx")
    integers, _ = made(seeded(Branches), Branches.input_shape)
    graph = onnx_graph(integers).graph
    onnx.checker.check_model(onnx_graph(integers))
    for initial in graph.initializer:
        values = onnx.numpy_helper.to_array(initial)
        if values.dtype.kind == "f":
            assert values.dtype == np.float32 and bool((values * 2**16 == np.rint(values * 2**16)).all())
    inferred = onnx.shape_inference.infer_shapes(onnx_graph(integers))
    flows = [v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *graph.input, *graph.output)]
    assert flows and onnx.TensorProto.FLOAT not in flows
    assert {node.op_type for node in graph.node} <= {
        "Identity", "QLinearConv", "QLinearAdd", "MaxPool", "Concat", "Flatten", "MatMulInteger", "Add", "Clip",
    }  # fmt: skip


def test_other_roundings_are_not_for_onnxruntime(tmp_path) -> None:
    integers, pixels = made(seeded(Branches), Branches.input_shape, QuantConfig(rounding="half_up"))
    with pytest.raises(JostleError, match="rounds half to even, but the model rounds half_up"):
        export(integers, tmp_path / "m.onnx")
    assert verify_engine(integers, deploy(integers, "torch"), pixels).exact
    with pytest.raises(JostleError, match="engine must be onnxruntime, torch or tvm"):
        from helpers import plain

        plain(deploy)(integers, "other")


def test_exported_files_run_with_any_batch(tmp_path) -> None:
    import onnxruntime

    integers, _ = made(seeded(Branches), Branches.input_shape)
    export(integers, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    meta, engine = session.get_modelmeta().custom_metadata_map, deploy(integers)
    assert float(meta["output_scale"]) == integers[integers.output].scale
    for count in (1, 5):
        pixels = to_pixels(pictures(count, 3, 16, 16, seed=count))
        found = session.run(None, {"pixels": pixels.numpy()})[0]
        assert found.dtype == np.int32 and (found == integers.run(pixels).numpy()).all()
        assert torch.equal(engine.run(pixels), integers.run(pixels))
    with pytest.raises(JostleError, match=r"pixels must be uint8 of shape \(batch, 3, 16, 16\), but .* came"):
        engine.run(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_integer_products_are_exact_for_all_differences_of_codes() -> None:
    draw = torch.Generator().manual_seed(0)
    for m, k, n in [(1, 1, 1), (5, 27, 10), (40, 130, 9)]:
        left = torch.randint(-255, 256, (m, k), generator=draw)
        left[0, 0] = -255
        right = torch.randint(-128, 128, (k, n), generator=draw)
        assert torch.equal(int_mm(left, right).long(), left @ right)


def test_processors_without_dot_products_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    from jostle.quantization import machine

    old = {"model name": "Old", "flags": "sse avx2"}
    monkeypatch.setattr(machine, "_described", lambda: old)
    assert machine.saturates() and machine.machine() == "Old, without 8-bit dot products"
    integers, _ = made(seeded(Tiny), Tiny.input_shape)
    with pytest.warns(UserWarning, match="use weight_bits=7"):
        deploy(integers)
    # 7 bits are what pairs of products of unsigned codes leave room for in 16 bits; 8 bits are not.
    narrow, _ = made(seeded(Tiny), Tiny.input_shape, QuantConfig(weight_bits=7))
    deploy(narrow)
    reach = max(int(node.weight.abs().max()) for node in narrow.nodes if node.kind == "layer")
    assert 2 * 255 * reach <= 2**15 - 1 < 2 * 255 * 127
    monkeypatch.setattr(machine, "_described", lambda: old | {"flags": "avx512_vnni"})
    deploy(integers)
    monkeypatch.setattr(machine, "_described", dict)
    assert not machine.saturates() and machine.machine()


@pytest.mark.parametrize("build", [Branches, Tiny, Moved])
def test_the_floating_point_graph_is_the_network(build: type[nn.Module]) -> None:
    """What our integers are timed against, and what peers quantise."""
    images = pictures(4, *build.input_shape)
    network = quantize(seeded(build), images)
    found = session(float_graph(network)).run(None, {"pixels": (255 * images).numpy()})[0]
    with torch.no_grad():
        wanted = network.float_forward(images)
    assert float((torch.from_numpy(found) - wanted).abs().max()) < 1e-4 * max(1.0, float(wanted.abs().max()))
