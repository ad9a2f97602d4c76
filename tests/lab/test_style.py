"""Figures look alike, print well and come out the same every time."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from jostle.lab.style import COLOURS, DIVERGING, SEQUENTIAL, figure, house_style, picture


def _saved(path, **save):
    with house_style():
        made, axes = figure(1, 2)
        axes[0].plot([0, 1], [1, 0], label="response")
        axes[0].legend()
        picture(axes[1], np.eye(4))
        made.savefig(path, metadata={"Date": None}, **save)
    return path.read_text(encoding="utf-8")


def test_the_same_figure_is_the_same_svg_with_text_as_paths(tmp_path):
    first, second = _saved(tmp_path / "a.svg"), _saved(tmp_path / "b.svg")
    assert first == second
    assert "<text" not in first


def test_the_users_settings_come_back_also_after_an_exception():
    import matplotlib

    matplotlib.rcParams["font.size"] = 7.5
    before = dict(matplotlib.rcParams)
    try:
        with pytest.raises(KeyError), house_style():
            assert matplotlib.rcParams["font.size"] == 9
            raise KeyError
        assert dict(matplotlib.rcParams) == before
    finally:
        matplotlib.rcParams["font.size"] = matplotlib.rcParamsDefault["font.size"]


def test_text_is_legible_at_print_size():
    with house_style():
        made, axes = figure()
        axes.set(xlabel="time (s)", title="title")
        axes.plot([1, 2])
    assert made.get_figwidth() == 6.4
    assert made.get_layout_engine() is not None
    texts = [axes.xaxis.label, axes.title, *axes.get_xticklabels()]
    assert all(8 <= text.get_fontsize() <= 9 for text in texts)


@pytest.mark.study
def test_no_window_is_opened():
    code = (
        "import sys; from jostle.lab import style; assert 'matplotlib' not in sys.modules\n"
        "with style.house_style(): style.figure()\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_axes_of_a_grid_come_as_an_array():
    with house_style():
        assert figure(2, 3)[1].shape == (2, 3)
        assert not isinstance(figure()[1], np.ndarray)


def test_colours_of_the_cycle_differ_in_lightness_or_hue_and_the_maps_exist():
    import matplotlib

    with house_style():
        cycle = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
    assert len(set(cycle)) == 7 and set(cycle) < set(COLOURS.values())
    lightness = matplotlib.colormaps[SEQUENTIAL](np.linspace(0, 1, 50))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > 0).all()
    middle = matplotlib.colormaps[DIVERGING](0.5)
    assert min(middle[:3]) > 0.95


@pytest.mark.parametrize("shape", [(5, 6), (1, 5, 6), (3, 5, 6), (5, 6, 3)])
def test_pictures_of_every_layout(shape):
    with house_style():
        _, axes = figure()
        picture(axes, torch.full(shape, 0.5, requires_grad=True), "dog")
    assert axes.images[0].get_array().shape[:2] == (5, 6)
    assert axes.get_title() == "dog" or axes.get_title(loc="left") == "dog"
