"""What the command line offers: quantise, weigh, allocate, verify and time a user's own network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, optional, require
from jostle.files import whole
from jostle.quantization import allocation, convert, sensitivities
from jostle.quantization.allocation import Plan
from jostle.quantization.correction import correct_bias
from jostle.quantization.costs import cost_table, stopwatch
from jostle.quantization.engines import EngineName, deploy, session
from jostle.quantization.integer import IntegerModel, to_pixels
from jostle.quantization.machine import machine
from jostle.quantization.network import QuantConfig, Quantised
from jostle.quantization.onnx_export import onnx_graph
from jostle.quantization.onnx_float import float_graph
from jostle.quantization.quantisers import Calibration
from jostle.quantization.sensitivities import Method, Sensitivity
from jostle.quantization.verifying import Verification, audit, verify_engine
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Exported:
    """A network in integers, verified on the engine; `save` writes the ONNX file and the integers beside it."""

    suffix: ClassVar[str] = ".onnx"

    model: IntegerModel
    graph: Any = field(repr=False)
    verification: Verification
    agreement: float
    images: int
    plan: Plan | None = None

    def numbers(self) -> dict[str, Any]:
        """What was made and what was proven."""
        found = audit(self.model)
        rows: dict[str, Any] = {
            **self.model.numbers(),
            "integer only": found.integer_only,
            "exact on float32 engines by theorem": found.certified,
            "largest accumulator": found.bound,
            **self.verification.numbers(),
            f"agreement with the network on {self.images} images (percent)": self.agreement,
        }
        if self.plan is not None:
            rows |= {f"{kind} used": value for kind, value in self.plan.used.items()}
            rows |= {f"note {i + 1}": note for i, note in enumerate(self.plan.notes)}
        return rows | {f"change {i + 1}": note for i, note in enumerate(self.model.notes)}

    def save(self, path: Path) -> None:
        """Write `NAME.onnx` for the engine, and `NAME.npz`, which `verify` and `load` read."""
        path = Path(path)
        with whole(path) as draft:
            draft.write_bytes(self.graph.SerializeToString())
        self.model.save(path.with_suffix(".npz"))


def quantize(
    model: nn.Module,
    data: Images,
    *,
    bits: Literal["2", "3", "4", "5", "6", "7", "8", "mixed"] = "8",
    act_bits: int = 8,
    size_mb: float | None = None,
    bops_g: float | None = None,
    latency_ms: float | None = None,
    method: Method = "fisher",
    calibration: Calibration = "minmax",
    images: int = 64,
    check: int = 4,
    seed: int = 0,
    cache: Path | None = None,
    callback: Progress | None = None,
) -> Exported:
    """Turn a trained network into integers, prove the engine exact on every tensor, and write it as ONNX.

    **Arguments:** `model`: a trained convolutional network of [0, 1] images. `data`: images like those it
    will see; labels are not used. `bits`: of the weights of every layer; `mixed` gives each 4 or 8, by the
    integer program within `size_mb`, `bops_g` or `latency_ms`. `act_bits`: of activations, 2 to 8. `size_mb`:
    limit of the weights' size, in MiB, for mixed bits; None sets none. `bops_g`: limit of an image's bit
    operations, in 10^9, for mixed bits; None sets none. `latency_ms`: limit of an image's time in
    onnxruntime, in ms, a sum over layers, for mixed bits; None sets none. `method`: with mixed bits, how the
    sensitivity is found: from `fisher` information, taken for isotropic or not (`fisher_quadratic`), the
    `hessian`, the outputs' divergence (`kl`), the growth of the `loss`, or the `error` of the weights.
    `calibration`: how the ranges of activations are found: the extremes (`minmax`), their moving averages
    (`ema`), percentiles (`percentile`), or the least rounding error (`mse`). `images`: to calibrate on,
    spread evenly, at least 1; biases are corrected and sensitivities measured on them. `check`: how many more
    images are compared, element by element. `seed`: with mixed bits, of the draws behind the sensitivity.
    `cache`: a JSON file that keeps the layers' times, for `latency_ms`; None times them anew.
    """
    network, seen, held = _calibrated(
        model, data, images, check, QuantConfig(act_bits=act_bits, calibration=calibration)
    )
    plan = None
    if bits == "mixed":
        plan = _plan(
            network, seen, size_mb, bops_g, latency_ms, method, (4, 8), seed, act_bits, cache, callback
        )
        network.set_bits(plan.bits)
    else:
        limits = [
            name
            for name, value in (("size_mb", size_mb), ("bops_g", bops_g), ("latency_ms", latency_ms))
            if value
        ]
        require(not limits, f"{(limits or [''])[0]} limits mixed bits only; add --bits mixed")
        network.set_bits(dict.fromkeys(network.weight_bits, int(bits)))
    integers = convert.to_integer(correct_bias(network, seen))
    found = verify_engine(integers, deploy(integers), to_pixels(held[:check]))
    with torch.no_grad():
        same = integers.logits(held[:check]).flatten(1).argmax(1) == model(held[:check]).flatten(1).argmax(1)
    share = 100 * float(same.double().mean())
    return Exported(integers, onnx_graph(integers), found, share, min(check, len(held)), plan)


def sensitivity(
    model: nn.Module,
    data: Images,
    *,
    method: Method = "fisher",
    bits: tuple[int, ...] = (4, 8),
    images: int = 64,
    probes: int = 32,
    seed: int = 0,
    callback: Progress | None = None,
) -> Sensitivity:
    """How much the loss suffers from rounding each layer of a network, with standard errors.

    **Arguments:** `model`: a trained convolutional network of [0, 1] images. `data`: images like those it
    will see; for `hessian` and `loss` labels count, where there are as many classes as outputs. `method`: how
    the sensitivity is found: from `fisher` information, taken for isotropic or not (`fisher_quadratic`), the
    `hessian`, the outputs' divergence (`kl`), the growth of the `loss`, or the `error` of the weights; the
    paper's is `hessian`, and `fisher` is positive and less noisy. `bits`: candidate widths of the weights.
    `images`: how many the sensitivity is measured on, spread evenly, at least 1. `probes`: of `hessian`, 2 or
    more; fewer are drawn where they suffice. `seed`: of the probes and of the classes that `fisher` draws.
    """
    network, *_ = _calibrated(model, data, images, 0, QuantConfig())
    chosen = _spread(data, images)
    x, y = data.subset(chosen).tensors()
    draw = torch.Generator().manual_seed(seed)
    labels = y if len(data.classes) == network.program[network.program.output].shape[0] else None
    return sensitivities.sensitivity(
        network, x, labels, method=method, bits=bits, probes=probes, generator=draw, callback=callback
    )


def allocate(
    model: nn.Module,
    data: Images,
    *,
    size_mb: float | None = None,
    bops_g: float | None = None,
    latency_ms: float | None = None,
    method: Method = "fisher",
    bits: tuple[int, ...] = (4, 8),
    images: int = 64,
    seed: int = 0,
    cache: Path | None = None,
    callback: Progress | None = None,
) -> Plan:
    """Choose bits for every layer of a network within limits of size, bit operations and measured latency.

    **Arguments:** `model`: a trained convolutional network of [0, 1] images. `data`: images like those it
    will see; labels are not used. `size_mb`: limit of the weights' size, in MiB; None sets none. `bops_g`:
    limit of an image's bit operations, in 10^9; None sets none. `latency_ms`: limit of an image's time in
    onnxruntime, in ms, a sum over layers; None sets none. `method`: how the sensitivity is found: from
    `fisher` information, taken for isotropic or not (`fisher_quadratic`), the `hessian`, the outputs'
    divergence (`kl`), the growth of the `loss`, or the `error` of the weights. `bits`: candidate widths of
    the weights; activations keep 8, and the first and the last layer the most. `images`: how many the
    sensitivity is measured on, spread evenly, at least 1. `seed`: of the draws behind the sensitivity.
    `cache`: a JSON file that keeps the layers' times, for `latency_ms`; None times them anew.
    """
    network, x, _ = _calibrated(model, data, images, 0, QuantConfig())
    return _plan(network, x, size_mb, bops_g, latency_ms, method, bits, seed, 8, cache, callback)


def verify(
    integers: IntegerModel,
    data: Images,
    *,
    onnx: Path | None = None,
    engine: EngineName = "onnxruntime",
    device: str = "cpu",
    images: int = 8,
) -> Verification:
    """Compare an engine with the 64-bit reference, element by element, on every tensor.

    **Arguments:** `integers`: the .npz file that `quantize` wrote. `data`: images to compare on. `onnx`: an
    exported file, whose output is compared too; None: the engine alone. `engine`: which engine runs the
    integers; `tvm` needs Apache TVM. `device`: where the engine `torch` runs, such as cpu or cuda; the others
    ignore it. `images`: how many are compared, spread evenly.
    """
    pixels = to_pixels(data.subset(_spread(data, images)).tensors()[0])
    require(
        tuple(pixels.shape[1:]) == integers.input_shape,
        f"the model wants images of shape {integers.input_shape}, but {tuple(pixels.shape[1:])} came",
    )
    found = verify_engine(integers, deploy(integers, engine, device=device), pixels)
    if onnx is None:
        return found
    wrong = int((_run_file(onnx, pixels) != integers.run(pixels)).sum())
    return Verification(
        found.engine,
        {**found.mismatches, str(onnx.name): wrong},
        found.elements,
        found.deployed,
        found.images,
    )


@dataclass(frozen=True)
class Bench:
    """Milliseconds of one call in onnxruntime (median, half-width of the 95 % interval), float32 and integers."""

    float_ms: float
    float_half_width: float
    integer_ms: float
    integer_half_width: float
    batch: int
    threads: int
    machine: str

    def numbers(self) -> dict[str, Any]:
        """The times and their ratio."""
        return {
            "float32 ms": self.float_ms, "± ": self.float_half_width,
            "integer ms": self.integer_ms, "±": self.integer_half_width,
            "integer / float32": self.integer_ms / self.float_ms,
            "batch": self.batch, "threads": self.threads, "machine": self.machine,
            "4-bit kernels": "none on this engine: weights of 4 bits save memory, not time",
        }  # fmt: skip


def bench(
    model: nn.Module, data: Images, *, batch: int = 1, threads: int = 1, repeats: int = 50, images: int = 16
) -> Bench:
    """Time a network in onnxruntime, in float32 and as 8-bit integers.

    **Arguments:** `model`: a trained convolutional network of [0, 1] images. `data`: images like those it
    will see; labels are not used. `batch`: images a timed call. `threads`: of onnxruntime. `repeats`: timed
    calls, whose median counts; at least 5. `images`: to calibrate on, spread evenly, at least 1.
    """
    network, *_ = _calibrated(model, data, images, 0, QuantConfig())
    integers = convert.to_integer(network)
    x = data.subset(_spread(data, min(batch, len(data)))).tensors()[0]
    x = x.repeat(-(-batch // len(x)), 1, 1, 1)[:batch]
    pixels = to_pixels(x)
    quick = deploy(integers, threads=threads)
    slow = session(float_graph(network), threads)
    real = {"pixels": pixels.float().numpy()}
    ours, theirs = (
        stopwatch(quick.prepared(pixels), repeats),
        stopwatch(lambda: slow.run(None, real), repeats),
    )
    return Bench(theirs[0], theirs[1], ours[0], ours[1], batch, threads, machine())


def _plan(
    network: Quantised,
    x: Tensor,
    size_mb: float | None,
    bops_g: float | None,
    latency_ms: float | None,
    method: Method,
    bits: tuple[int, ...],
    seed: int,
    act_bits: int,
    cache: Path | None,
    callback: Progress | None,
) -> Plan:
    costs = cost_table(network, bits=bits, act_bits=act_bits, measure=latency_ms is not None, cache=cache)
    draw = torch.Generator().manual_seed(seed)
    found = sensitivities.sensitivity(network, x, method=method, bits=bits, generator=draw, callback=callback)
    return allocation.allocate(found, costs, size_mb=size_mb, bops_g=bops_g, latency_ms=latency_ms)


def _calibrated(
    model: nn.Module, data: Images, images: int, check: int, config: QuantConfig
) -> tuple[Quantised, Tensor, Tensor]:
    """The network, calibrated; its calibration images; and others, where there are enough."""
    require(images >= 1, f"images must be at least 1, but {images} came")
    chosen = _spread(data, images)
    rest = sorted(set(range(len(data))) - set(chosen))
    held = (
        [rest[int(i)] for i in torch.linspace(0, len(rest) - 1, min(max(check, 1), len(rest)))]
        if rest
        else chosen
    )
    x = data.subset(chosen).tensors()[0]
    network = convert.quantize(model, x, config, images=images)
    return network, x, data.subset(held).tensors()[0]


def _spread(data: Images, count: int) -> list[int]:
    return [int(i) for i in torch.linspace(0, len(data) - 1, min(count, len(data)))]


def _run_file(path: Path, pixels: Tensor) -> Tensor:
    runtime = optional("onnxruntime", "quantization")
    require(path.is_file(), f"onnx names a file that does not exist: {path}")
    try:
        engine = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(engine.run(None, {"pixels": pixels.numpy()})[0]).long()
    except Exception as error:  # onnxruntime has many kinds of errors of its own
        raise JostleError(f"{path} does not run in onnxruntime: {str(error).splitlines()[0]}") from error
