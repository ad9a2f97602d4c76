"""Time profiles: closed kernels against quadrature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jostle.core.errors import JostleError
from jostle.disk import Gaussian, Growing, Impulse, Saturating


@pytest.mark.study
@pytest.mark.parametrize(
    "profile", [Gaussian(1.3), Gaussian(0.4, unit_area=False), Growing(0.5), Saturating(0.7)]
)
@pytest.mark.parametrize("t", [-1.0, 0.5, 6.0])
def test_kernels_are_the_integral(profile, t):
    omega = np.array([0.0, 0.7, 2.5])
    brute = profile.damped_kernel(omega, t, lambda elapsed: 1.0, nodes=2000)
    assert np.abs(profile.kernel(omega, t) - brute).max() < 1e-8 * max(1.0, np.abs(brute).max())


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 50), st.floats(-300, 300), st.floats(-200, 200))
def test_gaussian_is_finite_and_bounded(omega0, omega, t):
    size = abs(complex(Gaussian(omega0).kernel(np.array(omega), t)))
    assert size <= 1 + 1e-12  # |int T exp| <= int T


def test_impulse_waits_for_its_time():
    assert complex(Impulse().kernel(np.array(2.0), -1.0)) == 0
    assert abs(complex(Impulse().kernel(np.array(2.0), 1.0)) - np.exp(-2j)) < 1e-15


def test_rates_must_be_positive():
    for kind in (Gaussian, Growing, Saturating):
        with pytest.raises(JostleError, match="must be positive"):
            kind(0.0)


def test_resonance_grows_linearly():
    kernel = Saturating(1e-3)
    first, second = (abs(kernel.kernel(np.array(0.0), t)) - 1e3 for t in (5.0, 10.0))
    assert abs(second / first - 2) < 1e-9
    assert abs(abs(Saturating(1e-3).kernel(np.array(2.0), 5.0))) < 1.6
    assert np.allclose(Growing(0.5).kernel(np.array(2.0), 1.0), np.exp(0.5) / (0.5 + 2j))
