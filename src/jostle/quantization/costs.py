"""What bits cost: size, bit operations, and time measured on the engine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from jostle.core.errors import require
from jostle.files import read_json, write_json
from jostle.quantization.convert import to_integer
from jostle.quantization.engines import EngineName, deploy
from jostle.quantization.integer import IntegerModel, Node
from jostle.quantization.machine import machine
from jostle.quantization.network import Quantised
from jostle.quantization.program import PASSING

MIB = 2**20


@dataclass(frozen=True)
class CostTable:
    """Costs a layer and width: `size` in MiB, `bops` in 10^9, `latency` in ms with the half-width of its 95 %
    interval (None where it was not measured).

    `ties`: groups of layers that read one activation. `engine_bits`: widths that the engine has kernels for.
    """

    layers: tuple[str, ...]
    bits: tuple[int, ...]
    params: tuple[int, ...]
    macs: tuple[int, ...]
    size: Float[np.ndarray, "layers bits"]
    bops: Float[np.ndarray, "layers bits"]
    latency: Float[np.ndarray, "layers bits"] | None = None
    half_width: Float[np.ndarray, "layers bits"] | None = None
    engine: str = ""
    engine_bits: tuple[int, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()

    def table(self, kind: str) -> Float[np.ndarray, "layers bits"]:
        """One of `size`, `bops`, `latency`.

        **Raises:** `JostleError` if latency was not measured.
        """
        found = getattr(self, kind)
        require(found is not None, f"{kind} was not measured; call cost_table with measure=True")
        return found

    def tables(self) -> dict[str, Float[np.ndarray, "layers bits"]]:
        """All that there are."""
        found = {kind: getattr(self, kind) for kind in ("size", "bops", "latency")}
        return {kind: table for kind, table in found.items() if table is not None}


def cost_table(
    network: Quantised,
    *,
    bits: Sequence[int] = (4, 8),
    act_bits: int | None = None,
    measure: bool = False,
    engine: EngineName = "onnxruntime",
    batch: int = 1,
    repeats: int = 30,
    cache: Path | None = None,
    callback: Callable[[int, int, str], None] | None = None,
) -> CostTable:
    """Size and bit operations of every layer and width, and the time of every distinct shape on an engine.

    `size = n b / 8`, `BOPS = b_w b_a MACs`. A layer's time is that of a model of it alone. CPUs have no fast
    products of 4 bits: there all widths cost what 8 bits cost, and the table says so in `engine_bits`.

    **Arguments:** `network`: calibrated. `bits`: candidate widths of the weights. `act_bits`: of the activations;
    None: they follow the weights, and layers that read one activation are tied. `measure`: time the layers.
    `batch`, `repeats`: of the timing. `cache`: a JSON file that times are read from and kept in, by engine, version,
    processor and shape; take times on a quiet machine, for they stay.
    """
    names, bits = network.program.names, tuple(sorted({int(b) for b in bits}))
    params = [network.layer(n).weight.numel() for n in names]
    macs = [network.program.macs(n) for n in names]
    size = np.array([[n * b / 8 / MIB for b in bits] for n in params])
    bops = np.array([[b * (b if act_bits is None else act_bits) * m / 1e9 for b in bits] for m in macs])
    latency = half = None
    if measure:
        integers = to_integer(network)
        known: Any = read_json(cache) if cache is not None and Path(cache).exists() else {}
        require(isinstance(known, dict), f"cache {cache} holds something else than times of layers")
        rows = []
        for k, name in enumerate(names):
            alone = single(integers, name)
            key = _key(alone, engine, batch, repeats)
            if key not in known:
                known[key] = timed(alone, engine, batch, repeats)
                if cache is not None:
                    write_json(Path(cache), known)
            rows.append(known[key])
            if callback is not None:
                callback(k + 1, len(names), "layers timed")
        latency = np.repeat(np.array([[ms] for ms, _ in rows]), len(bits), 1)
        half = np.repeat(np.array([[h] for _, h in rows]), len(bits), 1)
    return CostTable(
        tuple(names), bits, tuple(params), tuple(macs), size, bops, latency, half,
        engine if measure else "", (8,) if measure else (), sharing(network) if act_bits is None else (),
    )  # fmt: skip


def _key(alone: IntegerModel, engine: EngineName, batch: int, repeats: int) -> str:
    """What a layer's time depends on."""
    node = alone.nodes[-1]
    assert node.weight is not None
    version = import_module({"torch": "torch", "tvm": "tvm"}.get(engine, "onnxruntime")).__version__
    return (
        f"{engine} {version}, {machine()}, batch {batch}, {repeats} repeats: {alone.input_shape} by "
        f"{tuple(node.weight.shape)}, stride {node.stride}, padding {node.padding}, dilation {node.dilation}, "
        f"groups {node.groups}, {'accumulator' if node.b is None else 'codes'}"
    )


def sharing(network: Quantised) -> tuple[tuple[str, ...], ...]:
    """Groups of layers that read one quantised activation, through steps that only move it."""
    readers: dict[str, list[str]] = {}
    for step in network.program.steps:
        if step.name in network.weight_bits:
            source = network.program[step.inputs[0]]
            while source.op in PASSING:
                source = network.program[source.inputs[0]]
            readers.setdefault(source.name, []).append(step.name)
    return tuple(tuple(group) for group in readers.values() if len(group) > 1)


def single(model: IntegerModel, name: str) -> IntegerModel:
    """A model of one layer: codes in, codes out."""
    node = model[name]
    source = model[node.inputs[0]]
    shape = source.shape if len(source.shape) == 3 else (source.shape[0], 1, 1)
    entry = Node("input", "input", (), shape, 0, 255, node.zeros[0], source.scale)
    if len(source.shape) == 3:
        return IntegerModel((entry, replace(node, inputs=("input",))), name)
    flat = Node("flat", "flatten", ("input",), source.shape, 0, 255, node.zeros[0], source.scale, node.zeros)
    return IntegerModel((entry, flat, replace(node, inputs=("flat",))), name)


def prefix(model: IntegerModel, name: str) -> IntegerModel:
    """The model up to one tensor."""
    needed, nodes = {name, model.nodes[0].name}, []
    for node in reversed(model.nodes):
        if node.name in needed:
            needed |= set(node.inputs)
            nodes.append(node)
    return IntegerModel(tuple(reversed(nodes)), name, model.rounding)


def timed(
    model: IntegerModel, engine: EngineName = "onnxruntime", batch: int = 1, repeats: int = 30
) -> tuple[float, float]:
    """Milliseconds of one call: the median of repeats, and the half-width of its 95 % interval by order statistics."""
    deployed = deploy(model, engine)
    pixels = torch.randint(
        0, 256, (batch, *model.input_shape), generator=torch.Generator().manual_seed(0)
    ).to(torch.uint8)
    return stopwatch(deployed.prepared(pixels), repeats)


def stopwatch(work: Callable[[], Any], repeats: int = 30, warm: int = 3) -> tuple[float, float]:
    """Median milliseconds of `work` and the half-width of its 95 % interval (normal order statistics)."""
    require(repeats >= 5, f"repeats must be at least 5, but {repeats} came")
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append((time.perf_counter() - begun) * 1e3)
    times.sort()
    half = 0.98 * repeats**0.5
    low = times[max(0, int(repeats / 2 - half))]
    high = times[min(repeats - 1, int(repeats / 2 + half))]
    return float(np.median(times)), (high - low) / 2


def additivity(
    network: Quantised, costs: CostTable, *, points: int = 6, batch: int = 1, repeats: int = 30
) -> list[tuple[float, float]]:
    """Sums of layers' times against measured times of growing parts of the network: what additive latency is worth.

    **Returns:** `points` pairs (sum, measured) in ms; the last is the whole network.
    """
    integers = to_integer(network)
    table = costs.table("latency")
    at = {name: float(table[i, -1]) for i, name in enumerate(costs.layers)}
    chosen = [
        costs.layers[i] for i in np.unique(np.linspace(0, len(costs.layers) - 1, points).round().astype(int))
    ]
    pairs = []
    for name in chosen:
        part = prefix(integers, integers.output if name == chosen[-1] else name)
        total = sum(at[node.name] for node in part.nodes if node.name in at)
        pairs.append((total, timed(part, "onnxruntime", batch, repeats)[0]))
    return pairs
