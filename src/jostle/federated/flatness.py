"""How flat the place is where a training ended: the sharpest direction of its loss, and the loss along it."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.federated.flat import Loss

_BATCH = 1000


@dataclass(frozen=True, eq=False)
class Sharpness:
    """The sharpest direction of a loss at a network.

    `value`: the largest eigenvalue of the Hessian. `direction`: its eigenvector, of length 1, `(D,)`: the trainable
    parameters in their order.

    >>> Sharpness(2.0, torch.ones(1)).value
    2.0
    """

    value: float
    direction: Float[Tensor, " D"]


def sharpness(
    model: nn.Module, loss: Loss, x: Tensor, y: Tensor, *, tolerance: float = 1e-3, seed: int = 0
) -> Sharpness:
    """The largest eigenvalue of the Hessian of a mean loss, with its eigenvector (Lanczos, by ARPACK).

    A minimum is flat where it is small: a step of length `r` along `u` changes the loss by `value*r^2/2`, and along
    every other direction by no more. It depends on how a network is parameterised: compare networks of one kind.
    Products with the Hessian go backwards twice: curvlinops' go forward over backward, which group normalisation
    does not have.

    **Arguments:** `model`: taken in evaluation mode; left as it is. `loss`: mean loss of an output and targets.
    `x`, `y`: the samples it is a mean over. `tolerance`: relative, of the eigenvalue, above 0. `seed`: of the first
    vector.
    **Returns:** a [`Sharpness`][jostle.federated.Sharpness].
    **Raises:** `JostleError` without samples, if a parameter is not finite, or if the iteration does not settle.

    >>> net = nn.Linear(2, 1, bias=False)
    >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> round(sharpness(net, nn.functional.mse_loss, x, torch.zeros(2, 1)).value, 4)
    9.0
    """
    require(0 < tolerance < 1, f"tolerance must lie in (0, 1), but {tolerance} came")
    net, parameters = _ready(model, x, y)
    device, kind = parameters[0].device, parameters[0].dtype
    count = sum(p.numel() for p in parameters)
    require(count >= 2, f"model must have at least 2 trainable parameters, but {count} came")
    wide = torch.promote_types(kind, torch.float32)
    first = torch.from_numpy(np.random.default_rng(seed).standard_normal(count)).to(wide).numpy()

    def product(v: np.ndarray) -> np.ndarray:
        """`H v`: the gradient of `g . v`."""
        out = torch.zeros(count, dtype=wide, device=device)
        parts = torch.from_numpy(v.reshape(-1)).to(parameters[0]).split([p.numel() for p in parameters])
        for part, wanted in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
            value = loss(net(part.to(device)), wanted.to(device)) * (len(part) / len(x))
            grads = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
            along = torch.stack([(g.reshape(-1) * u).sum() for g, u in zip(grads, parts, strict=True)]).sum()
            if along.requires_grad:  # a loss that is linear in all parameters has no Hessian
                twice = torch.autograd.grad(along, parameters, materialize_grads=True)
                out += torch.cat([h.reshape(-1) for h in twice])
        return out.cpu().numpy()

    operator: Any = LinearOperator  # SciPy has no types of its own, and those that are guessed are wrong
    solver: Any = eigsh
    try:
        values, vectors = solver(
            operator((count, count), matvec=product, dtype=first.dtype),
            k=1,
            which="LA",
            tol=tolerance,
            v0=first,
        )
    except ArpackError as error:
        raise JostleError(
            f"the sharpest direction was not found to {tolerance:g} ({error}); raise tolerance"
        ) from error
    return Sharpness(float(values[0]), torch.from_numpy(vectors[:, 0]).to(parameters[0]))


def loss_along(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    direction: Float[Tensor, " D"],
    steps: Sequence[float],
) -> list[float]:
    """The mean loss at `w + r*direction`, for each `r` of `steps`: a cut through the loss's surface.

    **Arguments:** `model`, `loss`, `x`, `y`: as for [`sharpness`][jostle.federated.sharpness]. `direction`: of the
    trainable parameters in their order, such as the sharpest one.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = net.weight.data.fill_(0.0)
    >>> loss_along(net, nn.functional.mse_loss, torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1), [0.0, 2.0])
    [0.0, 4.0]
    """
    net, parameters = _ready(model, x, y)
    start = nn.utils.parameters_to_vector(parameters).detach().clone()
    require(
        direction.shape == start.shape,
        f"direction must be {tuple(start.shape)}, but {tuple(direction.shape)} came",
    )
    u, found = direction.to(start), []
    with torch.no_grad():
        for r in steps:
            nn.utils.vector_to_parameters(start + r * u, parameters)
            total = 0.0
            for part, wanted in zip(x.split(_BATCH), y.split(_BATCH), strict=True):
                total += float(loss(net(part.to(u.device)), wanted.to(u.device))) * len(part)
            found.append(total / len(x))
    return found


def _ready(model: nn.Module, x: Tensor, y: Tensor) -> tuple[nn.Module, list[nn.Parameter]]:
    """A copy of the network to work on, and its trainable parameters."""
    require(len(x) > 0, "x must hold at least one sample, but none came")
    require(len(x) == len(y), f"x and y must be equally many, but {len(x)} and {len(y)} came")
    net = deepcopy(model).eval()
    parameters = [p for p in net.parameters() if p.requires_grad]
    require(len(parameters) > 0, "model must have a trainable parameter, but all are frozen or none is there")
    require(
        all(bool(torch.isfinite(p).all()) for p in parameters),
        "model must have finite parameters, but NaN or infinity came",
    )
    return net, parameters
