"""Perturbations: sizes exact, ablation true, sweeps paired, comparisons honest."""

import numpy as np
import pytest
import torch
from scipy import stats

from jostle.core.errors import JostleError
from jostle.timescales import (
    GatedRNN,
    LeakyRNN,
    NParity,
    ablate,
    ablation,
    choose_neurons,
    compare,
    default_sizes,
    perturb,
    perturbation_sweep,
    retrain_generalisation,
    stream_accuracy,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net():
    return LeakyRNN(12, 3, tau=(1.0, 3.0), generator=generator())


def accuracy(network, head=0, seed=0, N=3):
    return stream_accuracy([network], NParity(), {N: head}, generator=generator(seed), steps=300)[0, 0, 0]


def test_weight_perturbation_has_its_relative_size(net):
    pushed = perturb(net, "weights", 0.3, generator(5))
    noise = torch.randn(12, 12, generator=generator(5))
    share = noise.diagonal().pow(2).sum() / noise.pow(2).sum()
    size = (pushed.weight - net.weight).norm() / net.weight.norm()
    assert float(size.detach()) == pytest.approx(0.3 * float((1 - share).sqrt()), rel=1e-5)
    assert (pushed.weight.diagonal() == 0).all()


def test_tau_perturbation_has_its_relative_size_and_only_lengthens(net):
    pushed = perturb(net, "tau_abs", 0.2, generator(5))
    change = (pushed.tau - net.tau).detach()
    assert float(change.norm() / net.tau.detach().norm()) == pytest.approx(0.2, abs=1e-6)
    assert (change >= 0).all()
    signed = (perturb(net, "tau_signed", 0.2, generator(5)).tau - net.tau).detach()
    assert (signed < 0).any()
    torch.testing.assert_close(signed.abs(), change)
    added = (perturb(net, "tau_add", 0.2, generator(5)).tau - net.tau).detach()
    torch.testing.assert_close(added, 0.2 * torch.randn(12, generator=generator(5)))


def test_other_weight_perturbations(net):
    ratio = perturb(net, "weights_mult", 0.5, generator()).weight / net.weight
    off = ratio[~torch.eye(12, dtype=torch.bool)].detach()
    assert float(off.min()) >= 1
    assert float(off.max()) <= 1.5
    loose = LeakyRNN(12, self_connections=True, generator=generator())
    pushed = perturb(loose, "weights_subspace", 0.5, generator())
    left, _, right = torch.linalg.svd(loose.weight.detach())
    core = left.T @ (pushed.weight - loose.weight).detach() @ right.T
    torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-5, rtol=0)
    assert float(core.norm() / loose.weight.detach().norm()) == pytest.approx(0.5, rel=1e-4)


def test_nothing_is_changed_by_size_zero_or_in_the_original(net):
    before = [p.clone() for p in net.state_dict().values()]
    for kind in ("weights", "tau_abs"):
        same = perturb(net, kind, 0.0, generator())
        assert accuracy(same) == accuracy(net)
        perturb(net, kind, 1.0, generator())
    ablate(net, [1, 2])
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_an_ablated_neuron_is_silent_and_the_rest_is_the_smaller_network():
    torch.set_default_dtype(torch.float64)
    try:
        for placement, kind in [("inside", "leaky_relu"), ("outside", "sigmoid"), ("outside", "tanh")]:
            net = LeakyRNN(8, 2, placement=placement, nonlinearity=kind, generator=generator())
            cut = ablate(net, [3])
            rest = [i for i in range(8) if i != 3]
            small = LeakyRNN(7, 2, placement=placement, nonlinearity=kind)
            with torch.no_grad():
                small.weight.copy_(net.weight[rest][:, rest])
                for name in ("bias", "input_weight", "input_bias", "tau_raw"):
                    getattr(small, name).copy_(getattr(net, name)[rest])
            x = torch.bernoulli(torch.full((4, 30), 0.5), generator=generator(1))
            start = net.initial_state(4, generator(2))
            with torch.no_grad():
                full, reduced = cut.states(x, start)[0], small.states(x, start[:, rest])[0]
            assert (full[..., 3] == 0).all()
            torch.testing.assert_close(full[..., rest], reduced, rtol=0, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_neuron_that_nobody_hears_can_go(net):
    with torch.no_grad():
        net.weight[:, 4] = 0
        net.head_weight[..., 4] = 0
    assert accuracy(ablate(net, [4])) == accuracy(net)
    result = ablation(net, NParity(), 3, neurons=[4], draws=2, steps=100)
    np.testing.assert_array_equal(result.accuracy[0], result.base)


def test_ablations_as_streams_are_ablations_one_by_one(net):
    result = ablation(net, NParity(), 3, neurons=[0, 5, 7], head=1, draws=2, steps=200)
    singly = ablation(ablate(net, []), NParity(), 3, neurons=[5], head=1, draws=2, steps=200)
    np.testing.assert_array_equal(result.accuracy[1], singly.accuracy[0])
    from jostle.timescales.starting import seeded

    by_copy = stream_accuracy(
        [ablate(net, [5])], NParity(), {3: 1}, generator=seeded(0, "input/1"), steps=200
    )
    assert by_copy[0, 0, 0] == result.accuracy[1, 1]
    np.testing.assert_allclose(result.tau, net.effective_tau.detach()[[0, 5, 7]].double())


def test_released_ablation_leaves_the_unit_driven_by_its_biases(net):
    cut = ablate(net, [3], "released")
    with torch.no_grad():
        states = cut.states(torch.ones(1, 60))[0][..., 3]
    assert abs(float(states[-1, 0])) > 1e-6
    torch.testing.assert_close(states[-1], states[-2], atol=1e-5, rtol=0)
    assert (cut.head_weight[0, :, 3] == 0).all()
    assert (cut.head_weight[1, :, 3] != 0).all()
    hidden = ablate(net, [3], "readout")
    assert (hidden.head_weight[..., 3] == 0).all()
    released = ablation(net, NParity(), 3, neurons=[3], mode="released", draws=2, steps=100)
    assert released.accuracy.shape == (1, 2)


def test_gated_networks_can_be_perturbed_and_ablated():
    net = GatedRNN("lstm", 6, generator=generator())
    cut = ablate(net, [2])
    with torch.no_grad():
        assert (cut.states(torch.rand(3, 8))[0][..., 2] == 0).all()
    assert ablation(net, NParity(), 2, draws=2, steps=50, neurons=[0, 2]).accuracy.shape == (2, 2)
    pushed = perturb(net, "weights", 0.1, generator())
    assert not torch.equal(pushed.recurrent()[0], net.recurrent()[0])
    assert perturbation_sweep(net, NParity(), 2, sizes=[0.1], draws=2, steps=50).accuracy.shape == (2, 2)
    with pytest.raises(JostleError, match="time constants"):
        perturb(net, "tau_abs", 0.1, generator())


def test_a_sweep_begins_with_the_untouched_network(net):
    sweep = perturbation_sweep(net, NParity(), 3, kind="tau_abs", head=1, draws=3, steps=200)
    assert sweep.sizes == default_sizes("tau_abs")
    assert sweep.relative[0].mean() == pytest.approx(1)
    again = perturbation_sweep(net, NParity(), 3, kind="tau_abs", head=1, draws=3, steps=200)
    np.testing.assert_array_equal(sweep.accuracy, again.accuracy)


def test_a_diverged_network_is_credited_with_chance():
    net = LeakyRNN(6, nonlinearity="identity", generator=generator())
    with torch.no_grad():
        net.weight += 50 * net.mask
    assert accuracy(net) == pytest.approx(0.5, abs=0.06)


def test_networks_with_streams_of_their_own(net):
    found = stream_accuracy(
        [net, net], NParity(), {2: 0, 3: 1}, generator=generator(), streams=2, steps=100, same_input=False
    )
    assert found.shape == (2, 2, 2)
    assert not np.array_equal(found[0], found[1])
    together = stream_accuracy([net, net], NParity(), {2: 0}, generator=generator(), steps=100)
    np.testing.assert_array_equal(together[0], together[1])


def test_retraining_starts_from_a_copy_of_the_head(net):
    before = [p.clone() for p in net.state_dict().values()]
    found = retrain_generalisation(net, NParity(), [3, 5], head=2, epochs=1, steps=3, batch=8, draws=3)
    assert found.shape == (2, 3)
    assert ((found > 0.3) & (found < 0.8)).all()
    assert all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True))


def test_fastest_and_slowest(net):
    order = net.tau.detach().argsort().tolist()
    assert choose_neurons(net, "fastest", 3) == order[:3]
    assert choose_neurons(net, "slowest", 3) == order[::-1][:3]


def test_networks_are_the_samples_unless_pooled():
    rng = np.random.default_rng(0)
    a = [rng.normal(m, 0.01, 50) for m in (0.0, 1.0, 2.0)]
    b = [rng.normal(m, 0.01, 50) for m in (0.5, 1.5, 2.5)]
    honest, pooled = compare({"a": a, "b": b})[0], compare({"a": a, "b": b}, pooled=True)[0]
    assert honest.samples == (3, 3)
    assert pooled.samples == (150, 150)
    assert pooled.p < 1e-4 < 0.3 < honest.p
    exact = compare({"a": [[0.0], [0.1], [0.2]], "b": [[1.0], [1.1], [1.2]]}, test="permutation")[0]
    assert exact.p == pytest.approx(0.1)
    assert compare({"a": [[1.0], [1.0]], "b": [[1.0], [1.0]]})[0].p == 1.0
    x, y = np.array([0.1, 0.4, 0.2]), np.array([0.5, 0.9, 0.8, 0.6])
    welch = compare({"x": list(x), "y": list(y)})[0].p
    assert welch == pytest.approx(stats.ttest_ind(x, y, equal_var=False).pvalue, rel=1e-12)
    with pytest.raises(JostleError, match="two samples"):
        compare({"a": [[1.0]], "b": [[1.0], [2.0]]})


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda net: perturb(net, "weights", -0.1, generator()), "size"),
        (lambda net: ablate(net, range(12)), "all neurons"),
        (lambda net: ablate(net, [12]), "neurons"),
        (lambda net: stream_accuracy([net], NParity(), {30: 0}, generator=generator(), warmup=10), "warmup"),
    ],
)
def test_what_cannot_be_done_is_refused(net, call, word):
    with pytest.raises(JostleError, match=word):
        call(net)
