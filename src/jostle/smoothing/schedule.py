"""The noise levels of rRCM and its schedules, in the units of images in [-1, 1]: `t = 2 sigma`."""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import require

T_MIN, T_MAX, RHO, SIGMA_DATA = 0.002, 80.0, 7.0, 0.5


def noise_grid(count: int = 81) -> Float[Tensor, " levels"]:
    """The levels of EDM, from the noisiest to the cleanest (Karras et al. 2022, equation 5; rho 7).

    `t_i = (t_max^(1/rho) + i/(N-1) (t_min^(1/rho) - t_max^(1/rho)))^rho`, 80 to 0.002, in float64.

    **Arguments:** `count`: levels `N`, at least 2.

    >>> noise_grid(81)[[0, 42, 48, 53, 80]].round(decimals=4).tolist()
    [80.0, 2.0036, 0.9654, 0.4927, 0.002]
    """
    require(count >= 2, f"count must be at least 2, but {count} came")
    high, low = T_MAX ** (1 / RHO), T_MIN ** (1 / RHO)
    return (high + torch.arange(count, dtype=torch.float64) / (count - 1) * (low - high)) ** RHO


def snapped(sigma: float, count: int = 81) -> float:
    """The level of the grid that is nearest to `t = 2 sigma`: what the network is told, while the noise is exact.

    **Arguments:** `sigma`: of the noise, in units of images in [0, 1].

    >>> round(snapped(0.25), 6)
    0.492707
    """
    grid = noise_grid(count)
    return float(grid[(grid - 2 * sigma).abs().argmin()])


def levels_at(
    step: int, steps: int, kind: Literal["official", "ict"] = "official", start: int = 20, end: int = 80
) -> int:
    """How many noise levels are in use at a step: `N(k) = min(s0 2^ceil(k/K'), s1) + 1`.

    **Arguments:** `step`: 0 to `steps`. `kind`: `"official"`, as in the released code, `K' = ceil(K / log2(ceil(s1 /
    s0) + 1))` with a ceiling, so that `N = 21` lasts for one step; `"ict"`, as in improved consistency training
    (Song & Dhariwal 2023), with a floor and `K' = floor(K / (log2(s1 / s0) + 1))`. `start`, `end`: `s0`, `s1`.

    >>> [levels_at(k, 600_000) for k in (0, 1, 258_370, 300_000)]
    [21, 41, 41, 81]
    """
    require(steps >= 1 and 0 <= step <= steps, f"step must lie in 0 to {steps}, but {step} came")
    if kind == "official":
        every = math.ceil(steps / math.log2(math.ceil(end / start) + 1))
        doublings = math.ceil(step / every)
    else:
        every = max(1, math.floor(steps / (math.log2(end / start) + 1)))
        doublings = step // every
    return min(start * 2**doublings, end) + 1


def target_rate(
    step: int, steps: int, sharpness: float = 10.0, start: float = 0.99, end: float = 0.9999
) -> float:
    """The decay rate of the target network at a step, from 0.99 to 0.9999 along a sigmoid.

    `e = sqrt(k/K (end^2 - start^2) + start^2)`, `c = 2 / (1 + exp(-A (e - start)/(end - start))) - 1`, `mu = end c +
    start (1 - c)`.

    **Arguments:** `step`: 0 to `steps`. `sharpness`: `A`, 10 for ImageNet and 15 for CIFAR-10 in the released code.

    >>> [round(target_rate(k, 600_000), 8) for k in (0, 100_000, 300_000, 600_000)]
    [0.99, 0.99677269, 0.99976911, 0.9998991]
    """
    e = math.sqrt(step / steps * (end**2 - start**2) + start**2)
    c = 2 / (1 + math.exp(-sharpness * (e - start) / (end - start))) - 1
    return end * c + start * (1 - c)


def input_scale(t: Tensor | float) -> Tensor:
    """`c_in(t) = (t^2 + 0.25)^(-1/2)`, which brings noisy images to unit variance (Karras et al. 2022).

    >>> round(float(input_scale(torch.tensor(0.5, dtype=torch.float64))), 8)
    1.41421356
    """
    return (torch.as_tensor(t).square() + SIGMA_DATA**2).rsqrt()


def time_condition(t: Tensor | float) -> Tensor:
    """What the network is told of the noise level: `250 ln(t + 1e-44)`.

    >>> round(float(time_condition(torch.tensor(0.002, dtype=torch.float64))), 3)
    -1553.652
    """
    return 250 * torch.log(torch.as_tensor(t) + 1e-44)


def time_embedding(condition: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sinusoidal embedding, the cosines first: frequencies `10000^(-i / half)` (as in guided diffusion).

    **Arguments:** `condition`: one number an image. `width`: even.

    >>> time_embedding(torch.zeros(1), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = width // 2
    rates = torch.exp(-math.log(10_000) * torch.arange(half, device=condition.device) / half)
    angles = condition[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)
