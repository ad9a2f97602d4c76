"""Phase spirals of a disturbed disk: passages, pulses, clouds, halo and satellites."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jostle.disk import figures
from jostle.disk.diffusion import GMCDiffusion, fokker_planck
from jostle.disk.distributions import PseudoIsothermal, as_disk
from jostle.disk.encounters import encounter_table
from jostle.disk.particles import TestParticles
from jostle.disk.passages import StraightFlyby
from jostle.disk.perturbers import GaussianPulse, Kick, even_shape, odd_shape
from jostle.disk.potentials import IsothermalSlab, milky_way
from jostle.disk.response import LinearResponse
from jostle.disk.slab import lateral_gaussian
from jostle.disk.spiral import PhaseSpiral
from jostle.disk.units import GYR, MYR
from jostle.disk.vertical import VerticalActions
from jostle.lab.claims import Claim
from jostle.lab.engines import Engine
from jostle.lab.runs import Run
from jostle.lab.study import Study
from jostle.lab.sweeps import call, sweep


@dataclass(frozen=True)
class Config:
    """Settings of the study; the defaults of the galaxy are this package's.

    **Arguments:** `points`: of a map, a side; at least 200 are taken for the maps of pulses. `stars`: of the
    synthetic sample to date; 50 times as many stream sideways. `times_myr`: times of the maps after the
    passage (Myr). `radii`: at which the winding rate is measured (kpc). `pulses`: how many durations the
    curve of response against duration has. `jobs`: pieces of work at a time.
    """

    seed: int = 0
    points: int = 160
    stars: int = 20000
    times_myr: tuple[float, ...] = (100.0, 250.0, 400.0, 600.0)
    radii: tuple[float, ...] = (4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0)
    pulses: int = 40
    jobs: int = 1
    engine: Engine = "loky"


PASSAGES = {"halo": (True, False), "no halo": (False, False), "halo + clouds": (True, True)}


def run(config: Config, run: Run) -> dict[str, Any]:
    """Maps, curves and tables, side by side; then the figures."""
    fly = StraightFlyby(5e8, 270.0, (13.0, 2.0, 0.0), (0.2, 0.3, 1.0), softening=1.0)
    pieces: dict[str, tuple[Any, ...]] = {
        "winding, halo": (_winding, config, True),
        "winding, no halo": (_winding, config, False),
        "satellites": (_satellites,),
        "dating": (_dating, config, _seed(run, "stars")),
        **{f"passage, {title}": (_maps, config, fly, *with_) for title, with_ in PASSAGES.items()},
        "arms": (_arms, config),
        "pulses": (_pulses, config),
        "clouds": (_clouds,),
        "streaming": (_streaming, config, _seed(run, "streaming")),
    }
    found = sweep(run, "pieces", call, pieces, engine=config.engine, jobs=config.jobs)
    arms, pulse, table = found["arms"], found["pulses"], found["satellites"]
    clouds, side, dated = found["clouds"], found["streaming"], found["dating"]
    wind = {"halo": found["winding, halo"], "bare": found["winding, no halo"]}
    rows = [
        (f"{t:g} Myr", m)
        for title in PASSAGES
        for t, m in zip(config.times_myr, found[f"passage, {title}"], strict=True)
    ]
    run.figure(
        "passage",
        figures.spiral_maps(
            [(t, _arrays(m)) for t, m in rows], len(config.times_myr), ("halo", "no halo", "halo, clouds")
        ),
        "Response at R = 8 kpc to a 5e8 M_sun satellite that crossed the plane 5 kpc away at 270 km/s. Linear, no "
        "self-gravity, rigid halo, direct forces; stars held at their place during the passage.",
    )
    run.figure(
        "arms",
        figures.spiral_maps([(t, _arrays(m)) for t, m in arms["maps"].items()], 2),
        "A bending pulse leaves one arm, a breathing pulse two (300 Myr after the pulse).",
    )
    run.figure(
        "duration",
        figures.curves(
            [(f"n = {n}", pulse["tau"], pulse[f"n{n}"]) for n in (1, 2)],
            r"$\Omega_z \tau_P$",
            "response (relative)",
            "xy",
        ),
        "Pulses of fixed height: a power law when fast, a peak at the mode's own time, an exponential fall when slow.",
    )
    run.figure(
        "satellites",
        figures.ranking(table["names"], table["bending"], table["breathing"]),
        "Strongest passage of each satellite, past 2 Gyr and next 0.5; straight lines, masses of this package. What is "
        "below 1e-12 has no bar.",
    )
    run.figure(
        "winding",
        figures.curves(
            [("with halo", config.radii, wind["halo"]), ("without halo", config.radii, wind["bare"])],
            "R (kpc)",
            "turns per Gyr",
        ),
        "Turns per Gyr between stars that rise to 0.3 and to 1 kpc: slower in the outer disk and with a halo.",
    )
    run.figure(
        "survival",
        figures.curves(
            [(f"n = {n}, cubic law", clouds["t"], clouds[f"n{n}"]) for n in (1, 2)],
            "time (Gyr)",
            "surviving share",
            "",
            [(f"n = {n}, Fokker-Planck", clouds["solved_t"], clouds[f"solved{n}"]) for n in (1, 2)],
        ),
        "What clouds leave of a mode at the action h_z sigma_z (23 km/s, 0.4 kpc, heated over 10 Gyr): the closed "
        "form and finite differences.",
    )
    run.figure(
        "streaming",
        figures.curves(
            [(f"{w:g} kpc wide", side["t"], side[f"{w:g}"]) for w in side["widths"]],
            "time (Gyr)",
            "share left at its centre",
            "xy",
            [("1 kpc, ballistic stars", side["sampled_t"], side["sampled"])],
        ),
        "Stars that stream sideways (35 km/s) damp a local spiral of a slab, as 1 / t in one dimension.",
    )
    best = sorted(table["bending"], reverse=True)
    return {
        "arms_odd": arms["odd"],
        "arms_even": arms["even"],
        "pulse_slope": pulse["slope"],
        "pulse_fall": pulse["fall"],
        "pulse_ratio_slow": pulse["n1"][-1] / max(pulse["n2"][-1], 1e-300),
        "pulse_ratio_fast": pulse["n1"][0] / pulse["n2"][0],
        "first": table["names"][int(np.argmax(table["bending"]))],
        "first_over_second": best[0] / best[1],
        "sagittarius_bending": table["bending"][table["names"].index("Sgr")],
        "least_bending_over_breathing": table["least_ratio"],
        "winding_4": wind["halo"][0],
        "winding_16": wind["halo"][-1],
        "winding_halo_over_bare": max(a / b for a, b in zip(wind["halo"], wind["bare"], strict=True)),
        "tau_I_gyr": clouds["tau"],
        "cloud_exponent": clouds["exponent"],
        "cloud_life_gyr": clouds["life"],
        "streaming_exponent": side["exponent"],
        "streaming_left": side["left"],
        "streaming_error": side["error"],
        "dated_myr": dated["time"],
        "dated_error_myr": dated["error"],
        "dated_truth_myr": 400.0,
    }


def _seed(run: Run, name: str) -> int:
    return int(torch.randint(2**31 - 1, (1,), generator=run.generator(name)))


def _maps(config: Config, fly: StraightFlyby, halo: bool, clouds: bool) -> list[dict[str, Any]]:
    response = LinearResponse(
        PseudoIsothermal(milky_way(halo)), fly, GMCDiffusion() if clouds else None, n_max=6
    )
    return [_plain(response.map(t * MYR, 8.0, points=config.points)) for t in config.times_myr]


def _plain(m: Any) -> dict[str, Any]:
    return {"z": torch.from_numpy(m.z), "vz": torch.from_numpy(m.vz), "values": torch.from_numpy(m.values)}


def _arrays(m: dict[str, Any]) -> dict[str, Any]:
    return {k: v.numpy() for k, v in m.items()}


def _arms(config: Config) -> dict[str, Any]:
    disk, omega0, t = PseudoIsothermal(), 100.0, 300 * MYR
    odd = LinearResponse(disk, GaussianPulse(odd_shape(1.5), omega0))
    even = LinearResponse(disk, GaussianPulse(even_shape(1.0), omega0))
    maps = {
        title: _plain(r.map(t, 8.0, points=max(config.points, 200)))
        for title, r in (("bending pulse", odd), ("breathing pulse", even))
    }
    return {"maps": maps, "odd": odd.dominant(t), "even": even.dominant(t)}


def _pulses(config: Config) -> dict[str, Any]:
    slab = as_disk(IsothermalSlab())  # its tables are built once
    va = slab.vertical(8.0)
    Omega, J = float(va.frequency(1.0)), np.array([1.0])
    tau = np.geomspace(0.02, 8.0, config.pulses) / Omega
    curves: dict[str, Any] = {"tau": [float(x) for x in tau * Omega]}
    for n, shape in ((1, odd_shape(0.01)), (2, even_shape(0.01))):
        sizes = []
        for x in tau:
            response = LinearResponse(
                slab, GaussianPulse(shape, np.sqrt(2) / x, unit_area=False), n_max=4, tol=0.0
            )
            sizes.append(float(abs(response.modes(J, 400.0)[1][0, n - 1])))
        curves[f"n{n}"] = [s / max(sizes) for s in sizes]
    fast = np.polyfit(np.log(tau[:6]), np.log(curves["n1"][:6]), 1)
    # A slow Gaussian leaves tau exp[-(Omega tau)^2 / 8] of a mode: the rate of that fall, over the expected one.
    last = np.log(np.array(curves["n1"][-2:]) / tau[-2:])
    fall = (last[1] - last[0]) / -((Omega * tau[-1]) ** 2 - (Omega * tau[-2]) ** 2) * 8
    return {**curves, "slope": float(fast[0]), "fall": float(fall)}


def _satellites() -> dict[str, Any]:
    table = encounter_table()
    best = table.best()
    near = [r.bending / max(r.breathing, 1e-300) for r in best.values() if r.satellite in ("Sgr", "LMC")]
    return {
        "names": list(best),
        "bending": [r.bending for r in best.values()],
        "breathing": [r.breathing for r in best.values()],
        "least_ratio": float(min(near)),
    }


def _winding(config: Config, halo: bool) -> list[float]:
    rates = []
    for R in config.radii:
        _, Omega, _ = VerticalActions(milky_way(halo), R)([0.3, 1.0], [0.0, 0.0])
        rates.append(float((Omega[0] - Omega[1]) / (2 * np.pi) * GYR))
    return rates


def _clouds() -> dict[str, Any]:
    slab, cloud = PseudoIsothermal(IsothermalSlab(0.4, 23.0), h_R=1e12), GMCDiffusion()
    t = np.linspace(0, 1.5, 120)
    shares = {f"n{n}": [float(x) for x in cloud.survival_at(slab, 8.0, n, 9.2, t * GYR)] for n in (1, 2)}
    # The same by finite differences of the Fokker-Planck equation, on the slab's own frequencies.
    va = slab.vertical(8.0)
    J = np.linspace(0, va.J_grid[-1], 1500)
    D = cloud.coefficient(slab, 8.0, J)
    times = np.linspace(0.15, 0.9, 6)
    solved: dict[str, list[float]] = {}
    for n in (1, 2):
        a, since, left = np.ones(len(J)), 0.0, []
        for now in times:
            a, since = fokker_planck(va, D, n, a, (now - since) * GYR, 60), now
            left.append(float(np.interp(9.2, J, np.abs(a))))
        solved[f"solved{n}"] = left
    decay = -np.log(np.array(solved["solved1"]))
    return {
        "t": [float(x) for x in t],
        **shares,
        **solved,
        "solved_t": [float(x) for x in times],
        "tau": float(cloud.tau_I(slab, 8.0, 1, 9.2)) / GYR,
        "exponent": float(np.polyfit(np.log(times), np.log(decay), 1)[0]),
        "life": float(np.interp(1.0, decay, times)),
    }


def _streaming(config: Config, seed: int) -> dict[str, Any]:
    sigma, widths = 35.0, (0.5, 1.0, 2.0)
    t = np.geomspace(0.005, 2.0, 100)
    curves = {f"{w:g}": [float(x) for x in lateral_gaussian(0.0, w, sigma, t * GYR)] for w in widths}
    late = slice(-20, None)
    slope = np.polyfit(np.log(t[late]), np.log(np.array(curves["1"])[late]), 1)[0]
    # Stars that are at x = 0 at time t came from x = -v t, where the kick was exp(-x^2 / width^2).
    v = sigma * np.random.default_rng(seed).standard_normal(50 * config.stars)
    times = np.array([0.01, 0.03, 0.1, 0.3])
    sampled = [float(np.exp(-((v * x * GYR) ** 2)).mean()) for x in times]
    exact = lateral_gaussian(0.0, 1.0, sigma, times * GYR)
    return {
        "t": [float(x) for x in t],
        **curves,
        "widths": list(widths),
        "sampled_t": [float(x) for x in times],
        "sampled": sampled,
        "exponent": float(slope),
        "left": float(lateral_gaussian(0.0, 1.0, sigma, 0.5 * GYR)),
        "error": float(np.abs(np.array(sampled) / exact - 1).max()),
    }


def _dating(config: Config, seed: int) -> dict[str, float]:
    draw = np.random.default_rng(seed)
    disk = PseudoIsothermal()
    stars = TestParticles.sample(disk, config.stars, draw).run(Kick(dv=3.0), -0.005, 400 * MYR)
    found = PhaseSpiral.fit(stars.z, stars.vz, potential=disk.potential, generator=draw)
    return {"time": found.time / MYR, "error": found.time_error / MYR}


CLAIMS = (
    Claim(
        "disk-C1",
        "An odd perturbation leaves one arm, an even one two.",
        "1 and 2 arms",
        "quick",
        lambda m: f"{m['arms_odd']} and {m['arms_even']}",
        lambda m: (m["arms_odd"], m["arms_even"]) == (1, 2),
    ),
    Claim(
        "disk-C2",
        "The response is a power law of the pulse's duration when it is impulsive, and falls exponentially when it is "
        "adiabatic.",
        "power law and exponential; exponents not read",
        "quick",
        lambda m: (
            f"exponent {m['pulse_slope']:.3f}; falls as exp[-{m['pulse_fall'] / 8:.4f} (Omega tau)^2] (a Gaussian's: "
            "1/8)"
        ),
        lambda m: abs(m["pulse_slope"] - 1) < 0.05 and abs(m["pulse_fall"] - 1) < 0.05,
    ),
    Claim(
        "disk-C3",
        "Slower perturbations favour bending, faster ones let breathing catch up.",
        "not stated",
        "quick",
        lambda m: f"n1/n2 {m['pulse_ratio_slow']:.3g} slow, {m['pulse_ratio_fast']:.3g} fast",
        lambda m: m["pulse_ratio_slow"] > 10 * m["pulse_ratio_fast"],
    ),
    Claim(
        "disk-C4",
        "Stars that stream sideways damp a local spiral.",
        "not stated",
        "quick",
        lambda m: (
            f"1 kpc wide: {100 * m['streaming_left']:.0f} % left after 500 Myr, as t^{m['streaming_exponent']:.2f}; "
            f"ballistic stars within {100 * m['streaming_error']:.1f} %"
        ),
        lambda m: (
            m["streaming_left"] < 0.5 and m["streaming_exponent"] < -0.9 and m["streaming_error"] < 0.03
        ),
    ),
    Claim(
        "disk-C5",
        "Scattering by clouds damps a spiral faster than exponentially, so that what survives is young.",
        "super-exponential; times not read",
        "quick",
        lambda m: (
            f"Fokker-Planck: ln S goes as t^{m['cloud_exponent']:.2f}, down to 1/e after "
            f"{m['cloud_life_gyr']:.2f} Gyr (cubic law {m['tau_I_gyr']:.2f})"
        ),
        lambda m: m["cloud_exponent"] > 2 and m["cloud_life_gyr"] < 1,
    ),
    Claim(
        "disk-C6",
        "Sagittarius dominates the response near the Sun by an order of magnitude or more.",
        "1-2 orders of magnitude",
        "quick",
        lambda m: f"{m['first']}, {m['first_over_second']:.1f} x the next",
        lambda m: m["first"] == "Sgr" and m["first_over_second"] >= 10,
    ),
    Claim(
        "disk-C7",
        "Distant encounters are dominated by bending.",
        "not stated",
        "quick",
        lambda m: f"n1/n2 at least {m['least_bending_over_breathing']:.0f}",
        lambda m: m["least_bending_over_breathing"] > 10,
    ),
    Claim(
        "disk-C8",
        "Phase mixing is slower in the outer disk and with a halo.",
        "not stated",
        "quick",
        lambda m: (
            f"{m['winding_4']:.2f} turns/Gyr at 4 kpc, {m['winding_16']:.2f} at 16; halo/bare at most "
            f"{m['winding_halo_over_bare']:.3f}"
        ),
        lambda m: m["winding_16"] < m["winding_4"] and m["winding_halo_over_bare"] < 1,
    ),
)

STUDY = Study(
    "disk",
    {
        "quick": Config(),
        "gpu": Config(points=300, stars=200000, times_myr=(100.0, 300.0, 500.0, 800.0)),
        "paper": Config(points=400, stars=1000000, times_myr=(100.0, 300.0, 600.0, 900.0), pulses=120),
    },
    run,
    CLAIMS,
)
