"""The integer program against brute force; the published problems; the paper's counts; costs."""

import ctypes
import itertools
from contextlib import suppress

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from quantization.nets import Branches, Tiny, pictures, seeded

from jostle.core.errors import JostleError
from jostle.quantization import published, quantize, to_integer
from jostle.quantization.allocation import allocate, limit, pareto, random_plan, solve
from jostle.quantization.costs import CostTable, additivity, cost_table, prefix, sharing, single
from jostle.quantization.integer import to_pixels
from jostle.quantization.sensitivities import Sensitivity


def tables(layers: int, bits: tuple[int, ...], seed: int, sem: float = 0.0) -> tuple[Sensitivity, CostTable]:
    draw = np.random.default_rng(seed)
    names = tuple(f"layer{i}" for i in range(layers))
    params = tuple(int(n) for n in draw.integers(100, 10_000, layers))
    omega = np.sort(draw.random((layers, len(bits))) * 1e-6, axis=1)[:, ::-1].copy()  # fewer bits, more loss
    error = np.abs(omega)
    found = Sensitivity("fisher", names, bits, params, params, error, omega, sem * omega)
    size = np.array([[n * b / 8 / 2**20 for b in bits] for n in params])
    bops = np.array([[n * b * b / 1e9 for b in bits] for n in params])
    return found, CostTable(names, bits, params, params, size, bops, latency=size * 3)


@pytest.mark.study
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.sampled_from([(4, 8), (2, 4, 8)]), st.floats(0.0, 1.0), st.integers(0, 10**6))
def test_the_optimum_is_that_of_brute_force(
    layers: int, bits: tuple[int, ...], alpha: float, seed: int
) -> None:
    s, c = tables(layers, bits, seed)
    most = {"size": limit(c, "size", alpha) * (1 + 1e-9), "bops": limit(c, "bops", min(1.0, alpha + 0.2))}
    ties = [("layer0", "layer1")]
    found, gap = solve(s.omega, {k: c.table(k) for k in most}, most, names=s.layers, bits=bits, ties=ties)
    best = min(
        sum(s.omega[i, j] for i, j in enumerate(choice))
        for choice in itertools.product(range(len(bits)), repeat=layers)
        if choice[0] == choice[1]
        and all(sum(c.table(k)[i, j] for i, j in enumerate(choice)) <= most[k] * (1 + 1e-9) for k in most)
    )
    ours = sum(s.omega[i, bits.index(b)] for i, b in enumerate(found))
    assert ours == pytest.approx(best, rel=1e-9) and gap == 0
    assert found[0] == found[1]


def test_looser_limits_are_never_worse_and_the_ends_are_uniform() -> None:
    s, c = tables(12, (4, 8), 1)
    plans = pareto(s, c, "size", points=9, fixed={})
    assert len(plans) == 9
    objectives = [plan.objective for plan in plans]
    assert all(a >= b for a, b in itertools.pairwise(objectives))
    assert set(plans[0].bits.values()) == {4} and set(plans[-1].bits.values()) == {8}
    assert all(plan.slack["size"] >= -1e-12 for plan in plans)


def test_first_and_last_keep_their_bits_and_mixed_limits_hold() -> None:
    s, c = tables(10, (4, 8), 2)
    size, latency = limit(c, "size", 0.6), limit(c, "latency", 0.5)
    plan = allocate(s, c, size_mb=size, latency_ms=latency)
    assert plan.bits["layer0"] == plan.bits["layer9"] == 8
    assert plan.used["size"] <= size * (1 + 1e-9) and plan.used["latency"] <= latency * (1 + 1e-9)
    assert plan.numbers()["size limit"] == size


def test_what_cannot_be_met_is_a_sentence() -> None:
    s, c = tables(4, (4, 8), 3)
    with pytest.raises(JostleError, match="size_mb is too small: reachable are size_mb at least"):
        allocate(s, c, size_mb=1e-6)
    with pytest.raises(JostleError, match="needs at least one limit"):
        allocate(s, c)
    with pytest.raises(JostleError, match="are tied, but fixed gives them different bits"):
        allocate(s, c, size_mb=1, fixed={"layer0": 4, "layer1": 8}, ties=[("layer0", "layer1")])
    with pytest.raises(JostleError, match="is no layer"):
        allocate(s, c, size_mb=1, fixed={"other": 4})
    with pytest.raises(JostleError, match="the candidates are 4, 8"):
        allocate(s, c, size_mb=1, fixed={"layer0": 3})


def test_a_layer_that_is_not_known_is_not_demoted() -> None:
    s, c = tables(8, (4, 8), 4)
    omega, sem = s.omega.copy(), np.zeros_like(s.omega)
    omega[3], sem[3] = [-1e-9, -1e-11], [1e-7, 1e-9]  # a noisy trace: negative, and far below its error
    noisy = Sensitivity("hessian", s.layers, s.bits, s.params, s.macs, s.error, omega, sem)
    assert noisy.doubtful == ("layer3",)
    assert noisy.bound()[3, 0] == pytest.approx(2e-7) and noisy.bound()[2, 0] == omega[2, 0]
    plan = allocate(noisy, c, size_mb=limit(c, "size", 0.5), fixed={})
    assert plan.bits["layer3"] == 8
    clamped = Sensitivity(
        "hessian", s.layers, s.bits, s.params, s.macs, s.error, np.maximum(omega, 0), 0 * sem
    )
    assert allocate(clamped, c, size_mb=limit(c, "size", 0.5), fixed={}).bits["layer3"] == 4
    tight = allocate(noisy, c, size_mb=limit(c, "size", 0.0) * (1 + 1e-9), fixed={})
    assert tight.bits["layer3"] == 4 and "had to be demoted on its upper bound" in " ".join(tight.notes)


def test_random_plans_meet_the_limit() -> None:
    _, c = tables(12, (4, 8), 5)
    most = limit(c, "size", 0.25)
    plans = [random_plan(c, "size", most, np.random.default_rng(k), fixed={}) for k in range(5)]
    for plan in plans:
        used = sum(c.size[i, (4, 8).index(b)] for i, b in enumerate(plan.values()))
        assert used <= most
    assert len({tuple(plan.values()) for plan in plans}) > 1
    with pytest.raises(JostleError, match="too small"):
        random_plan(c, "size", 1e-9, np.random.default_rng(0))


def test_the_published_problems() -> None:
    rows = published.check()
    assert len(rows) == 18 and all(row["feasible"] for row in rows)
    assert sum(bool(row["same"]) for row in rows) == 17
    (other,) = [row for row in rows if not row["optimal"]]
    assert (other["network"], other["kind"], other["alpha"]) == ("ResNet50", "size", 0.25)
    assert other["published"] == pytest.approx(0.08311, abs=1e-5) and other["optimum"] == pytest.approx(
        0.07495, abs=1e-5
    )


@pytest.mark.study
def test_the_papers_counts_for_resnet18() -> None:
    model = seeded(torchvision.models.resnet18)
    network = quantize(model, pictures(1, 3, 224, 224))
    costs = cost_table(network, bits=(4, 8))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(11.69e6, rel=1e-3)
    # Convolutions and the classifier; folded batch normalisation is part of them. 2^20 bytes.
    assert sum(costs.params) * 4 / 2**20 == pytest.approx(44.6, rel=2e-3)
    floats = sum(costs.macs) * 32 * 32 / 1e9
    assert floats == pytest.approx(1858, rel=2e-3)
    assert costs.bops[:, 1].sum() == pytest.approx(116, rel=2e-3)
    ends = [0, len(costs.layers) - 1]
    mixed = costs.bops[:, 0].sum() + sum(costs.bops[i, 1] - costs.bops[i, 0] for i in ends)
    size = costs.size[:, 0].sum() + sum(costs.size[i, 1] - costs.size[i, 0] for i in ends)
    assert mixed == pytest.approx(34.7, rel=3e-3) and size == pytest.approx(5.8, rel=5e-3)
    # The published table has the same layers: sizes, multiplications and ties agree.
    inner = [i for i in range(len(costs.layers)) if i not in ends]
    table = published.RESNET18
    order = [*range(5), 5, 6, *range(7, 19)]
    assert [costs.params[inner[i]] for i in order] == [round(v * 2**20) for v in table.size]
    assert [costs.macs[inner[i]] for i in order] == [round(v * 1e6) for v in table.macs]
    tied = {tuple(sorted(inner.index(costs.layers.index(n)) for n in group)) for group in sharing(network)}
    assert tied == set(table.ties)


@pytest.mark.study
def test_layers_that_read_one_activation_are_tied() -> None:
    network = quantize(seeded(Branches), pictures(2, 3, 16, 16))
    assert sharing(network) == ()
    from quantization.test_tracing import Twice

    assert sharing(quantize(seeded(Twice), pictures(2, 3, 8, 8))) == (("one", "two"),)


def test_single_layers_and_prefixes_are_parts_of_the_model() -> None:
    pytest.importorskip("onnxruntime")
    network = quantize(seeded(Tiny), pictures(4, 1, 28, 28))
    integers = to_integer(network)
    pixels = to_pixels(pictures(2, 1, 28, 28))
    whole = integers.tensors(pixels)
    for name in network.program.names:
        node = integers[name]
        alone = single(integers, name)
        source = whole[node.inputs[0]]
        source = source if source.ndim == 4 else source[:, :, None, None]
        assert bool((alone.run(source.to(torch.uint8)) == whole[name]).all())
        assert bool((prefix(integers, name).run(pixels) == whole[name]).all())


def test_costs_are_measured_once_a_shape() -> None:
    pytest.importorskip("onnxruntime")
    network = quantize(seeded(Tiny), pictures(4, 1, 28, 28))
    seen: list[str] = []
    costs = cost_table(network, measure=True, repeats=5, callback=lambda done, total, what: seen.append(what))
    assert costs.engine == "onnxruntime" and costs.engine_bits == (8,) and len(seen) == 5
    assert bool((costs.table("latency") > 0).all()) and bool(
        (costs.latency[:, 0] == costs.latency[:, 1]).all()
    )
    pairs = additivity(network, costs, points=3, repeats=5)
    assert len(pairs) == 3 and pairs[-1][0] == pytest.approx(costs.latency[:, 1].sum())
    s, _ = tables(5, (4, 8), 0)
    ours = Sensitivity(
        "fisher", costs.layers, (4, 8), costs.params, costs.macs, s.error, s.omega, 0 * s.omega
    )
    plan = allocate(ours, costs, latency_ms=float(costs.latency[:, 1].sum()) * 1.01)
    assert any("a limit of latency decides nothing" in note for note in plan.notes)
    assert plan.numbers()["note 1"] == plan.notes[0]
    with pytest.raises(JostleError, match="latency was not measured"):
        cost_table(network).table("latency")


def test_times_are_kept_on_disk_by_shape_and_processor(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = quantize(seeded(Tiny), pictures(2, 1, 28, 28))
    path = tmp_path / "times.json"
    first = cost_table(network, measure=True, repeats=5, cache=path)
    monkeypatch.setattr(
        "jostle.quantization.costs.timed", lambda *_: pytest.fail("a kept layer was timed again")
    )
    again = cost_table(network, measure=True, repeats=5, cache=path)
    assert np.array_equal(first.latency, again.latency) and np.array_equal(first.half_width, again.half_width)
    monkeypatch.setattr("jostle.quantization.costs.machine", lambda: "another processor")
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        cost_table(network, measure=True, repeats=5, cache=path)
    path.write_text("{")
    with pytest.raises(JostleError, match="is not valid JSON"):
        cost_table(network, measure=True, repeats=5, cache=path)
    path.write_text("[]")
    with pytest.raises(JostleError, match="something else than times of layers"):
        cost_table(network, measure=True, repeats=5, cache=path)


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):  # HiGHS says something on some problems only; the third is one
        s, c = tables(30, (2, 4, 8), seed)
        allocate(s, c, size_mb=limit(c, "size", 0.3))
    with suppress(TypeError):  # what C keeps back, where there is a C library by that name
        ctypes.CDLL(None).fflush(None)
    print("and what is printed afterwards is seen")
    captured = capfd.readouterr()
    assert captured.out == "and what is printed afterwards is seen\n" and captured.err == ""
