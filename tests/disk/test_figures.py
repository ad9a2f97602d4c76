"""Figures hold what they are given."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from jostle.disk import figures


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_maps_share_one_scale_with_zero_in_the_middle():
    z = np.linspace(-1, 1, 9)
    maps = [(f"{k}", {"z": z, "vz": 50 * z, "values": k * np.outer(z, z)}) for k in (1, 2, 3, 4)]
    figure = figures.spiral_maps(maps, 2, ("first", "second"))
    meshes = [axis.collections[0] for axis in figure.axes[:4]]
    limits = {m.get_clim() for m in meshes}
    assert len(limits) == 1 and sum(next(iter(limits))) == 0
    assert np.array_equal(meshes[3].get_array().reshape(9, 9), maps[3][1]["values"])
    assert "kpc" in figure.axes[2].get_xlabel() and "second" in figure.axes[2].get_ylabel()


def test_curves_have_lines_dots_and_scales():
    figure = figures.curves([("a", [1, 2], [3, 4])], "x (kpc)", "y", "xy", [("b", [1], [3.5])])
    (axis,) = figure.axes
    assert axis.get_xscale() == axis.get_yscale() == "log" and axis.get_xlabel() == "x (kpc)"
    assert [t.get_text() for t in axis.get_legend().get_texts()] == ["a", "b"]
    assert axis.lines[1].get_marker() == "o" and axis.lines[0].get_marker() == "None"


def test_ranking_keeps_the_order():
    figure = figures.ranking(["Sgr", "LMC"], [1e-3, 1e-4], [1e-6, 0.0])
    (axis,) = figure.axes
    assert [t.get_text() for t in axis.get_yticklabels()] == ["Sgr", "LMC"]
    widths = [bar.get_width() for bar in axis.patches]
    assert widths[:2] == [1e-3, 1e-4] and widths[3] == 1e-12
