"""The linear response of a galactic disk to what shakes it, and the phase spirals it leaves."""

from jostle.disk.adapters import FunctionPotential, as_potential, from_gala, from_galpy, named_potential
from jostle.disk.checks import Check
from jostle.disk.diffusion import GMCDiffusion, diffuse_mode, fokker_planck, langevin_coherence
from jostle.disk.distributions import PseudoIsothermal
from jostle.disk.encounters import EncounterTable, Satellite, encounter_table, milky_way_satellites
from jostle.disk.maps import SpiralMap
from jostle.disk.orbits import OrbitResponse, orbit_integral
from jostle.disk.particles import TestParticles, liouville
from jostle.disk.passages import Body, SatelliteOrbit, StraightFlyby
from jostle.disk.perturbers import (
    Bar,
    GaussianPulse,
    GrowingWave,
    Kick,
    Separable,
    Shape,
    SpiralArms,
    even_shape,
    odd_shape,
    wave_shape,
)
from jostle.disk.planar import Actions, EpicyclicActions, staeckel_actions
from jostle.disk.potentials import NFW, Composite, IsothermalSlab, MiyamotoNagai, Potential, milky_way
from jostle.disk.profiles import Gaussian, Growing, Impulse, Saturating
from jostle.disk.response import LinearityWarning, LinearResponse
from jostle.disk.slab import lateral_gaussian, lateral_wave
from jostle.disk.spiral import PhaseSpiral
from jostle.disk.stars import Stars, read_stars
from jostle.disk.units import GYR, MYR, G
from jostle.disk.verbs import Spiral, check, date, fit, satellite_map, satellites, spiral
from jostle.disk.vertical import VerticalActions
from jostle.disk.waves import KickFit, Waves, fit_kick, read_profile, vertical_waves

VERBS = (spiral, satellites, date, fit, check)

__all__ = [
    "GYR",
    "MYR",
    "NFW",
    "VERBS",
    "Actions",
    "Bar",
    "Body",
    "Check",
    "Composite",
    "EncounterTable",
    "EpicyclicActions",
    "FunctionPotential",
    "G",
    "GMCDiffusion",
    "Gaussian",
    "GaussianPulse",
    "Growing",
    "GrowingWave",
    "Impulse",
    "IsothermalSlab",
    "Kick",
    "KickFit",
    "LinearResponse",
    "LinearityWarning",
    "MiyamotoNagai",
    "OrbitResponse",
    "PhaseSpiral",
    "Potential",
    "PseudoIsothermal",
    "Satellite",
    "SatelliteOrbit",
    "Saturating",
    "Separable",
    "Shape",
    "Spiral",
    "SpiralArms",
    "SpiralMap",
    "Stars",
    "StraightFlyby",
    "TestParticles",
    "VerticalActions",
    "Waves",
    "as_potential",
    "check",
    "date",
    "diffuse_mode",
    "encounter_table",
    "even_shape",
    "fit",
    "fit_kick",
    "fokker_planck",
    "from_gala",
    "from_galpy",
    "langevin_coherence",
    "lateral_gaussian",
    "lateral_wave",
    "liouville",
    "milky_way",
    "milky_way_satellites",
    "named_potential",
    "odd_shape",
    "orbit_integral",
    "read_profile",
    "read_stars",
    "satellite_map",
    "satellites",
    "spiral",
    "staeckel_actions",
    "vertical_waves",
    "wave_shape",
]
