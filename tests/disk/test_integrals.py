"""The integrals of motion under f0, and that linear and exact answers agree for warm stars."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import (
    FunctionPotential,
    G,
    Gaussian,
    LinearResponse,
    PseudoIsothermal,
    SpiralArms,
    StraightFlyby,
    liouville,
    milky_way,
    orbit_integral,
)
from jostle.disk.integrals import Integrals, focal_length
from jostle.disk.integrators import cartesian, follow


def kuzmin_kutuzov(a=3.5, c=0.6, M=1.2e11):
    """A Staeckel galaxy: -G M / (sqrt(lambda) + sqrt(nu)), with the focal length sqrt(a^2 - c^2)."""

    def value(R, z):
        mixed = np.sqrt(a * a * c * c + R * R * c * c + z * z * a * a)
        return -G * M / np.sqrt(R * R + z * z + a * a + c * c + 2 * mixed)

    def gradient(R, z):
        mixed = np.sqrt(a * a * c * c + R * R * c * c + z * z * a * a)
        pull = G * M * (R * R + z * z + a * a + c * c + 2 * mixed) ** -1.5
        return pull * R * (1 + c * c / mixed), pull * z * (1 + a * a / mixed)

    return FunctionPotential(value, gradient)


def warm(count, vphi, seed=0):
    rng = np.random.default_rng(seed)
    return (
        {
            "R": rng.uniform(7.5, 8.5, count),
            "phi": rng.uniform(-0.1, 0.1, count),
            "vR": 35.0 * rng.normal(size=count),
            "vphi": vphi + 20.0 * rng.normal(size=count),
        },
        0.25 * rng.normal(size=count),
        20.0 * rng.normal(size=count),
    )


def error(linear, exact, name="f1"):
    a, b = getattr(linear, name), getattr(exact, name)
    return np.sqrt(((a - b) ** 2).mean() / (b**2).mean())


def scatter(potential, count=100):
    """Of E_z' along orbits of warm stars, over the square of the dispersion."""
    disk = PseudoIsothermal(potential)
    v_c = 8 * float(disk.potential.frequencies(8.0)[0])
    star, z, vz = warm(count, v_c)
    place, vel, _ = cartesian(star["R"], star["phi"], z, star["vR"], star["vphi"], vz)
    first, rows = Integrals.of(disk, place, vel), []
    for _ in range(40):
        follow(disk.potential, place, vel, 0.0, 0.013, 0.0045, True)
        rows.append(Integrals.of(disk, place, vel, like=first).E_z)
    return np.array(rows).std(axis=0) / np.mean(rows, axis=0)


@pytest.mark.study
def test_third_integral_is_exact_in_a_staeckel_galaxy():
    D = focal_length(kuzmin_kutuzov(), np.array([5.0, 8.0]), np.array([0.1, 1.0]))
    assert np.allclose(D, np.sqrt(3.5**2 - 0.6**2), rtol=1e-5)
    assert scatter(kuzmin_kutuzov(), 40).max() < 1e-4


@pytest.mark.study
def test_third_integral_of_warm_stars_of_the_milky_way():
    assert np.median(scatter(milky_way())) < 0.008


def test_cool_stars_have_the_separable_vertical_energy():
    disk = PseudoIsothermal()
    v_c = 8 * float(disk.potential.frequencies(8.0)[0])
    place, vel, _ = cartesian(8.0, 0.0, 0.02, 0.1, v_c, 1.0)
    stars = Integrals.of(disk, place, vel)
    assert abs(stars.E_z[0] / disk.vertical(8.0).energy(0.02, 1.0) - 1) < 5e-3
    assert abs(stars.E_R[0]) < 0.1 and abs(stars.guide[0] - 8.0) < 1e-4


def passages(scale):
    return (
        (StraightFlyby(1e9 * scale, 270.0, (15.0, 0.0, 0.0), softening=1.6), -0.3),
        (SpiralArms(30 * scale, -1.2, 1.5, 25.0, alpha_odd=0.7, profile=Gaussian(20.0)), -0.31),
    )


@pytest.mark.study
def test_linear_answer_is_the_limit_of_the_exact_one_in_a_staeckel_galaxy():
    """With an exact third integral the error is linear in the perturbation, however warm the stars."""
    disk = PseudoIsothermal(kuzmin_kutuzov())
    star, z, vz = warm(60, 8 * float(disk.potential.frequencies(8.0)[0]))
    for strong, weak in zip(passages(0.1), passages(0.01), strict=True):
        found = []
        for blow, begin in (strong, weak):
            options = {**star, "begin": begin}
            pair = (f(disk, blow, z, vz, 0.3, **options) for f in (orbit_integral, liouville))
            found.append(error(*pair))
        assert found[1] < 0.01 and 8 < found[0] / found[1] < 12


@pytest.mark.study
def test_warm_stars_of_the_milky_way():
    disk = PseudoIsothermal()
    star, z, vz = warm(150, 225.0)
    for (blow, begin), most in zip(passages(0.01), (0.02, 0.06), strict=True):
        options = {**star, "begin": begin}
        linear, exact = (f(disk, blow, z, vz, 0.3, **options) for f in (orbit_integral, liouville))
        assert error(linear, exact) < most
        assert error(linear, exact, "dE") < 0.01 and error(linear, exact, "dL") < 0.01


def three_ways(R0, count=30):
    """(mode sum - orbit integral, back-trace - orbit integral) on a warm torus of a galaxy separable in R and z."""

    def value(R, z):
        u = np.abs(z) / 0.4
        return (30 * R0) ** 2 * np.log(R) + 2 * 23.0**2 * (u + np.log1p(np.exp(-2 * u)))

    def gradient(R, z):
        return (30 * R0) ** 2 / R + 0 * z, 2 * 23.0**2 / 0.4 * np.tanh(z / 0.4) + 0 * R

    disk = PseudoIsothermal(FunctionPotential(value, gradient), R_sun=R0)
    omega, kappa, _ = (float(f) for f in disk.potential.frequencies(R0))
    arms = SpiralArms(0.1, -1.2, 1.5, 25.0, alpha_odd=0.7, profile=Gaussian(20.0))
    w, X, J = np.random.default_rng(0).uniform(0, 2 * np.pi, (3, count)), 1.0, 8.0
    response = LinearResponse(disk, arms, n_max=14, l_max=14, tol=0.0)
    modes = response.torus(J, kappa * X * X / 2, (w[0], w[1], w[2]), 0.3, R0)
    z, vz = disk.vertical(R0).inverse(np.full(count, J), w[0])
    R = R0 + X * np.sin(w[1])
    phi = w[2] + 2 * omega * X / (kappa * R0) * np.cos(w[1])
    star = {"R": R, "phi": (phi + np.pi) % (2 * np.pi) - np.pi, "vR": kappa * X * np.cos(w[1])}
    star |= {"vphi": omega * R0**2 / R, "begin": -0.31}
    orbits, exact = (f(disk, arms, z, vz, 0.3, **star).f1 for f in (orbit_integral, liouville))
    size = np.sqrt((orbits**2).mean())
    return tuple(np.sqrt(((a - orbits) ** 2).mean()) / size for a in (modes, exact))


@pytest.mark.study
def test_mode_sum_orbit_integral_and_back_trace_agree_for_warm_stars():
    """k_R X = 1.2: warm. What the mode sum leaves is the epicyclic approximation, of order X / R."""
    near, far = three_ways(20.0), three_ways(160.0)
    assert far[0] < 0.012 and near[0] > 3 * far[0]
    assert near[1] < 3e-3 and far[1] < 3e-3


def test_counter_rotation_is_refused():
    with pytest.raises(JostleError, match="must rotate"):
        orbit_integral(PseudoIsothermal(), passages(1.0)[0][0], 0.1, 5.0, 0.3, vR=0.0, vphi=-220.0)
