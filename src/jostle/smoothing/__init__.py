"""Certified robustness by randomised smoothing, and networks trained for it."""

from jostle.smoothing.boundary import Boundary, boundary, looks
from jostle.smoothing.bounds import (
    draws_for,
    largest_radius,
    lower_bound,
    radius_of,
    surely_correct,
    threshold_of,
    two_sided_radius,
    upper_bound,
    usual_radii,
)
from jostle.smoothing.eprocess import anytime_lower, anytime_upper, log_e
from jostle.smoothing.planning import Simulated, simulate
from jostle.smoothing.procedures import (
    METHODS,
    Anytime,
    Betting,
    Fixed,
    InputSpecific,
    Procedure,
    Sequential,
    Stages,
    Union,
    dense_radii,
)
