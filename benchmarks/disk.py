"""Speed of the room `disk` on one core, beside galpy and gala, in one run: `python benchmarks/disk.py`."""

import importlib.metadata
import platform
import time
import warnings

import numpy as np

from jostle.disk import (
    GYR,
    Body,
    Kick,
    LinearResponse,
    PseudoIsothermal,
    SatelliteOrbit,
    VerticalActions,
    encounter_table,
    milky_way,
    orbit_integral,
)

warnings.simplefilter("ignore")


def cost(work, count: int, repeat: int = 3) -> float:
    """Best CPU time in microseconds an item."""
    best = np.inf
    for _ in range(repeat):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best / count * 1e6


def main() -> None:
    from astropy import units
    from gala.dynamics import PhaseSpacePosition
    from gala.integrate import DOPRI853Integrator
    from gala.potential import CCompositePotential, MiyamotoNagaiPotential, NFWPotential
    from gala.units import galactic
    from galpy.actionAngle import actionAngleVertical
    from galpy.orbit import Orbit
    from galpy.potential import MiyamotoNagaiPotential as GalpyMN
    from galpy.potential import NFWPotential as GalpyNFW
    from galpy.potential import toVerticalPotential

    for name in ("numpy", "scipy", "galpy", "gala", "astropy"):
        print(name, importlib.metadata.version(name), end="  ")
    print(platform.processor() or platform.machine())
    ours = milky_way()
    disk_part, halo = ours.parts
    G = 4.30091727e-6
    theirs = [
        GalpyMN(amp=G * disk_part.M / (8 * 220**2), a=3 / 8, b=0.28 / 8),
        GalpyNFW(amp=halo._amplitude / (8 * 220**2), a=halo.r_s / 8),
    ]
    rng = np.random.default_rng(0)
    z, vz = 0.3 * rng.normal(size=100000), 20 * rng.normal(size=100000)
    va = VerticalActions(ours)
    mine = cost(lambda: va(z, vz), z.size)
    peer = actionAngleVertical(pot=toVerticalPotential(theirs, 1.0))
    few = slice(0, 40)
    his = cost(
        lambda: [peer.actionsFreqsAngles(a / 8, b / 220) for a, b in zip(z[few], vz[few], strict=True)], 40, 1
    )
    print(f"vertical I, Omega, w: {mine:.3f} us/star, galpy {his:.0f} us/star, ratio {his / mine:.0f}")
    for modes in (4, 8, 16):
        response = LinearResponse(ours, Kick(dv=1.0), n_max=modes, tol=0.0)
        response.map(0.4)
        print(f"200 x 200 map, {modes} modes: {cost(lambda r=response: r.map(0.4), 1) / 1e6:.3f} s")
    t = np.linspace(-1, 1, 200)
    sat = SatelliteOrbit(t, np.stack([15 + 0 * t, 5 + 100 * t, 270 * t], 1), Body(1e10, 1.6))
    galaxy = PseudoIsothermal(ours)

    def error(answer, exact, name: str) -> float:
        a, b = getattr(answer, name), getattr(exact, name)
        return float(np.sqrt(((a - b) ** 2).mean() / (b**2).mean()))

    for count in (1000, 4000, 16000):
        z, vz = 0.3 * rng.normal(size=count), 20 * rng.normal(size=count)
        R, phi = rng.uniform(6, 10, count), rng.uniform(-3, 3, count)
        star = {
            "R": R,
            "phi": phi,
            "vR": 35 * rng.normal(size=count),
            "vphi": 225 + 20 * rng.normal(size=count),
        }
        ask = (galaxy, sat, z, vz, 0.3)
        begin = 0.3 - 0.5 * GYR
        answer = orbit_integral(*ask, **star, begin=begin)
        micro = cost(lambda a=ask, k=star, b=begin: orbit_integral(*a, **k, begin=b), count)
        errors = ""
        if count == 1000:
            exact = orbit_integral(*ask, **star, begin=begin, step=0.001)
            errors = ", errors " + ", ".join(
                f"{n} {error(answer, exact, n):.1e}" for n in ("dE", "dL", "dE_z", "f1")
            )
        print(f"orbit integral, {count} stars, 0.5 Gyr, step {answer.step:.4f}: {micro:.1f} us/star{errors}")
    n = 300
    flat = np.stack(
        [R[:n] / 8, star["vR"][:n] / 220, star["vphi"][:n] / 220, z[:n] / 8, vz[:n] / 220, phi[:n]], 1
    )
    grid = np.linspace(0, 0.5, 101) * units.Gyr
    micro = cost(lambda: Orbit(flat, ro=8, vo=220).integrate(grid, theirs, method="dop853_c"), n, 1)
    print(f"galpy orbits dop853_c: {micro:.0f} us/star")
    potential = CCompositePotential(
        d=MiyamotoNagaiPotential(m=disk_part.M, a=3.0, b=0.28, units=galactic),
        h=NFWPotential(m=halo._amplitude / G, r_s=halo.r_s, units=galactic),
    )
    x = np.stack([R[:n] * np.cos(phi[:n]), R[:n] * np.sin(phi[:n]), z[:n]])
    v = np.stack([star["vR"][:n], star["vphi"][:n], vz[:n]])
    w0 = PhaseSpacePosition(pos=x * units.kpc, vel=v * units.km / units.s)
    micro = cost(
        lambda: potential.integrate_orbit(w0, dt=5, n_steps=100, Integrator=DOPRI853Integrator), n, 1
    )
    print(f"gala orbits dop853: {micro:.0f} us/star")
    start = time.process_time()
    encounter_table()
    print(f"satellite table of nine: {time.process_time() - start:.2f} s")


if __name__ == "__main__":
    main()
