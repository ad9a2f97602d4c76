"""`jostle.quantization` beside onnxruntime's float32, onnxruntime's own quantiser, and OpenVINO int8 by NNCF.

    python benchmarks/quantization.py [--images FOLDER_OR_ZIP]

One process pinned to one core, one run: EfficientNet-Lite0 with its real weights, calibrated on the same 64 photographs
for everybody, min-max, weights per channel. The peers quantise the same floating-point graph that jostle writes. Times
are medians of one call with the half-width of their 95 % interval, interleaved so that no peer has the quiet moments
for itself. OpenVINO takes part where it is installed: `pip install openvino nncf`.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jostle import __version__, zoo
from jostle.quantization import QuantConfig, deploy, float_graph, quantize, to_integer
from jostle.quantization.costs import single
from jostle.quantization.engines import session
from jostle.quantization.integer import to_pixels
from jostle.quantization.verbs import machine


def pin() -> None:
    """Stay on one core, where the system lets us."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def interleaved(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds and half-width of each, in turns."""
    for call in work.values():
        for _ in range(5):
            call()
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, call in work.items():
            begun = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - begun))
    half = 0.98 * rounds**0.5
    found = {}
    for name, values in times.items():
        values.sort()
        low, high = values[max(0, int(rounds / 2 - half))], values[min(rounds - 1, int(rounds / 2 + half))]
        found[name] = (float(np.median(values)), (high - low) / 2)
    return found


def quantize_static(graph: Any, calibration: np.ndarray, folder: Path, signed: bool) -> Any:
    """onnxruntime's own quantiser: QDQ, per channel, min-max."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantise

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rows = iter(calibration)

        def get_next(self) -> Any:
            row = next(self.rows, None)
            return None if row is None else {"pixels": row[None]}

    import onnx

    source, target = folder / "float.onnx", folder / f"static{signed}.onnx"
    onnx.save(graph, source)
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    quantise(
        str(source), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=kind, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return onnx.load(target)


def openvino(graph: Any, calibration: np.ndarray, folder: Path) -> Callable[[np.ndarray], np.ndarray] | None:
    """OpenVINO with NNCF's post-training int8, one thread; None where it is not installed."""
    try:
        import nncf
        import openvino as ov
    except ImportError as error:
        print(f"OpenVINO and NNCF take no part: {error}")
        return None
    import onnx

    onnx.save(graph, folder / "ov.onnx")
    model = ov.Core().read_model(folder / "ov.onnx")
    rows = [row[None] for row in calibration]
    small = nncf.quantize(model, nncf.Dataset(rows), subset_size=len(rows))
    requests: dict[int, Any] = {}

    def infer(x: np.ndarray) -> np.ndarray:
        if len(x) not in requests:  # of one size each: what this engine is fastest with
            small.reshape(list(x.shape))
            settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"}
            requests[len(x)] = ov.Core().compile_model(small, "CPU", settings).create_infer_request()
        return next(iter(requests[len(x)].infer({0: x}).values()))

    return infer


def layers() -> None:
    """Dense 3x3 layers alone: GMAC/s of ours and of float32, and the share of this core's int8 peak."""
    shapes = [(64, 64, 56), (128, 128, 28), (256, 256, 14), (512, 512, 7)]
    peak, how = int8_peak()
    print(f"\nint8 peak of this core: {peak:.0f} GMAC/s ({how})")
    for inner, outer, side in shapes:
        net = torch.nn.Sequential(torch.nn.Conv2d(inner, outer, 3, padding=1), torch.nn.ReLU()).eval()
        x = torch.rand(2, inner, side, side, generator=torch.Generator().manual_seed(0))
        network = quantize(net, x)
        alone = single(to_integer(network), "0")
        engine, slow = deploy(alone), session(float_graph(network, normalise=False))
        pixels = to_pixels(x[:1])
        real = pixels.float().numpy()
        found = interleaved(
            {"ours": partial(engine.run, pixels), "float32": partial(slow.run, None, {"pixels": real})}, 60
        )
        macs = inner * outer * 9 * side * side / 1e9
        ours, theirs = found["ours"][0], found["float32"][0]
        print(
            f"{inner}-{outer} 3x3 at {side}: {ours:.3f} ms, float32 {theirs:.3f} ms, ratio {ours / theirs:.2f}, "
            f"{1e3 * macs / ours:.0f} GMAC/s, {1e5 * macs / ours / peak:.0f} % of peak"
        )


def int8_peak() -> tuple[float, str]:
    """The fastest int8 matrix product that this machine shows, as a stand-in for the peak of its dot products."""
    best = 0.0
    for m, k, n in [(1024, 1024, 256), (784, 1152, 128), (2048, 2048, 512), (512, 4096, 512)]:
        a = torch.randint(-127, 128, (m, k)).to(torch.int8)
        b = torch.randint(-127, 128, (k, n)).to(torch.int8)
        for _ in range(3):
            torch._int_mm(a, b)
        times = []
        for _ in range(15):
            begun = time.perf_counter()
            torch._int_mm(a, b)
            times.append(time.perf_counter() - begun)
        best = max(best, m * k * n / min(times) / 1e9)
    return best, "the fastest of torch's int8 matrix products; a register-only loop may reach more"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", default="", help="labelled ImageNet images for agreement, folder or zip")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    pin()
    import onnxruntime

    print(f"jostle {__version__}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")
    print(f"{machine()}; Python {platform.python_version()}, one core")
    model = zoo.load_model("efficientnet-lite0")
    photographs = zoo.load_data("photographs", size=224).tensors()[0]
    calibration = photographs[torch.linspace(0, len(photographs) - 1, 64).long()]
    network = quantize(model, calibration, QuantConfig())
    integers = to_integer(network)
    graph = float_graph(network, normalise=False)  # peers are given normalised images, and don't pay for it
    entry = network.program.steps[0]

    def normalised(pixels: np.ndarray) -> np.ndarray:
        return ((pixels - entry.zero) * entry.scale).astype(np.float32)

    codes = to_pixels(calibration).numpy()
    rows = normalised(codes.astype(np.float32))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peers = {
            "onnxruntime float32": session(graph),
            "onnxruntime quantize_static u8": session(quantize_static(graph, rows, folder, False)),
            "onnxruntime quantize_static s8": session(quantize_static(graph, rows, folder, True)),
        }
        ov = openvino(graph, rows, folder)
    engine = deploy(integers)

    def run(name: str, pixels: np.ndarray, x: np.ndarray) -> np.ndarray:
        if name == "jostle":
            return engine.run(torch.from_numpy(pixels)).numpy()
        if name == "OpenVINO int8 (NNCF)":
            assert ov is not None
            return ov(x)
        return peers[name].run(None, {"pixels": x})[0]

    names = ["jostle", *peers, *(["OpenVINO int8 (NNCF)"] if ov is not None else [])]
    for batch in (1, 16):
        work = {n: partial(run, n, codes[:batch], rows[:batch]) for n in names}
        found = interleaved(work, options.rounds if batch == 1 else max(10, options.rounds // 6))
        base = found["onnxruntime float32"][0]
        print(f"\nbatch {batch}")
        for key, (median, half) in found.items():
            print(f"{key:32s} {median:8.2f} ± {half:.2f} ms   {median / base:.2f} of float32")
    if options.images:
        data = zoo.load_data(options.images, size=224)
        images, labels = data.tensors()
        x = to_pixels(images).numpy()
        parts = [
            x[i : i + 20] for i in range(0, len(x) // 20 * 20, 20)
        ]  # of one size, for engines that compile
        labels = labels[: 20 * len(parts)]
        answers = {n: np.concatenate([run(n, p, normalised(p)).argmax(1) for p in parts]) for n in names}
        print(f"\n{len(labels)} images")
        for key in names:
            same = 100 * (answers[key] == answers["onnxruntime float32"]).mean()
            right = 100 * (answers[key] == labels.numpy()).mean()
            print(f"{key:32s} top-1 {right:.1f} %, as float32 {same:.1f} %")
    layers()
    print("\n4 bits: no kernel of this engine is faster than 8 bits; weights of 4 bits save memory alone.")


if __name__ == "__main__":
    main()
