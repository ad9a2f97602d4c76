"""Plain numbers and Quantities at every public door."""

import numpy as np
import pytest

from jostle.core.errors import JostleError
from jostle.disk import units as room

u = pytest.importorskip("astropy.units")
from jostle import disk as d  # noqa: E402

kpc, pc, kms, gyr = u.kpc, u.pc, u.km / u.s, u.Gyr
GAL = d.PseudoIsothermal()
STARS = d.TestParticles.sample(d.IsothermalSlab(0.4, 23.0), 3000, np.random.default_rng(0)).run(
    d.Kick(dv=4.0), -0.01, 0.4
)
T = 0.2 * d.GYR


def _spiral(z, v, R, t):
    slab = d.IsothermalSlab(0.4, 23.0)
    return d.PhaseSpiral.fit(z, v, R, potential=slab, t_max=t, bootstraps=0).time


DOORS = {
    "IsothermalSlab": (
        lambda h, s, p: d.IsothermalSlab(h, s, p).rho_c, (0.4, 23.0, 35.0), (400 * pc, 23e3 * u.m / u.s, 35 * kms)),
    "MiyamotoNagai": (
        lambda M, a, b, R: d.MiyamotoNagai(M, a, b)(R, b), (6.8e10, 3.0, 0.28, 8.0),
        (6.8e10 * u.Msun, 3000 * pc, 280 * pc, 8 * kpc)),
    "NFW": (lambda M, r: d.NFW(M, 15.3, r)(8.0, 0.0), (8e11, 245.0), (8e11 * u.Msun, 245e3 * pc)),
    "frequencies": (lambda R: d.milky_way().frequencies(R), (8.0,), (8000 * pc,)),
    "VerticalActions": (
        lambda R, zm, z, v: d.VerticalActions(d.milky_way(), R, zm)(z, v), (8.0, 3.0, 0.4, 9.0),
        (8000 * pc, 3000 * pc, 400 * pc, 9e3 * u.m / u.s)),
    "inverse": (
        lambda J, w: GAL.vertical(8.0).inverse(J, w), (9.0, 0.5), (9000 * pc * kms, np.degrees(0.5) * u.deg)),
    "EpicyclicActions": (
        lambda lo, hi, R, p, v: d.EpicyclicActions(d.milky_way(), lo, hi, radii=8)(R, p, 0.1, v, 220.0, v).J_R,
        (7.0, 9.0, 8.0, 0.1, 5.0), (7000 * pc, 9000 * pc, 8000 * pc, np.degrees(0.1) * u.deg, 5e3 * u.m / u.s)),
    "PseudoIsothermal": (
        lambda s, S, h, R: d.PseudoIsothermal(None, s, s, S, h, h, R).mean_action(R), (20.0, 5e7, 2.5, 8.0),
        (20e3 * u.m / u.s, 50 * u.Msun / u.pc**2, 2500 * pc, 8000 * pc)),
    "Kick": (lambda v, z: d.Kick(v, z).apply(0.0, 0.0), (1.0, 0.01), (1e3 * u.m / u.s, 10 * pc)),
    "GaussianPulse": (
        lambda a, o: d.GaussianPulse(d.odd_shape(a), o).profile.value(0.0), (1.0, 20.0),
        (1 * kms, 20 * kms / kpc)),
    "SpiralArms": (
        lambda A, k, o: d.SpiralArms(A, k, k, o).gradient(np.array(8.0), np.array(1.0), np.array(0.1), 0.01),
        (100.0, 1.2, 25.0), (100 * kms**2, 1.2e-3 * u.rad / pc, 25 * kms / kpc)),
    "GrowingWave": (
        lambda g, o: d.GrowingWave(d.even_shape(1.0), g, m=2, Omega_P=o).timescale, (3.0, 30.0),
        (3 * kms / kpc, 30 * kms / kpc)),
    "StraightFlyby": (
        lambda M, v, x, e: d.StraightFlyby(M, v, x, softening=e).line_transform(8.0, 0.0, np.array(0.1), np.array(70.0))[0],
        (1e9, 270.0, (15.0, 0.0, 0.0), 1.0), (1e9 * u.Msun, 270 * kms, [15e3, 0, 0] * pc, 1000 * pc)),
    "SatelliteOrbit": (
        lambda t, x, M: d.SatelliteOrbit(t, x, d.Body(M, 1.0)).velocity(0.1),
        (np.linspace(-1, 1, 9), np.outer(np.linspace(-1, 1, 9), [1.0, 2.0, 3.0]), 1e9),
        (np.linspace(-1, 1, 9) / d.GYR * gyr, 1000 * np.outer(np.linspace(-1, 1, 9), [1.0, 2.0, 3.0]) * pc, 1e9 * u.Msun)),
    "GMCDiffusion": (
        lambda T_, J: d.GMCDiffusion(T_).tau_I(GAL, 8.0, 1, J), (10 * d.GYR, 9.0), (10 * gyr, 9000 * pc * kms)),
    "LinearResponse": (
        lambda z, v, t, R, p, w: d.LinearResponse(GAL, d.Kick(dv=1.0))(z, v, t, R, p, w),
        (0.2, 9.0, T, 8.0, 0.1, 0.01), (200 * pc, 9 * kms, 0.2 * gyr, 8000 * pc, np.degrees(0.1) * u.deg, 10 * pc)),
    "map": (
        lambda t, z, v: d.LinearResponse(GAL, d.Kick(dv=1.0)).map(t, z_max=z, v_max=v, points=31).values,
        (0.1, 0.8, 50.0), (0.1 / d.GYR * gyr, 800 * pc, 50 * kms)),
    "spectrum": (lambda t, R: d.LinearResponse(GAL, d.Kick(dv=1.0)).spectrum(t, R), (T, 8.0), (0.2 * gyr, 8000 * pc)),
    "modes": (lambda J, t: d.LinearResponse(GAL, d.Kick(dv=1.0)).modes(J, t)[1], (9.0, T), (9 * kpc * kms, 200 * u.Myr)),
    "orbit_integral": (
        lambda z, v, t, R, vR, vp, h: d.orbit_integral(GAL, d.Kick(dv=1.0), z, v, t, R=R, vR=vR, vphi=vp, step=h).f1,
        (0.2, 9.0, T, 8.0, 5.0, 220.0, 0.005 * d.GYR),
        (200 * pc, 9 * kms, 0.2 * gyr, 8000 * pc, 5 * kms, 220 * kms, 5 * u.Myr)),
    "liouville": (
        lambda z, v, t, R: d.liouville(GAL, d.Kick(dv=1.0), z, v, t, R=R).f1, (0.2, 9.0, T, 8.0),
        (200 * pc, 9 * kms, 0.2 * gyr, 8000 * pc)),
    "TestParticles": (
        lambda R, t: d.TestParticles.sample(GAL, 5, np.random.default_rng(0), R).run(None, 0.0, t).z, (8.0, T),
        (8000 * pc, 0.2 * gyr)),
    "lateral_gaussian": (
        lambda x, w, s, t: d.lateral_gaussian(x, w, s, t), (0.1, 1.0, 35.0, T), (100 * pc, 1 * kpc, 35 * kms, 0.2 * gyr)),
    "encounter_table": (
        lambda M, t, R: d.encounter_table(["Sgr"], masses={"Sgr": M}, times=t, R=R).rows[0].bending,
        (1e9, (-1.6, 0.0), 8.0), (1e9 * u.Msun, (-1600 * u.Myr, 0 * gyr), 8000 * pc)),
    "PhaseSpiral": (
        _spiral, (STARS.z, STARS.vz, 8.0, 0.6), (STARS.z * 1000 * pc, STARS.vz * kms, 8000 * pc, 0.6 / d.GYR * gyr)),
    "a tuple of quantities": (
        lambda at: d.StraightFlyby(1e9, 270.0, at).position(0.01), ((13.0, 2.0, 0.0),), ((13 * kpc, 2000 * pc, 0 * pc),)),
    "fit_kick": (
        lambda z, s, t: d.fit_kick((z, 0.1 * np.sin(np.arange(9)), 0.1 + np.zeros(9)), None, sigmas=s, t_max=t, times=9).dz,
        (np.linspace(0.1, 1, 9), (18.0, 38.0), 0.5), (np.linspace(100, 1000, 9) * pc, [18, 38] * kms, 0.5 / d.GYR * gyr)),
    "from_galpy": (
        lambda r, v: d.from_galpy(__import__("galpy.potential").potential.MWPotential2014, r, v).frequencies(8.0)[0],
        (8.0, 220.0), (8000 * pc, 220 * kms)),
}  # fmt: skip


@pytest.mark.study
@pytest.mark.parametrize("door", DOORS)
def test_quantities_mean_the_same_as_plain_numbers(door):
    call, plain, quantities = DOORS[door]
    for a, b in zip(np.atleast_1d(call(*plain)), np.atleast_1d(call(*quantities)), strict=True):
        assert np.allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-12)


def test_wrong_units_are_refused_in_a_sentence():
    with pytest.raises(JostleError, match="R must be in units of kpc, but it came in s"):
        d.VerticalActions(d.milky_way(), 8 * u.s)
    with pytest.raises(JostleError, match="t must be in units of kpc s/km"):
        d.orbit_integral(GAL, d.Kick(dv=1.0), 0.1, 5.0, 1 * kpc)
    with pytest.raises(JostleError, match="impact must have units in all its parts or in none"):
        d.StraightFlyby(1e9, 270.0, (13 * kpc, 2, 0))
    with pytest.raises(JostleError, match="must be numbers"):
        room.plain("eight", "kpc", "R")
    with pytest.raises(JostleError, match="must be one number"):
        room.number([1, 2], "kpc", "R")
    with pytest.raises(JostleError, match="must be finite"):
        room.number(np.nan, "kpc", "R")


def test_constants():
    from astropy import constants

    G = constants.G.to_value(kpc * kms**2 / u.Msun)
    assert abs(d.G / G - 1) < 1e-4  # the solar mass is known through G M
    assert abs((1 * gyr).to_value(kpc / kms) / d.GYR - 1) < 1e-9 and abs(d.MYR * 1000 / d.GYR - 1) < 1e-15
