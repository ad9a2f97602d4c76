"""A goal as the ascent engine wants it: a function of the perturbation that knows its own gradient."""

import numpy as np
import torch
from torch import Tensor

from jostle.core.gradients import gradients
from jostle.observation.budget import Reach
from jostle.observation.objectives import Goal, Value
from jostle.observation.policy import Policy


class Aim:
    """The objective at a perturbation `u` of a reach, in a held policy.

    Automatic differentiation goes through the policy alone: the shift by `u` is linear, and the slope of the
    objective in the policy's output is known in closed form for most goals.
    """

    def __init__(self, policy: Policy, goal: Goal, reach: Reach, t: np.ndarray) -> None:
        self.reach, self.body = reach, policy.swift()
        with torch.no_grad():
            self.slope = goal.slope(policy, self.body(reach.clean), t)
        self.value: Value | None = None if self.slope else goal.bind(policy, reach.clean, t)

    def __call__(self, u: Tensor) -> Tensor:
        """The objective, one number a sample."""
        shown = self.reach.shift(u)
        x = self.body(shown)
        if self.slope is not None:
            return self.slope(x)[0]
        assert self.value is not None
        return self.value(shown, x)

    def with_gradient(self, u: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The objective, and the gradient of its sum in `u`."""
        shown = self.reach.shift(u).requires_grad_()
        x = self.body(shown)
        if self.slope is not None:
            value, slope = self.slope(x.detach())
            (grad,) = gradients(x, (shown,), slope)
        else:
            assert self.value is not None
            value = self.value(shown, x)
            (grad,) = gradients(value, (shown,), torch.ones_like(value))
        return value.detach(), [self.reach.inward(grad)]
