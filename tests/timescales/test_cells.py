"""Leaky cells: the folded loop against the textbook, its gradients against autograd, and their limits."""

import pytest
import torch

from jostle.core.errors import JostleError
from jostle.timescales.leaky import LeakyRNN, fold
from jostle.timescales.scan import scan, trace

PLACEMENTS = ["inside", "outside", "continuous"]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def textbook(net, x, start, substeps=1):
    state = start
    for x_t in x.unbind(1):
        for _ in range(substeps):
            state = net.silence(net.step(x_t, state, substeps))
    return state


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", ["leaky_relu", "relu", "tanh", "sigmoid", "identity"])
def test_states_and_gradients_are_those_of_the_textbook_loop(double, placement, kind):
    if placement == "inside" and kind == "sigmoid":
        pytest.skip("refused at the door")
    k = 3 if placement == "continuous" else 1
    net = LeakyRNN(
        12, 4, placement=placement, nonlinearity=kind, substeps=k, tau=(1.0, 4.0), generator=generator(1)
    )
    x = torch.bernoulli(torch.full((7, 11), 0.5), generator=generator(2))
    start = net.initial_state(7, generator(3)).requires_grad_()
    weights = torch.randn(7, 4, 2, generator=generator(4))

    def gradients(units):
        loss = (net.readout(units, [0, 1, 2, 3]) * weights).sum()
        return torch.autograd.grad(loss, [*net.parameters(), start])

    slow = textbook(net, x, start, k)
    folded = scan(net.fold(k), start[None], x.repeat_interleave(k, 1)[None], kind, net.slope)[0]
    torch.testing.assert_close(folded, slow, rtol=0, atol=1e-12)
    for ours, theirs in zip(gradients(folded), gradients(slow), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_gradients_of_all_states_are_those_of_autograd(double):
    net = LeakyRNN(9, generator=generator(1))
    x = torch.bernoulli(torch.full((5, 8), 0.5), generator=generator(2))
    start = net.initial_state(5, generator(3))
    seen, last = net.states(x, start)
    state, slow = start, []
    for x_t in x.unbind(1):
        state = net.step(x_t, state)
        slow.append(state)
    slow = torch.stack(slow)
    weights = torch.randn(slow.shape, generator=generator(4))
    parameters = [net.weight, net.bias, net.input_weight, net.input_bias, net.tau_raw]
    ours = torch.autograd.grad((seen * weights).sum(), parameters)
    theirs = torch.autograd.grad((slow * weights).sum(), parameters)
    torch.testing.assert_close(seen, slow, rtol=0, atol=1e-12)
    torch.testing.assert_close(last, slow[-1], rtol=0, atol=1e-12)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_single_precision_is_close_to_the_textbook_loop():
    net = LeakyRNN(50, generator=generator())
    x = torch.bernoulli(torch.full((16, 20), 0.5), generator=generator(2))
    start = net.initial_state(16, generator(3))
    torch.testing.assert_close(net.states(x, start)[1], textbook(net, x, start), rtol=0, atol=1e-6)


def test_networks_side_by_side_are_those_run_alone_also_at_unequal_lengths(double):
    nets = [LeakyRNN(8, generator=generator(i)) for i in range(3)]
    lengths = [9, 6, 6]
    xs = [torch.bernoulli(torch.full((4, n), 0.5), generator=generator(10 + n)) for n in lengths]
    starts = torch.stack([net.initial_state(4, generator(i)) for i, net in enumerate(nets)])
    padded = torch.stack([torch.nn.functional.pad(x, (9 - x.shape[1], 0)) for x in xs])
    active = [1, 1, 1, 3, 3, 3, 3, 3, 3]
    together = scan(fold(nets), starts, padded, active=active)
    together.pow(2).sum().backward()
    joint = [[p.grad for p in net.parameters() if p.grad is not None] for net in nets]
    for net in nets:
        net.zero_grad(set_to_none=True)
    for net, x, start, row, gradients in zip(nets, xs, starts, together, joint, strict=True):
        alone = textbook(net, x, start)
        torch.testing.assert_close(alone, row, rtol=0, atol=1e-12)
        alone.pow(2).sum().backward()
        for ours, theirs in zip(
            gradients, [p.grad for p in net.parameters() if p.grad is not None], strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_time_constant_below_one_has_no_gradient_and_no_memory(double):
    net = LeakyRNN(6, tau=[1.5, 1.0, 1.2, 1.0, 1.0, 1.0], generator=generator())
    net.set_tau(torch.tensor([1.5, 1.0, 1.2, 0.9, 0.5, 1.0]))
    x = torch.bernoulli(torch.full((5, 6), 0.5), generator=generator(1))
    net.final(x, generator(2)).pow(2).sum().backward()
    gradient = net.tau_raw.grad
    assert (gradient[[3, 4]] == 0).all()
    assert (gradient[[0, 1, 2, 5]] != 0).all()
    start = net.initial_state(5, generator(3))
    drive = start @ net.recurrent_matrix().T + net.bias + x[:, :1] * net.input_weight + net.input_bias
    memoryless = torch.nn.functional.leaky_relu(drive, net.slope)
    torch.testing.assert_close(net.states(x[:, :1], start)[1][:, [3, 4]], memoryless[:, [3, 4]])


def test_placements_agree_where_phi_is_the_identity_and_where_k_is_one(double):
    x = torch.bernoulli(torch.full((5, 9), 0.5), generator=generator(1))
    for kind, pair in [("identity", ("inside", "outside")), ("tanh", ("outside", "continuous"))]:
        a, b = (LeakyRNN(7, placement=p, nonlinearity=kind, generator=generator(2)) for p in pair)
        start = a.initial_state(5, generator(3))
        torch.testing.assert_close(a.states(x, start)[1], b.states(x, start)[1], rtol=0, atol=1e-13)


def test_continuous_cell_approaches_its_differential_equation(double):
    from scipy.integrate import solve_ivp

    net = LeakyRNN(5, placement="continuous", nonlinearity="tanh", tau=(1.0, 3.0), generator=generator(5))
    net.requires_grad_(False)
    start = net.initial_state(1, generator(6))
    weight, drive = net.recurrent_matrix(), net.bias + net.input_weight + net.input_bias

    def flow(_, r):
        r = torch.from_numpy(r)
        return ((-r + torch.tanh(weight @ r + drive)) / net.tau).numpy()

    exact = solve_ivp(flow, (0, 4), start[0].numpy(), rtol=1e-11, atol=1e-13).y[:, -1]
    errors = [
        float((net.states(torch.ones(1, 4), start, substeps=k)[1][0] - torch.from_numpy(exact)).abs().max())
        for k in (50, 100)
    ]
    assert errors[1] / errors[0] == pytest.approx(0.5, abs=0.1)


def test_diagonal_stays_zero_and_frozen_time_constants_stay(double):
    net = LeakyRNN(6, tau=3.0, train_tau=False, generator=generator())
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.5)
    for step in range(3):
        optimiser.zero_grad()
        net(torch.ones(4, 7), [0], generator(step)).pow(2).sum().backward()
        assert (net.weight.grad.diagonal() == 0).all()
        optimiser.step()
    assert (net.weight.diagonal() == 0).all()
    assert (net.tau == 3).all()


def test_softplus_bound_never_sticks():
    net = LeakyRNN(6, bound="softplus", tau=2.0, generator=generator())
    torch.testing.assert_close(net.tau, torch.full((6,), 2.0))
    net.set_tau(torch.full((6,), 1.0))
    net.final(torch.ones(2, 5), generator(1)).sum().backward()
    assert (net.tau > 1).all()
    assert (net.tau_raw.grad != 0).all()


def test_one_time_constant_can_be_shared():
    net = LeakyRNN(6, tau=2.0, shared_tau=True)
    assert net.tau_raw.shape == (1,)
    assert net.tau.shape == (6,)
    assert net(torch.ones(2, 5)).shape == (2, 1, 2)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_longer_sequences_than_a_block_have_the_gradients_of_the_textbook(double, monkeypatch, placement):
    from jostle.timescales import scan as module

    monkeypatch.setattr(module, "_block", lambda state: 4)
    nets = [LeakyRNN(5, placement=placement, tau=(1.0, 3.0), generator=generator(i)) for i in range(2)]
    x = torch.bernoulli(torch.full((2, 3, 11), 0.5), generator=generator(2))
    starts = torch.stack([net.initial_state(3, generator(3 + i)) for i, net in enumerate(nets)])
    active = [1] * 5 + [2] * 6
    scan(fold(nets), starts, x, active=active).pow(2).sum().backward()
    ours = [[p.grad for p in net.parameters() if p.grad is not None] for net in nets]
    for net, bits, start, gradients in zip(nets, (x[0], x[1, :, 5:]), starts, ours, strict=True):
        net.zero_grad(set_to_none=True)
        textbook(net, bits, start).pow(2).sum().backward()
        theirs = [p.grad for p in net.parameters() if p.grad is not None]
        for a, b in zip(gradients, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_spectral_radius_of_a_large_network_is_that_of_all_eigenvalues():
    for seed in range(3):
        net = LeakyRNN(240, generator=generator(seed))
        with torch.no_grad():
            net.weight *= 1 + seed
            a = net.leak()
            matrix = (torch.diag(1 - a) + a[:, None] * net.weight).double()
        whole = float(torch.linalg.eigvals(matrix).abs().max())
        assert net.spectral_radius() == pytest.approx(whole, rel=1e-9)


def test_a_masked_stream_is_an_ablated_network(double):
    net = LeakyRNN(6, generator=generator())
    x = torch.bernoulli(torch.full((1, 12), 0.5), generator=generator(1))
    start = net.initial_state(1, generator(2))
    mask = 1 - torch.eye(6)
    streams = trace(net.fold(), start.expand(6, -1)[None], x.expand(6, -1)[None], mask=mask[None])[:, 0]
    for i in range(6):
        net.alive.fill_(1)
        net.alive[i] = 0
        torch.testing.assert_close(streams[:, i], net.states(x, start)[0][:, 0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"tau": 0.5}, "tau"),
        ({"tau": float("nan")}, "tau"),
        ({"tau": [1.0, 2.0, 3.0]}, "tau"),
        ({"hidden": 0}, "hidden"),
        ({"heads": 0}, "heads"),
        ({"nonlinearity": "sigmoid"}, "sigmoid"),
        ({"substeps": 4}, "substeps"),
        ({"slope": 0.0}, "slope"),
        ({"init": "identity"}, "identity"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, word):
    with pytest.raises(JostleError, match=word):
        LeakyRNN(**{"hidden": 5, **settings})


def test_a_head_that_is_not_there_is_named():
    with pytest.raises(JostleError, match="head 3"):
        LeakyRNN(5, 2)(torch.ones(2, 4), [0, 3])
