"""The tied model asked about features of one's own, from Python and from the shell."""

import json
import math

import pytest
import torch
from torch import nn

from jostle import cli
from jostle.collapse import TiedModel, collect, factors, flow, metrics, response, sweep, tied_to
from jostle.core.errors import JostleError
from jostle.zoo import load_data

IMAGES = torch.rand(60, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(60) % 3


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3))


def test_features_are_scaled_to_the_model() -> None:
    h, y = torch.randn(21, 5, generator=gen(0)), torch.tensor([0, 1, 2] * 6 + [2] * 3)
    model, H0 = tied_to(h, y, lam_w=0.3, lam_h=0.2, beta=7.0)
    assert model == TiedModel(3, 6, 5, 0.3, 0.2, 7.0)
    kept = torch.cat([(y == k).nonzero().flatten()[:6] for k in range(3)])
    found, wanted = metrics(H0.T, y[kept]), metrics(h[kept], y[kept])
    assert found.between == pytest.approx(model.rho * 2 / 3, rel=1e-12)
    assert found.nc1 == pytest.approx(wanted.nc1, rel=1e-6)
    assert tied_to(h, y, per_class=4)[0].n == 4 and tied_to(h, y, per_class=99)[0].n == 6


def test_the_flow_is_that_of_the_features(net: nn.Module) -> None:
    found = flow((IMAGES, LABELS), net, layer="2", per_class=10, until=2.0, points=5)
    tied, H0 = tied_to(*collect(net, (IMAGES, LABELS), "2"), per_class=10)
    wanted = tied.flow(H0, [0.0, 0.5, 1.0, 1.5, 2.0])
    assert torch.equal(found.nc1_trace, wanted.nc1_trace) and found.falls and found.shrinks and found.spreads
    assert found.numbers()["t=2"]["nc1"] == float(wanted.nc1[-1])


@pytest.mark.parametrize("bits", [None, 12])
def test_what_survives_is_what_is_found(net: nn.Module, bits: int | None) -> None:
    found = response((IMAGES, LABELS), net, beta=3.0, size=1e-3, bits=bits, generator=gen(1))
    assert found.error < 0.01 and found.tied < found.given
    assert found.share == pytest.approx(found.after.total / found.before.total, rel=1e-9)
    if bits is None:
        assert found.size == pytest.approx(1e-3, rel=1e-9)


def test_near_collapse_each_part_survives_by_its_factor() -> None:
    model = TiedModel(3, 20, 9, 0.005, 0.01, 2.0)
    H = model.collapsed(gen(2)).H
    H = H + 1e-4 * torch.randn(H.shape, generator=gen(3), dtype=torch.float64)
    data = (H.T.float().reshape(60, 1, 3, 3), torch.arange(3).repeat_interleave(20))
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))  # whose head's input are the pixels
    found = response(data, net, lam_h=0.01, beta=2.0, size=1e-3, generator=gen(4)).numbers()
    f = factors(0.005, 0.01, 2.0)
    for name in ("within_in", "within_out", "mean_out", "mean_sym", "mean_skew"):
        assert found[f"share.{name}"] == pytest.approx(getattr(f, name) ** 2, rel=5e-3), name


def test_the_error_of_the_prediction_falls_with_the_noise() -> None:
    errors = [response((IMAGES, LABELS), beta=3.0, size=t, generator=gen(1)).error for t in (1e-3, 1e-4)]
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.05)


def test_a_nudge_too_large_for_the_first_order_is_said() -> None:
    with pytest.warns(UserWarning, match="the prediction is off by"):
        found = response((IMAGES, LABELS), beta=0.3, size=1.0, generator=gen(1))
    assert found.error > 0.2


def test_a_sweep_is_its_minimisers() -> None:
    seen: list[tuple[int, int]] = []
    found = sweep(
        (IMAGES, LABELS),
        lam_w=(0.01, 0.02),
        lam_h=(0.01, 0.04),
        beta=(0.5, 5.0),
        callback=lambda done, total, text: seen.append((done, total)),
    )
    rows = found.rows()
    assert len(rows) == 8 and all(row["converged"] for row in rows) and seen == [(i + 1, 8) for i in range(8)]
    x = (IMAGES - IMAGES.mean()) / IMAGES.std(correction=0)
    tied, H0 = tied_to(x.flatten(1), LABELS, lam_w=0.01, lam_h=0.01, per_class=20)
    row = rows[5]
    assert (row["lam_w"], row["lam_h"], row["beta"]) == (0.02, 0.01, 5.0)
    model = TiedModel(tied.K, tied.n, tied.d, 0.02, 0.01, 5.0)
    wanted = metrics(model.minimise(H0).H.T, torch.arange(3).repeat_interleave(20))
    assert row["nc1_trace"] == pytest.approx(wanted.nc1_trace, rel=1e-5)
    assert all(near["nc1_trace"] < far["nc1_trace"] for near, far in zip(rows[::2], rows[1::2], strict=True))


def test_questions_without_an_answer_are_refused() -> None:
    data, wide = (IMAGES, LABELS), (IMAGES, torch.arange(60) % 10)
    for call, sentence in (
        (lambda: flow(data, until=0.0), "until must be above 0"),
        (lambda: flow(data, layer="2"), "layer needs a model"),
        (lambda: flow(data, points=1), "points must be at least 2"),
        (lambda: flow(data, per_class=0), "per_class must be at least 1"),
        (lambda: flow((IMAGES, 2 * LABELS)), "every class must have a sample"),
        (lambda: flow((torch.ones(60, 1, 3, 3), LABELS)), "class means must differ"),
        (lambda: response(data, size=0.0, generator=gen(0)), "size must be above 0"),
        (lambda: response(data, size=math.nan, generator=gen(0)), "size must be above 0"),
        (lambda: response(data, bits=1, generator=gen(0)), "bits must be 2 to 32"),
        (lambda: response(data, beta=0.0, generator=gen(0)), "beta must be above 0"),
        (lambda: response(wide, generator=gen(0)), "d must be at least K = 10"),
        (lambda: sweep(data, beta=()), "at least one value"),
        (lambda: sweep(data, lam_w=(2.0,), lam_h=(1.0,)), "the only minimiser is zero"),
    ):
        with pytest.raises(JostleError, match=sentence):
            call()


NET = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
"""


@pytest.mark.study
@pytest.mark.parametrize(
    ("verb", "options", "keys"),
    [
        ("flow", ["--until", "0.5", "--points", "3"], {"times", "nc1_trace", "falls"}),
        ("response", ["--bits", "8", "--beta", "3"], {"share", "error", "before", "after"}),
        ("sweep", ["--lam-h", "0.005", "0.01", "--beta", "100"], {"given", "rows"}),
    ],
)
def test_from_the_shell(tmp_path, capsys, verb: str, options: list[str], keys: set[str]) -> None:
    (tmp_path / "own.py").write_text(NET)
    out = tmp_path / "out.json"
    words = ["collapse", verb, "--data", "digits", "--per-class", "5", *options, "--out", str(out)]
    with torch.random.fork_rng(devices=[]):
        assert cli.main([*words, "--model", f"{tmp_path / 'own.py'}:build"]) == 0
    assert keys <= set(json.loads(out.read_text()))
    assert "figure" in capsys.readouterr().out


@pytest.mark.study
def test_real_digits_collapse_under_the_tie() -> None:
    found = sweep(load_data("digits"), beta=(30.0, 300.0))
    assert all(found.converged)
    near, far = (report.nc1_trace for report in found.reports)
    assert near < far < found.given.nc1_trace
