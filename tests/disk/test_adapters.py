"""galpy, gala, functions and names as potentials."""

import numpy as np
import pytest
from helpers import plain

from jostle.core.errors import JostleError
from jostle.disk import (
    FunctionPotential,
    Kick,
    LinearResponse,
    PseudoIsothermal,
    VerticalActions,
    as_potential,
    from_gala,
    from_galpy,
    milky_way,
    named_potential,
)

R, Z = np.array([4.0, 8.0, 12.0]), np.array([0.0, 0.3, -1.0])


@pytest.mark.study
def test_galpy_gives_our_milky_way():
    galpy = pytest.importorskip("galpy.potential")
    disk, halo = milky_way().parts
    theirs = [
        galpy.MiyamotoNagaiPotential(amp=4.30091727e-6 * disk.M / (8 * 220**2), a=3 / 8, b=0.28 / 8),
        galpy.NFWPotential(amp=halo._amplitude / (8 * 220**2), a=halo.r_s / 8),
    ]
    other = from_galpy(theirs)
    assert np.allclose(other.value(R, Z), milky_way().value(R, Z), rtol=1e-10)
    assert np.allclose(other.gradient(R, Z), milky_way().gradient(R, Z), rtol=1e-9, atol=1e-9)
    assert np.allclose(other.lift(R, Z), milky_way().lift(R, Z), rtol=1e-8)


@pytest.mark.study
def test_gala_gives_our_milky_way():
    gala = pytest.importorskip("gala.potential")
    units = pytest.importorskip("gala.units")
    disk, halo = milky_way().parts
    mn = gala.MiyamotoNagaiPotential(m=disk.M, a=3.0, b=0.28, units=units.galactic)
    nfw = gala.NFWPotential(m=halo._amplitude / 4.30091727e-6, r_s=halo.r_s, units=units.galactic)
    other = from_gala(mn + nfw)
    assert np.allclose(other.value(R, Z), milky_way().value(R, Z), rtol=1e-5)
    assert np.allclose(VerticalActions(other)(0.4, 10.0), VerticalActions(milky_way())(0.4, 10.0), rtol=1e-5)


@pytest.mark.study
def test_a_galpy_galaxy_all_the_way_to_a_map():
    galpy = pytest.importorskip("galpy.potential")
    response = LinearResponse(PseudoIsothermal(galpy.MWPotential2014), Kick(dv=1.0))
    assert np.isfinite(response.map(0.2, points=41).values).all()


def test_a_function_is_enough():
    ours = milky_way()
    mine = FunctionPotential(ours.value)
    assert np.allclose(mine.gradient(R, Z), ours.gradient(R, Z), rtol=1e-8, atol=1e-6)
    assert np.allclose(mine.lift(R, Z), ours.lift(R, Z), rtol=[1e-5, 1e-8, 1e-8])  # the first in the plane


def test_names(tmp_path):
    assert np.allclose(named_potential("milky-way").value(R, Z), milky_way().value(R, Z))
    pytest.importorskip("galpy")
    omega = named_potential("galpy:MWPotential2014").frequencies(8.0)[0]
    assert abs(8 * omega - 220) < 0.1
    file = tmp_path / "mine.py"
    file.write_text(
        "from jostle.disk import MiyamotoNagai\n\ndef galaxy():\n    return MiyamotoNagai(M=1e11)\n"
    )
    assert named_potential(f"{file}:galaxy").M == 1e11
    file.write_text("def galaxy():\n    return 1 / 0\n")
    with pytest.raises(JostleError, match="ZeroDivisionError"):
        named_potential(f"{file}:galaxy")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: named_potential("andromeda"), "milky-way, no-halo, galpy:NAME"),
        (lambda: named_potential("galpy:Nothing"), "galpy has no potential"),
        (lambda: as_potential(3.0), "must be a potential or a function"),
        (
            lambda: plain(FunctionPotential.__init__)(object.__new__(FunctionPotential), "x"),
            "must be a function",
        ),
        (lambda: from_gala("x"), "must be a gala potential"),
    ],
)
def test_refusals(make, says):
    pytest.importorskip("galpy")
    pytest.importorskip("gala")
    with pytest.raises(JostleError, match=says):
        make()


def test_a_bar_is_no_axisymmetric_galaxy():
    galpy = pytest.importorskip("galpy.potential")
    with pytest.raises(JostleError, match="axisymmetric"):
        from_galpy(galpy.DehnenBarPotential())
