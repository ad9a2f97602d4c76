"""The numeric checks of the algorithms on quadratics, where every limit is known."""

import pytest
import torch
from federated.quadratics import Problem, local

from jostle.federated import (
    FedADMM,
    FedAvg,
    FedDyn,
    FedGamma,
    FedProx,
    FedSAM,
    FedSMOO,
    FedSpeed,
    Scaffold,
    losing,
)

PROBLEM = Problem()


def walk(algorithm, rounds, problem=PROBLEM, settings=None, steps=None, start=None):
    """A course after so many rounds."""
    course = problem.federation(start, **(settings or {})).start(algorithm, steps or local())
    for _ in range(rounds):
        course.advance()
    return course


def h(course, i):
    """What client `i` remembers of its correction, as the server knows it."""
    memory = course.memories[i]
    return memory.recall(course.server.last(i), course.server.generation)["h"]


@pytest.mark.study
def test_without_ascent_fedspeed_is_feddyn() -> None:
    one = walk(FedSpeed(prox_mu=1.0, alpha=0.0), 4)
    two = walk(FedDyn(prox_mu=1.0), 4)
    zero = walk(FedSpeed(prox_mu=1.0, alpha=1.0, rho=0.0), 4)
    assert (one.server.x - two.server.x).abs().max() < 1e-14
    assert (one.server.x - zero.server.x).abs().max() < 1e-14
    assert (one.server.x - walk(FedSpeed(prox_mu=1.0), 4).server.x).abs().max() > 1e-3


def test_a_vanishing_proximal_term_leaves_fedsam() -> None:
    gap = walk(FedSpeed(prox_mu=1e-12), 1).server.vectors["hbar"] - (
        walk(FedSAM(), 1).server.x - PROBLEM.start
    )
    assert gap.abs().max() < 1e-9


def test_first_round_of_feddyn_is_fedprox_plus_the_mean_move() -> None:
    dyn, prox = walk(FedDyn(prox_mu=0.7), 1), walk(FedProx(prox_mu=0.7), 1)
    move = prox.server.x - PROBLEM.start
    assert (dyn.server.vectors["hbar"] - move).abs().max() < 1e-14
    assert (dyn.server.x - prox.server.x - move).abs().max() < 1e-14


@pytest.mark.study
def test_the_correction_is_a_moving_average_of_gradients() -> None:
    """`g_i^t = (1-gamma)*g_i^{t-1} + sum_k gamma_k q_k`, with the gradients of a plain replay."""
    lam, eta, K = 2.0, 0.1, 7
    course = PROBLEM.federation().start(FedSpeed(prox_lambda=lam, alpha=0.5, rho=0.1), local(K, eta))
    weights = [(eta / lam) * (1 - eta / lam) ** (K - 1 - k) for k in range(K)]
    gamma = 1 - (1 - eta / lam) ** K
    assert sum(weights) == pytest.approx(gamma, abs=1e-15)
    g = torch.zeros(5, 4, dtype=torch.float64)
    for _ in range(6):
        x = course.server.x
        new = torch.empty_like(g)
        for i in range(5):
            v, total = x.clone(), torch.zeros(4, dtype=torch.float64)
            for k in range(K):
                g1 = PROBLEM.gradient(i, v)
                e = 0.1 * g1 / (g1.norm() + 1e-7)
                q = 0.5 * g1 + 0.5 * PROBLEM.gradient(i, v + e)
                total += weights[k] * q
                v = v - eta * (q - g[i] + (v - x) / lam)
            new[i] = (1 - gamma) * g[i] + total
        course.advance()
        for i in range(5):
            assert (-h(course, i) / lam - new[i]).abs().max() < 1e-12
        g = new


@pytest.mark.study
def test_full_participation_is_heavy_ball_momentum() -> None:
    lam, eta, K = 10.0, 0.1, 50
    gamma = 1 - (1 - eta / lam) ** K
    assert gamma == pytest.approx(0.394994, abs=1e-5) and lam * gamma == pytest.approx(3.94994, abs=1e-5)
    course = PROBLEM.federation().start(FedSpeed(prox_lambda=lam), local(K, eta))
    x, G, Y = [PROBLEM.start], [torch.zeros(4, dtype=torch.float64)], []
    for _ in range(6):
        row = course.advance()
        assert row["accepted"] == 5
        x.append(course.server.x)
        G.append(-course.server.vectors["hbar"] / lam)
        Y.append(course.server.x - course.server.vectors["hbar"])
    Q = [(G[t + 1] - (1 - gamma) * G[t]) / gamma for t in range(6)]
    for t in range(6):
        assert (x[t + 1] - (x[t] - lam * (2 * G[t + 1] - G[t]))).abs().max() < 1e-12
    for t in range(5):
        assert (Y[t + 1] - (Y[t] - lam * G[t + 2])).abs().max() < 1e-12
    for t in range(1, 5):
        momentum = Y[t] + (1 - gamma) * (Y[t] - Y[t - 1]) - lam * gamma * Q[t + 1]
        assert (Y[t + 1] - momentum).abs().max() < 1e-12


@pytest.mark.study
def test_feddyn_reaches_the_minimiser_and_its_corrections_the_gradients() -> None:
    course, best = walk(FedDyn(prox_mu=2.0), 120, steps=local(7, 0.1)), PROBLEM.minimiser()
    assert (course.server.x - best).abs().max() < 1e-12
    g = torch.stack([-2.0 * h(course, i) for i in range(5)])
    assert g.sum(0).abs().max() < 1e-12
    wanted = torch.stack([PROBLEM.gradient(i, best) for i in range(5)])
    assert (g - wanted).abs().max() < 1e-11
    # FedAvg has a bias that stays.
    assert (walk(FedAvg(), 40).server.x - best).abs().max() > 1e-2


@pytest.mark.study
@pytest.mark.parametrize(
    "algorithm", [FedDyn(prox_mu=2.0), Scaffold(), FedADMM(prox_mu=2.0)], ids=lambda a: a.name
)
def test_the_minimiser_is_reached_with_absent_clients(algorithm) -> None:
    course = walk(algorithm, 210, settings={"fraction": 0.4})
    assert course.history[-1]["active"] == 2
    assert (course.server.x - PROBLEM.minimiser()).abs().max() < 1e-12


@pytest.mark.study
def test_the_printed_aggregation_does_not_converge_with_absent_clients() -> None:
    algorithm = FedSpeed(prox_mu=1.0, alpha=0.0, aggregation="active")
    with pytest.warns(UserWarning) as told:
        course = walk(algorithm, 60, settings={"fraction": 0.4})
    assert "does not converge" in str(told[0].message)
    errors = []
    with pytest.warns(UserWarning, match="longer than the model itself"):
        for _ in range(30):
            course.advance()
            errors.append(float((course.server.x - PROBLEM.minimiser()).abs().max()))
    assert max(errors) > 0.1


def test_with_everybody_there_the_printed_aggregation_is_the_same() -> None:
    one, two = walk(FedSpeed(aggregation="active"), 5), walk(FedSpeed(), 5)
    assert (one.server.x - two.server.x).abs().max() < 1e-14


@pytest.mark.study
@pytest.mark.parametrize(("alpha", "share"), [(1.0, 1.0), (0.5, 0.5)])
def test_raw_ascent_moves_the_minimum_as_predicted(alpha, share) -> None:
    course = walk(FedSpeed(prox_mu=2.0, rho=0.05, alpha=alpha, ascent="raw"), 110)
    moved = PROBLEM.minimiser(share * 0.05 * PROBLEM.A @ PROBLEM.A)
    assert (course.server.x - moved).abs().max() < 1e-10
    assert (moved - PROBLEM.minimiser()).abs().max() > 1e-3


def test_one_client_one_step() -> None:
    problem = Problem(clients=1)
    course = walk(FedDyn(prox_mu=3.0), 1, problem, steps=local(1, 0.1))
    step = -0.1 * problem.gradient(0, problem.start)
    assert (h(course, 0) - step).abs().max() < 1e-15
    assert (course.server.x - (problem.start + 2 * step)).abs().max() < 1e-15


@pytest.mark.study
@pytest.mark.parametrize("algorithm", [Scaffold(), FedGamma()], ids=lambda a: a.name)
def test_scaffold_keeps_the_mean_of_its_variates(algorithm) -> None:
    course = walk(algorithm, 60, settings={"fraction": 0.4, "transport": losing(0.1, seed=3)})
    total = torch.zeros(4, dtype=torch.float64)
    for i, memory in course.memories.items():
        total += memory.recall(course.server.last(i)).get("c", torch.zeros(4, dtype=torch.float64))
    assert (course.server.vectors["c"] - total / 5).abs().max() < 1e-12


def test_after_one_step_of_everybody_a_variate_is_the_gradient() -> None:
    course = walk(Scaffold(), 3, steps=local(1))
    x = course.server.x
    course.advance()
    for i, memory in course.memories.items():
        assert (memory.recall(3)["c"] - PROBLEM.gradient(i, x)).abs().max() < 1e-12


@pytest.mark.study
@pytest.mark.parametrize(
    "algorithm", [FedDyn(prox_mu=2.0), Scaffold(), FedADMM(prox_mu=2.0)], ids=lambda a: a.name
)
def test_lost_replies_do_no_harm(algorithm) -> None:
    course = walk(algorithm, 150, settings={"fraction": 0.6, "transport": losing(0.1, seed=1)})
    assert sum(row["active"] - row["accepted"] for row in course.history) > 25
    assert (course.server.x - PROBLEM.minimiser()).abs().max() < 1e-12


@pytest.mark.study
@pytest.mark.parametrize("algorithm", [FedSpeed(), FedSMOO()], ids=lambda a: a.name)
def test_hbar_stays_the_mean_of_all_corrections(algorithm) -> None:
    course = walk(algorithm, 100, settings={"fraction": 0.6, "transport": losing(0.1, seed=2)})
    total = torch.zeros(4, dtype=torch.float64)
    for i in course.memories:
        if course.server.last(i) >= 0:
            total += h(course, i)
    assert (course.server.vectors["hbar"] - total / 5).abs().max() < 1e-12


@pytest.mark.study
def test_weights_of_the_correction_choose_the_objective() -> None:
    """`hbar` weighed by samples leads to the minimiser of the weighed sum."""
    problem = Problem()
    problem.clients = [
        (torch.cat([x] * (i + 1)), torch.zeros(i + 1)) for i, (x, _) in enumerate(problem.clients)
    ]
    course = walk(FedDyn(prox_mu=2.0), 110, problem, {"client_weights": "samples"}, local(2))
    p = torch.arange(1.0, 6, dtype=torch.float64) / 15
    A = p[:, None, None] * problem.A
    best = torch.linalg.solve(A.sum(0), torch.einsum("mij,mj->i", A, problem.b))
    assert (course.server.x - best).abs().max() < 1e-11


@pytest.mark.study
def test_at_the_minimum_nothing_moves_and_nothing_is_nan() -> None:
    problem = Problem(clients=2)
    problem.clients = [problem.clients[0]] * 2
    assert torch.equal(walk(FedSAM(), 3, problem, start=problem.b[0]).server.x, problem.b[0])
    # A normalised ascent has no fixed point: rounding starts it, and it circles within about its radius.
    course = walk(FedSpeed(rho=0.1), 60, problem, start=problem.b[0])
    assert bool(torch.isfinite(course.server.x).all())
    assert (course.server.x - problem.b[0]).norm() < 0.2
