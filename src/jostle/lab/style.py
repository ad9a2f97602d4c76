"""How the figures of all rooms look: colour-blind safe, legible in print, the same bytes every time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 6.4
"""Width of a figure in inches: at this width the text prints at 8 to 9 points."""

COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
"""The palette of Okabe and Ito (2008), told apart by people with any colour vision; in the order of use."""

SEQUENTIAL = "viridis"
"""Colour map for amounts."""

DIVERGING = "RdBu_r"
"""Colour map for signed quantities, white at zero; give it limits that are symmetric about zero."""


@contextmanager
def house_style() -> Iterator[None]:
    """The settings of matplotlib under which a room makes its figures; the user's own come back afterwards.

    >>> with house_style():
    ...     made, axes = figure()
    ...     _ = axes.plot([1, 2], [3, 4], label="response")
    """
    import matplotlib
    from cycler import cycler

    # Yellow is left out of the cycle: a thin yellow line is lost on white paper.
    cycle = [colour for name, colour in COLOURS.items() if name != "yellow"]
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "font.size": 9,
                "axes.titlesize": 9,
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "axes.labelsize": 9,
                "xtick.labelsize": 8,
                "ytick.labelsize": 8,
                "legend.fontsize": 8,
                "legend.frameon": False,
                "axes.prop_cycle": cycler(color=cycle),
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.edgecolor": "#444444",
                "axes.linewidth": 0.7,
                "axes.axisbelow": True,
                "axes.grid": True,
                "grid.color": "#E3E3E3",
                "grid.linewidth": 0.6,
                "xtick.color": "#444444",
                "ytick.color": "#444444",
                "xtick.labelcolor": "#111111",
                "ytick.labelcolor": "#111111",
                "lines.linewidth": 1.5,
                "lines.markersize": 4,
                "errorbar.capsize": 2.5,
                "image.cmap": SEQUENTIAL,
                "image.interpolation": "nearest",
                "figure.facecolor": "white",
                "figure.figsize": (WIDTH, 3.4),
                "figure.constrained_layout.use": True,
                "savefig.facecolor": "white",
                "savefig.pad_inches": 0.06,
                "svg.fonttype": "path",
                "svg.hashsalt": "jostle",
            }
        )
        yield


def figure(rows: int = 1, cols: int = 1, size: tuple[float, float] | None = None) -> "tuple[Figure, Any]":
    """A figure and its axes, as `pyplot.subplots` gives them, but without pyplot's windows and global state.

    **Arguments:** `rows`, `cols`: the grid of axes. `size`: width and height in inches; default `WIDTH` by a
    height that suits the number of rows.
    **Returns:** the figure, and one `Axes`, or an array of them for a grid. Use it within
    [`house_style`][jostle.lab.style.house_style].

    >>> with house_style():
    ...     made, axes = figure(1, 2)
    >>> axes.shape
    (2,)
    """
    from matplotlib.figure import Figure

    made = Figure(figsize=size or (WIDTH, 0.8 + 2.6 * rows))
    return made, made.subplots(rows, cols)


def picture(axes: Any, image: Any, title: str = "") -> None:
    """Show an image on `axes` as a picture: no ticks, grid or frame.

    **Arguments:** `image`: tensor or array, `(height, width)`, `(channels, height, width)` with 1 or 3
    channels, or `(height, width, 3)`; grey values and colours in [0, 1].

    >>> with house_style():
    ...     made, axes = figure()
    ...     picture(axes, [[0.0, 1.0]], "edge")
    """
    import numpy

    pixels = numpy.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0).squeeze()
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_axis_off()
