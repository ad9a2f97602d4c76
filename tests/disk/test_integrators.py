"""The integrator: order, reversibility, quadrature, shares."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import Kick, PseudoIsothermal, integrators, milky_way, orbit_integral
from jostle.disk.integrators import cartesian, follow, quadrature, steps_between


def stars():
    rng = np.random.default_rng(0)
    place, vel, _ = cartesian(
        rng.uniform(7, 9, 20),
        0.1,
        0.3 * rng.normal(size=20),
        30 * rng.normal(size=20),
        220.0,
        20 * rng.normal(size=20),
    )
    return place, vel


def ends(h):
    place, vel = stars()
    follow(milky_way(), place, vel, 0.0, 0.2, h, True)
    return np.stack(place)


def test_fourth_order():
    exact = ends(5e-4)
    first, second = (np.abs(ends(h) - exact).max() for h in (8e-3, 4e-3))
    assert 3.5 < np.log2(first / second) < 6.5


def test_orbits_run_back():
    place, vel = stars()
    q, v = [c.copy() for c in place], [c.copy() for c in vel]
    follow(milky_way(), q, v, 0.0, 0.5, 0.005, True)
    assert np.abs(q[0] - place[0]).max() > 1
    follow(milky_way(), q, v, 0.5, 0.0, 0.005, True)
    assert np.abs(np.stack(q) - np.stack(place)).max() < 1e-9


def test_gregory_is_sixth_order():
    errors = []
    for count in (20, 40):
        x = np.linspace(0, 2, count + 1)
        errors.append(abs(quadrature(count) @ np.exp(x) * 2 / count - np.expm1(2)))
    assert errors[0] / errors[1] > 2**5.5
    assert all(abs(quadrature(n).sum() - n) < 1e-12 for n in (1, 2, 7, 8, 10, 31))


def test_shares_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    z, vz = 0.3 * rng.normal(size=50), 20 * rng.normal(size=50)
    whole = orbit_integral(PseudoIsothermal(), Kick(dv=1.0), z, vz, 0.3, vR=5.0, vphi=220.0).f1
    monkeypatch.setattr(integrators, "CHUNK", 7)
    assert np.array_equal(
        orbit_integral(PseudoIsothermal(), Kick(dv=1.0), z, vz, 0.3, vR=5.0, vphi=220.0).f1, whole
    )


def test_steps():
    assert steps_between(0.0, 1.0, 0.1) == 10 and steps_between(1.0, 0.0, 0.3) == 4
    with pytest.raises(JostleError, match="step must be positive"):
        steps_between(0.0, 1.0, -0.1)
