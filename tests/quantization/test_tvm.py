"""Apache TVM against the reference: not one element differs, weights of 4 bits packed two to a byte."""

import numpy as np
import pytest
import torch
from quantization.nets import Branches, Moved, Tiny, pictures, seeded

from jostle.core.errors import MissingExtra
from jostle.quantization import QuantConfig, deploy, quantize, to_integer, verify_engine
from jostle.quantization.integer import to_pixels
from jostle.quantization.tvm_engine import pack


def test_half_bytes() -> None:
    draw = np.random.default_rng(0)
    weight = draw.integers(-8, 8, 101)
    packed = pack(weight)
    assert packed.nbytes == 51
    halves = np.stack([packed & 15, packed >> 4], 1).reshape(-1)[:101].astype(int)
    assert bool((((halves ^ 8) - 8) == weight).all())


def test_without_tvm_the_extra_is_named() -> None:
    integers = to_integer(quantize(seeded(Tiny), pictures(2, 1, 28, 28)))
    try:
        import tvm  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtra, match=r"pip install 'jostle\[tvm\]'"):
            deploy(integers, "tvm")
    else:
        assert deploy(integers, "tvm").name == "tvm"


@pytest.mark.slow
@pytest.mark.parametrize("build", [Branches, Tiny, Moved])
@pytest.mark.parametrize(
    "config",
    [
        QuantConfig(),
        QuantConfig(weight_bits=4, act_bits=4),
        QuantConfig(residual_bits=16, multiplier="dyadic31", rounding="half_up"),
        QuantConfig(act_mode="symmetric", rounding="truncate"),
    ],
    ids=["default", "4 bits", "stream of 16 bits", "symmetric"],
)
def test_no_element_differs(build: type, config: QuantConfig) -> None:
    pytest.importorskip("tvm", reason="Apache TVM is not installed: pip install 'jostle[tvm]'")
    images = pictures(2, *build.input_shape)
    integers = to_integer(quantize(seeded(build), images, config))
    engine = deploy(integers, "tvm")
    found = verify_engine(integers, engine, to_pixels(images))
    assert found.exact, found.numbers()
    weights = sum(node.weight.numel() for node in integers.nodes if node.kind == "layer")
    odd = sum(node.weight.numel() % 2 for node in integers.nodes if node.kind == "layer")
    assert engine.packed_bytes == ((weights + odd) // 2 if config.weight_bits == 4 else weights)
    assert torch.equal(engine.run(to_pixels(images)), integers.run(to_pixels(images)))
