"""Figures an astronomer would show, from plain arrays."""

from typing import Any

import numpy as np

from jostle.lab.style import COLOURS, DIVERGING, WIDTH, house_style


def spiral_maps(maps: list[tuple[str, Any]], columns: int, rows_are: tuple[str, ...] = ()) -> Any:
    """Maps of f1 / f0 in (z, v_z), one colour scale for all.

    **Arguments:** `maps`: (title, {"z", "vz", "values"}) each. `columns`: a row. `rows_are`: their names.
    """
    import matplotlib.pyplot as plt

    rows = -(-len(maps) // columns)
    with house_style():
        size = (WIDTH, 0.6 + 1.75 * rows) if columns > 1 else (4.2, 0.4 + 2.9 * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        figure.set_layout_engine("constrained")
        top = max(float(np.percentile(np.abs(m["values"]), 99.5)) for _, m in maps)
        for axis, (title, m) in zip(axes.ravel(), maps, strict=False):
            z, v = np.asarray(m["z"]), np.asarray(m["vz"])
            image = axis.pcolormesh(
                z, v, m["values"], cmap=DIVERGING, vmin=-top, vmax=top, shading="auto", rasterized=True
            )
            axis.set_title(title)
            axis.grid(False)
        for axis in axes[-1]:
            axis.set_xlabel("$z$ (kpc)")
        for k, axis in enumerate(axes[:, 0]):
            axis.set_ylabel(f"{rows_are[k]}\n$v_z$ (km/s)" if rows_are else "$v_z$ (km/s)")
        figure.colorbar(image, ax=axes, label="$f_1/f_0$", shrink=0.9)
    return figure


def curves(
    lines: list[tuple[str, Any, Any]],
    x: str,
    y: str,
    log: str = "",
    dots: list[tuple[str, Any, Any]] | None = None,
) -> Any:
    """Lines with labels; `log` names the logarithmic axes ("x", "y", "xy"), `dots` are drawn as markers."""
    import matplotlib.pyplot as plt

    with house_style():
        figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
        figure.set_layout_engine("constrained")
        styles = ["-", "--", "-.", ":"]
        for k, (label, xs, ys) in enumerate(lines):
            axis.plot(xs, ys, label=label, linestyle=styles[k % 4])
        for k, (label, xs, ys) in enumerate(dots or []):
            axis.plot(xs, ys, "os^"[k % 3], color=COLOURS["black"], markersize=4, label=label)
        if "x" in log:
            axis.set_xscale("log")
        if "y" in log:
            axis.set_yscale("log")
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        axis.legend()
    return figure


def ranking(names: list[str], bending: list[float], breathing: list[float]) -> Any:
    """Bars of the strongest passage of every satellite."""
    import matplotlib.pyplot as plt

    with house_style():
        figure, axis = plt.subplots(figsize=(WIDTH, 3.2))
        figure.set_layout_engine("constrained")
        place = np.arange(len(names))[::-1]
        floor = 1e-12
        axis.barh(
            place + 0.2, np.maximum(bending, floor), 0.38, color=COLOURS["blue"], label="bending, n = 1"
        )
        axis.barh(
            place - 0.2, np.maximum(breathing, floor), 0.38, color=COLOURS["orange"], label="breathing, n = 2"
        )
        axis.set_xscale("log")
        axis.set_xlim(left=floor)
        axis.set_yticks(place, names)
        axis.set_xlabel("$|f_1/f_0|$ at the Sun's place")
        axis.legend(loc="lower right")
    return figure
