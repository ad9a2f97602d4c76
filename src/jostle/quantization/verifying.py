"""Proof that an engine and the reference agree on every number of every tensor, and the audit of a model."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.quantization.engines import Deployed
from jostle.quantization.integer import TENSORS, IntegerModel
from jostle.quantization.lowering import INT32
from jostle.quantization.onnx_export import certified


@dataclass(frozen=True)
class Verification:
    """What a comparison found: mismatching elements and all elements, by tensor.

    `deployed`: mismatches of the output of the graph that is deployed, whose engine may fuse what the watched one
    does not.
    """

    engine: str
    mismatches: dict[str, int]
    elements: dict[str, int]
    deployed: int
    images: int

    @property
    def exact(self) -> bool:
        """Whether not one element differs."""
        return self.deployed == 0 and not any(self.mismatches.values())

    def numbers(self) -> dict[str, Any]:
        """The comparison in few numbers; the first tensors that differ by name."""
        wrong = {name: count for name, count in self.mismatches.items() if count}
        return {
            "engine": self.engine,
            "images": self.images,
            "tensors": len(self.elements),
            "elements": sum(self.elements.values()),
            "mismatches": sum(wrong.values()) + self.deployed,
            "exact": self.exact,
            **{f"mismatches in {name}": count for name, count in list(wrong.items())[:5]},
        }


def verify_engine(
    model: IntegerModel, deployed: Deployed, pixels: UInt8[Tensor, "batch channels height width"]
) -> Verification:
    """Compare every tensor of an engine with the 64-bit reference, element by element.

    **Arguments:** `model`: the reference. `deployed`: the engine. `pixels`: 8-bit images.
    **Returns:** a [`Verification`][jostle.quantization.Verification]; `exact` if not one element differs.
    **Raises:** `JostleError` if the engine hands out no tensor of the model or one of another shape.
    """
    wanted = model.tensors(pixels)
    found = deployed.tensors(pixels)
    require(model.output in found, f"the engine hands out no tensor {model.output!r}")
    mismatches, elements = {}, {}
    for name, value in found.items():
        require(
            name in wanted and wanted[name].shape == value.shape,
            f"the engine's tensor {name!r} of shape {tuple(value.shape)} is none of the model",
        )
        mismatches[name] = int((wanted[name] != value).sum())
        elements[name] = value.numel()
    last = int((deployed.run(pixels) != wanted[model.output]).sum())
    return Verification(deployed.name, mismatches, elements, last, len(pixels))


@dataclass(frozen=True)
class Audit:
    """What was found in an integer model: `floats` names anything real that inference would read.

    `bound`: the largest accumulator that any input could make, of 2^31 - 1. `certified`: engines in float32 are
    exact for every input, by theorem. `bits`: of the weights, by layer.
    """

    floats: tuple[str, ...]
    bound: int
    bound_at: str
    certified: bool
    bits: dict[str, int]

    @property
    def integer_only(self) -> bool:
        """Whether no real number is read and no accumulator can overflow."""
        return not self.floats and self.bound <= INT32


def audit(model: IntegerModel) -> Audit:
    """Look for real numbers in what inference reads, and bound every accumulator over all possible inputs.

    **Raises:** `JostleError` if weights lie outside of their bits, or an accumulator could overflow.
    """
    floats, bound, where = [], 0, ""
    for node in model.nodes:
        for key in TENSORS:
            tensor = getattr(node, key)
            if tensor is not None and tensor.is_floating_point():
                floats.append(f"{node.name}.{key}")
        if node.weight is None or node.bias is None:
            continue
        half = 2 ** (node.bits - 1)
        inside = int(node.weight.min()) >= -half and int(node.weight.max()) < half
        require(inside, f"weights of {node.name!r} lie outside of {node.bits} bits")
        source = model[node.inputs[0]]
        reach = max(source.upper - node.zeros[0], node.zeros[0] - source.lower)
        # Maximum pooling and clamps narrow codes, never widen them; the grid of the source bounds all of them.
        top = int((node.weight.abs().flatten(1).sum(1) * reach + node.bias.abs()).max())
        if top > INT32:
            raise JostleError(f"the accumulator of {node.name!r} could reach {top:,}, more than 32 bits hold")
        if top > bound:
            bound, where = top, node.name
    bits = {node.name: node.bits for node in model.nodes if node.kind == "layer"}
    return Audit(tuple(floats), bound, where, certified(model), bits)
