"""`jostle.quantization` beside onnxruntime's float32, onnxruntime's own quantiser, and OpenVINO int8 by NNCF.

    python benchmarks/quantization.py [--images FOLDER_OR_ZIP]

One process pinned to one core, one run: EfficientNet-Lite0 with its real weights, calibrated on the same 64 photographs
for everybody, min-max, weights per channel. The peers quantise the same floating-point graph that jostle writes.

Equal work: everybody's ONNX graph runs in a session of its own, from arrays to arrays; `Deployed.run`, from a tensor
to a tensor of 64 bits, is compared by itself. jostle's graph takes raw 8-bit pixels. So that nobody is charged for what
another is spared, each peer of onnxruntime runs twice: on raw pixels, with the normalisation in its graph (equal
work), and on images that are normalised already (less work than ours). Times are medians of one call with the
half-width of their 95 % interval; ratios are medians of ratios within a round; the order within a round is drawn
anew, for a call finds the caches as the one before left them. OpenVINO and Apache TVM take part where they are
installed: `pip install openvino nncf`, `pip install apache-tvm`.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import platform
import subprocess
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
from jostle.quantization.engines import session
from jostle.quantization.integer import to_pixels
from jostle.quantization.machine import machine
from jostle.quantization.onnx_export import onnx_graph


def pin() -> None:
    """Stay on one core, where the system lets us."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def interleaved(work: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of each in every round; the order within a round is random."""
    for call in work.values():
        for _ in range(5):
            call()
    draw = np.random.default_rng(0)
    names, times = list(work), {name: np.zeros(rounds) for name in work}
    for k in range(rounds):
        for name in draw.permutation(names):
            begun = time.perf_counter()
            work[name]()
            times[name][k] = 1e3 * (time.perf_counter() - begun)
    return times


def middle(values: np.ndarray) -> tuple[float, float]:
    """Median and half-width of its 95 % interval, by order statistics."""
    ordered, half = np.sort(values), 0.98 * len(values) ** 0.5
    low = ordered[max(0, int(len(values) / 2 - half))]
    high = ordered[min(len(values) - 1, int(len(values) / 2 + half))]
    return float(np.median(values)), float(high - low) / 2


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


def stack(count: int, channels: int, kernel: int, side: int) -> Any:
    """Equal convolutions with ReLU in a row, quantised, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = [torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(count)]
        images = torch.rand(2, channels, side, side)
    net = torch.nn.Sequential(*[m for conv in parts for m in (conv, torch.nn.ReLU())]).eval()
    return quantize(net, images)


def layers(rounds: int) -> None:
    """Dense layers of a ResNet, batch 1: their share of this core's int8 peak, alone and in a row.

    A layer alone pays for a call of the session and for two transposes, from channels first to last and back; in a row
    of five there is one such pair, as in a network. The peak is the fastest of all loops, before, between and after;
    the layers' share is that of their fastest call. The 1x1 layer shows what the engine reaches where a convolution is
    nothing but a matrix product.
    """
    lines, (peak, how) = [], int8_peak()
    for channels, kernel, side in [(64, 3, 56), (128, 3, 28), (256, 3, 14), (512, 3, 7), (1024, 1, 14)]:
        network = stack(1, channels, kernel, side)
        one, five = deploy(to_integer(network)), deploy(to_integer(stack(5, channels, kernel, side)))
        slow = session(float_graph(network, normalise=False))
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (1, channels, side, side), generator=draw).to(torch.uint8)
        real = pixels.float().numpy()
        calls = {
            "one": one.prepared(pixels),
            "five": five.prepared(pixels),
            "float32": partial(slow.run, None, {"pixels": real}),
        }
        found = interleaved(calls, rounds)
        peak = max(peak, int8_peak()[0])
        macs = (channels * kernel * side) ** 2 / 1e6  # 10^6, so that over ms it is 10^9 a second
        rates = macs / found["one"].min(), 5 * macs / found["five"].min()
        lines.append(
            (
                f"{channels} channels, {kernel}x{kernel} at {side}",
                found["one"],
                found["one"] / found["float32"],
                rates,
            )
        )
    print(f"\nint8 peak of this core: {peak:.0f} GMAC/s ({how})")
    print(f"{'layer':28s} ms           of float32     GMAC/s and share of peak: alone    in a row of five")
    for name, times, shares, rates in lines:
        shown = "        ".join(f"{rate:.0f}, {100 * rate / peak:.0f} %" for rate in rates)
        ours, share = middle(times), middle(shares)
        print(f"{name:28s} {ours[0]:.3f} ± {ours[1]:.3f}  {share[0]:.2f} ± {share[1]:.2f}   {shown}")


_LOOP = r"""
#include <immintrin.h>
#include <stdio.h>
#include <time.h>
int main(void) {
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), s[16];
  double best = 0;
  int sum = 0;
  for (int i = 0; i < 16; i++) s[i] = _mm512_setzero_si512();
  for (int r = 0; r < 20; r++) {
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (long n = 0; n < 1000000; n++)
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) s[i] = _mm512_dpbusd_epi32(s[i], a, b);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double rate = 1e6 * 16 * 64 / ((t1.tv_sec - t0.tv_sec) * 1e9 + (t1.tv_nsec - t0.tv_nsec));
    if (rate > best) best = rate;
  }
  for (int i = 0; i < 16; i++) sum += _mm512_reduce_add_epi32(s[i]);
  printf("%f %d\n", best, sum);
}
"""


def int8_peak() -> tuple[float, str]:
    """GMAC/s of 8-bit dot products: of a loop in registers, where a C compiler and AVX-512 VNNI are; else of the
    fastest int8 matrix product that this machine shows.
    """
    with tempfile.TemporaryDirectory() as name:
        source, program = Path(name) / "loop.c", Path(name) / "loop"
        source.write_text(_LOOP)
        try:
            flags = ["-O3", "-mavx512f", "-mavx512vnni"]
            subprocess.run(["cc", *flags, str(source), "-o", str(program)], check=True, capture_output=True)
            shown = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
            return float(shown.split()[0]), "AVX-512 VNNI in a loop of registers"
        except (OSError, subprocess.CalledProcessError):
            pass
    best = 0.0
    for m, k, n in [(1024, 1024, 256), (784, 1152, 128), (2048, 2048, 512), (512, 4096, 512)]:
        a = torch.randint(-127, 128, (m, k)).to(torch.int8)
        b = torch.randint(-127, 128, (k, n)).to(torch.int8)
        times = []
        for _ in range(15):
            begun = time.perf_counter()
            torch._int_mm(a, b)
            times.append(time.perf_counter() - begun)
        best = max(best, m * k * n / min(times) / 1e9)
    return best, "the fastest of torch's int8 matrix products; a loop of registers may reach more"


def from_pixels(graph: Any, scale: float, zero: int) -> Any:
    """The graph with its normalisation in front: 8-bit pixels in, `scale (pixel - zero)` to what was its input."""
    import onnx

    made = onnx.ModelProto.FromString(graph.SerializeToString())
    kinds, node, array = onnx.TensorProto, onnx.helper.make_node, onnx.numpy_helper.from_array
    made.graph.input[0].name = "raw"
    made.graph.input[0].type.tensor_type.elem_type = kinds.UINT8
    for name, value in (("raw.zero", zero), ("raw.scale", scale)):
        made.graph.initializer.append(array(np.array(value, dtype=np.float32), name))
    front = [
        node("Cast", ["raw"], ["raw.float"], to=kinds.FLOAT),
        node("Sub", ["raw.float", "raw.zero"], ["raw.shifted"]),
        node("Mul", ["raw.shifted", "raw.scale"], ["pixels"]),
    ]
    rest = list(made.graph.node)
    del made.graph.node[:]
    made.graph.node.extend([*front, *rest])
    return made


def tvm_engine(integers: Any, pixels: np.ndarray) -> None:
    """The same integers in Apache TVM: whether they are the same, and how long an image takes."""
    try:
        import tvm
    except ImportError as error:
        print(f"\nApache TVM takes no part: {error}")
        return
    image = torch.from_numpy(pixels[:1])
    begun = time.perf_counter()
    engine = deploy(integers, "tvm")
    wrong = int((engine.run(image) != integers.run(image)).sum())
    built = time.perf_counter() - begun
    found = interleaved({"tvm": partial(engine.run, image)}, 10)["tvm"]
    print(
        f"\nApache TVM {tvm.__version__}, default schedules: {middle(found)[0]:.0f} ms an image; compiled and run "
        f"first in {built:.0f} s; {wrong} of the outputs differ from the reference"
    )


PARTS = ("lite", "resnet", "layers", "tvm")
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


def engines(network: Any, integers: Any, rows: np.ndarray) -> dict[str, Run]:
    """Everybody who takes part: functions of raw pixels and of normalised images."""
    graph, entry = float_graph(network, normalise=False), network.program.steps[0]
    ours = session(onnx_graph(integers))
    made: dict[str, Run] = {"jostle": lambda pixels, x: ours.run(None, {"pixels": pixels})[0]}

    def add(name: str, of: Any) -> None:
        raw, bare = session(from_pixels(of, entry.scale, entry.zero)), session(of)
        made[f"{name}, raw pixels"] = lambda pixels, x: raw.run(None, {"raw": pixels})[0]
        made[f"{name}, normalised"] = lambda pixels, x: bare.run(None, {"pixels": x})[0]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        add("onnxruntime float32", graph)
        add("quantize_static u8", quantize_static(graph, rows, folder, False))
        add("quantize_static s8", quantize_static(graph, rows, folder, True))
        ov = openvino(graph, rows, folder)
    if ov is not None:
        made["OpenVINO int8 (NNCF), normalised"] = lambda pixels, x: ov(x)
    return made


def wrapped(engine: Any, calls: dict[str, Run], given: dict[str, np.ndarray], rounds: int) -> None:
    """`Deployed.run` in turns with one peer: first called with arrays, then with tensors as ours is.

    Two at a time: of three, two would share the peer's session, and its weights would stay in the caches.
    """

    def through(call: Run, tensor: torch.Tensor) -> torch.Tensor:
        array = tensor.numpy()
        return torch.from_numpy(call(array, array))

    ours = partial(engine.run, torch.from_numpy(given["raw pixels"].copy()))
    print(
        "\nbatch 1, Deployed.run in turns with a peer   ms   over the peer's arrays    over the peer's tensors"
    )
    for kind, arrays in given.items():
        name = f"quantize_static u8, {kind}"
        peers = {
            "arrays": partial(calls[name], arrays, arrays),
            "tensors": partial(through, calls[name], torch.from_numpy(arrays.copy())),
        }
        shown = []
        for peer in peers.values():
            found = interleaved({"ours": ours, "peer": peer}, 2 * rounds)
            shown.append("{:.3f} ± {:.3f}".format(*middle(found["ours"] / found["peer"])))
        print(f"{name:40s} {np.median(found['ours']):6.2f}   " + "            ".join(shown))


def network_times(model: Any, calibration: torch.Tensor, rounds: int) -> tuple[Any, Any, dict[str, Run]]:
    """One network, one image and sixteen: a row an engine."""
    network = quantize(model, calibration, QuantConfig())
    integers = to_integer(network)
    codes = to_pixels(calibration).numpy()
    rows = normalised(network, codes)
    calls = engines(network, integers, rows)
    for batch in (1, 16):
        work = {name: partial(call, codes[:batch], rows[:batch]) for name, call in calls.items()}
        found = interleaved(work, rounds if batch == 1 else max(12, rounds // 5))
        print(f"\nbatch {batch:<28d}       ms   of float32   jostle over it")
        for name, values in found.items():
            share = np.median(values / found["onnxruntime float32, raw pixels"])
            ours, half = middle(found["jostle"] / values)
            median, width = middle(values)
            print(f"{name:34s} {median:8.2f} ± {width:.2f}   {share:.2f}         {ours:.3f} ± {half:.3f}")
    one = {"raw pixels": codes[:1], "normalised": rows[:1]}
    wrapped(deploy(integers), calls, one, rounds)
    return network, integers, calls


def normalised(network: Any, pixels: np.ndarray) -> np.ndarray:
    """What the peers' graphs read."""
    entry = network.program.steps[0]
    return (entry.scale * (pixels.astype(np.float32) - entry.zero)).astype(np.float32)


def agreement(network: Any, calls: dict[str, Run], source: str) -> None:
    """Top-1 on labelled images, and answers as in float32."""
    images, labels = zoo.load_data(source, size=224).tensors()
    x = to_pixels(images).numpy()
    parts = [x[i : i + 20] for i in range(0, len(x) // 20 * 20, 20)]  # of one size, for engines that compile
    labels = labels[: 20 * len(parts)].numpy()
    answers = {
        name: np.concatenate([call(part, normalised(network, part)).argmax(1) for part in parts])
        for name, call in calls.items()
    }
    print(f"\n{len(labels)} images, calibrated on 64 photographs, min-max")
    for name, given in answers.items():
        same = 100 * (given == answers["onnxruntime float32, raw pixels"]).mean()
        print(f"{name:34s} top-1 {100 * (given == labels).mean():.1f} %, as float32 {same:.1f} %")


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", default="", help="labelled ImageNet images for agreement, folder or zip")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=list(PARTS), choices=PARTS, help="parts to run")
    options = parser.parse_args()
    pin()
    import onnxruntime

    print(f"jostle {__version__}, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}")
    print(f"{machine()}; Python {platform.python_version()}, one core")
    photographs = zoo.load_data("photographs", size=224).tensors()[0]
    calibration = photographs[torch.linspace(0, len(photographs) - 1, 64).long()]
    if "lite" in options.only:
        print("\nEfficientNet-Lite0, its real weights")
        model = zoo.load_model("efficientnet-lite0")
        network, _, calls = network_times(model, calibration, options.rounds)
        if options.images:
            agreement(network, calls, options.images)
    if "resnet" in options.only:
        print("\nResNet18, random weights")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network_times(zoo.load_model("torchvision:resnet18"), calibration[:16], options.rounds // 2)
    if "layers" in options.only:
        layers(4 * options.rounds)
    if "tvm" in options.only:
        model = zoo.load_model("efficientnet-lite0")
        tvm_engine(to_integer(quantize(model, calibration)), to_pixels(calibration).numpy())
    print("\n4 bits: no kernel of this engine is faster than 8 bits; weights of 4 bits save memory alone.")


if __name__ == "__main__":
    main()
