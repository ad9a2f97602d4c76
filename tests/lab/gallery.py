"""Runs to look at, made without a study: `python tests/lab/gallery.py ROOT` fills a folder and its pages."""

import sys
from dataclasses import field, make_dataclass
from pathlib import Path

import numpy as np
import torch

from jostle.files import write_json, write_text
from jostle.lab import Run, write_index
from jostle.lab.style import COLOURS, DIVERGING, figure, house_style, picture

_FIELDS = {
    "seed": 3, "model": "efficientnet-lite0", "data": None, "norm": "Linf", "radius": 10 / 255, "steps": 1500,
    "layers": ("conv_stem", "blocks.3.0.conv_pwl", "blocks.6.0.conv_pwl"), "prior": "range", "nesterov": True,
    **{f"ascent_{i}": value for i, value in enumerate(np.linspace(0.1, 1e-5, 10).tolist())},
    **{f"evaluation_setting_{i}": 10**i for i in range(8)}, "saturation": 1e-5, "momentum": 0.9, "crops": 4,
    **{f"defence_{name}": name == "jpeg" for name in ("jpeg", "blur", "median", "bits", "crop", "smooth")},
    "note": "a long remark about nothing in particular that has to wrap somewhere <b>or other</b>",
    "batch": 64, "workers": 2, "size": 224, "mean": (0.485, 0.456, 0.406), "restarts": 1, "patience": 20,
}  # fmt: skip

CLAIMS = [
    ("UNIV-C1", "Without data the perturbation fools far more images than random signs of its size.",
     "69.24 % on CaffeNet", "41.3 % [38.3, 44.4] against 12.9 %", "holds"),
    ("UNIV-C2", "Knowing the range of the data helps.", "+ 2.6 to + 18.7 points", "+ 6.1 points", "holds"),
    ("UNIV-C3", "Knowing the data helps more than knowing its range.", "not stated", "+ 3.0 points", "holds"),
    ("UNIV-C4", "Saturation rescaling doubles the fooling rate.", "about 2 x", "1.4 x", "fails"),
    ("UNIV-C5", "The perturbation transfers to networks that it was not made for.",
     "19.2 % to 57.9 %", "23.7 %", "not-tested"),
    ("UNIV-C6", "It carries over to segmentation and to depth.", "mean IoU 0.10", "", "not-tested"),
]  # fmt: skip


def _figures(run: Run) -> None:
    random = np.random.default_rng(0)
    with house_style():
        made, axes = figure(1, 3, (6.4, 2.4))
        for axis, title in zip(
            axes, ("image: golden retriever", "perturbation × 10", "nudged: shower cap"), strict=True
        ):
            picture(axis, torch.from_numpy(random.random((3, 32, 32))), title)
        run.figure(
            "before and after",
            made,
            "An image before and after the nudge, with what the network sees in each.",
        )
        made, axes = figure()
        x = np.arange(0, 1500, 10)
        for index, name in enumerate(("none", "range", "data", "random signs")):
            axes.plot(x, 60 * (1 - np.exp(-x / (200 + 150 * index))) / (1 + index / 3), label=name)
        axes.set(xlabel="iteration", ylabel="images fooled (%)", ylim=(0, 70))
        axes.legend(title="prior")
        run.figure(
            "fooling",
            made,
            "Fooling rate on held-out photographs as the perturbation grows, for each prior, and what random "
            "signs of the same size reach.",
        )
        made, axes = figure(1, 2, (6.4, 3.0))
        phase = np.linspace(0, 6 * np.pi, 400)
        axes[0].plot(phase * np.cos(phase), phase * np.sin(phase), color=COLOURS["purple"])
        axes[0].set(xlabel="$z$ (kpc)", ylabel="$v_z$ (km/s)", title="phase spiral")
        mesh = axes[1].pcolormesh(random.standard_normal((20, 20)), cmap=DIVERGING, vmin=-3, vmax=3)
        made.colorbar(mesh, label="density contrast")
        axes[1].set(xlabel="$z$ bin", ylabel="$v_z$ bin", title="residual")
        run.figure(
            "spiral", made, "The winding of a passing galaxy’s nudge in the plane of height and velocity."
        )
        made, axes = figure(size=(6.4, 2.8))
        names = [f"blocks.{i}" for i in range(8)]
        axes.bar(names, random.random(8), color=COLOURS["sky"])
        axes.set(xlabel="layer", ylabel="Hessian trace (1)")
        axes.tick_params(axis="x", rotation=30)
        run.figure("sensitivity", made, "Sensitivity of each layer.")


def fill(root: Path) -> Path:
    """Write four runs under `root`: finished, failed, interrupted and cut off."""
    kind = make_dataclass("Config", [(n, object, field(default=v)) for n, v in _FIELDS.items()], frozen=True)
    made = [Run.create("universal", "quick", kind(), root) for _ in range(4)]
    finished, failed, interrupted, _ = made
    _figures(finished)
    finished.tensors("delta", {"delta": torch.zeros(3, 224, 224)})
    claims = [
        dict(zip(("id", "text", "paper", "measured", "verdict"), c, strict=True), scale="quick")
        for c in CLAIMS
    ]
    claims[4]["scale"] = claims[5]["scale"] = "paper"
    write_json(finished.folder / "claims.json", claims)
    metrics = {
        "fooling": {p: {"rate": 0.4130001, "low": 0.38, "high": 0.44} for p in ("none", "range", "data")},
        "signs": 0.129, "images": 20000, "saturated": True, "tiny": 3.2e-9,
        "loss": list(np.linspace(-3, 9, 1500)),
        "layers": {"a_rather_long_name_of_a_layer.blocks.6.0.conv_pwl": 12345.678},
    }  # fmt: skip
    write_json(finished.folder / "result.json", {"study": "universal", "seconds": 83.2, "metrics": metrics})
    write_text(finished.folder / "metrics.jsonl", "")
    finished.status("finished")
    failed.status("failed", "OutOfMemoryError: the layer <conv_stem> needs 3 GB")
    interrupted.status("interrupted", "stopped by hand")
    return root


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
    print(write_index(Path(sys.argv[1])))
