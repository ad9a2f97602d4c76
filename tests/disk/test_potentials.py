"""Potentials: forces are slopes, nothing cancels near the plane, sums add."""

import numpy as np
import pytest
from helpers import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.core.errors import JostleError
from jostle.disk import NFW, Composite, IsothermalSlab, MiyamotoNagai, milky_way

ALL = [IsothermalSlab(0.4, 23.0), MiyamotoNagai(), NFW(), milky_way()]


@pytest.mark.parametrize("potential", ALL, ids=lambda p: type(p).__name__)
@settings(max_examples=30, deadline=None)
@given(st.floats(1.0, 25.0), st.floats(-4.0, 4.0))
def test_gradient_and_pull_are_the_slopes(potential, R, z):
    R, z, h = np.array([R]), np.array([z]), 1e-4
    dR, dz = potential.gradient(R, z)
    brute_R = (potential.value(R + h, z) - potential.value(R - h, z)) / (2 * h)
    brute_z = (potential.value(R, z + h) - potential.value(R, z - h)) / (2 * h)
    assert np.allclose([dR, dz], [brute_R, brute_z], rtol=1e-5, atol=2e-3)
    pull = potential.pull(R * R, z)
    assert np.allclose(pull[0] * R, dR, rtol=1e-9, atol=1e-9) and np.allclose(
        pull[1] * z, dz, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("potential", ALL, ids=lambda p: type(p).__name__)
def test_lift_has_no_cancellation(potential):
    R = np.full(3, 8.0)
    z = np.array([1e-8, 1e-3, 2.0])
    direct = potential.value(R[2:], z[2:]) - potential.value(R[2:], 0 * z[2:])
    assert np.allclose(potential.lift(R, z)[2:] * 4.0, direct, rtol=1e-11)
    assert abs(potential.lift(R, z)[0] / (0.5 * potential.frequencies(8.0)[2] ** 2) - 1) < 1e-9
    assert abs(potential.lift(R, z)[1] / potential.lift(R, z)[0] - 1) < 1e-3


def test_sums_are_flat_and_add():
    total = MiyamotoNagai() + NFW() + MiyamotoNagai(M=1e9)
    assert isinstance(total, Composite) and len(total.parts) == 3
    assert abs(total(8.0, 0.3) - sum(p(8.0, 0.3) for p in total.parts)) < 1e-9


def test_kepler_far_away():
    omega, kappa, _ = MiyamotoNagai(a=0.0, b=1e-3).frequencies(50.0)
    assert abs(kappa / omega - 1) < 1e-6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MiyamotoNagai(M=-1.0), "M must be a mass"),
        (lambda: MiyamotoNagai(a=-1.0), "a must not be negative"),
        (lambda: NFW(c=0.0), "c must be positive"),
        (lambda: IsothermalSlab(h_z=0.0), "h_z must be positive"),
        (lambda: plain(Composite.__init__)(object.__new__(Composite), (1,)), "parts must be potentials"),
        (lambda: milky_way().frequencies(0.0), "R must be positive"),
    ],
)
def test_refusals(make, says):
    with pytest.raises(JostleError, match=says):
        make()
