"""Running statistics of a network (batch normalisation and its like) as one vector that can travel or stay."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require

Buffers = Literal["error", "average", "local"]
"""What becomes of running statistics: they are refused, averaged by the server, or kept by each client."""


def running_statistics(module: nn.Module) -> list[str]:
    """Names of the layers that write running statistics as they train (batch normalisation and its like).

    >>> running_statistics(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    ['1']
    """
    return [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
    ]


def check_buffers(buffers: Buffers, engine: str, running: list[str]) -> None:
    """Refuse running statistics where they have no place.

    **Raises:** `JostleError` that names the layers.
    """
    names = ", ".join(map(repr, running[:3]))
    require(
        not running or buffers != "error",
        f"model has running statistics in {names}, which differ between clients and have no place in a "
        "federated average: use jostle.federated.replace_batchnorm(model, groups=2), or name what becomes of "
        "them with buffers='average' or 'local'",
    )
    require(
        not running or engine != "batched",
        f"engine='batched' cannot keep the running statistics in {names} of many clients apart: use "
        "engine='sequential', or jostle.federated.replace_batchnorm(model, groups=2)",
    )


class RunningStatistics:
    """The running statistics of a network, read and written as one vector.

    In float64, which holds both the short formats and the counts of batches exactly.

    >>> layer = nn.BatchNorm1d(2)
    >>> RunningStatistics(layer).read()  # means, variances, batches seen
    tensor([0., 0., 1., 1., 0.], dtype=torch.float64)
    """

    def __init__(self, module: nn.Module) -> None:
        self.layers = running_statistics(module)
        held = [b for name in self.layers for b in module.get_submodule(name).buffers(recurse=False)]
        # A layer that stands in two places is one layer.
        self.buffers = list({id(b): b for b in held}.values())
        self.start = self.read()

    @property
    def size(self) -> int:
        """Bytes of the statistics as the network holds them."""
        return sum(b.numel() * b.element_size() for b in self.buffers)

    def read(self) -> Float[Tensor, " B"]:
        """A copy of what the layers hold."""
        if not self.buffers:
            return torch.zeros(0, dtype=torch.float64)
        return torch.cat([b.reshape(-1).double() for b in self.buffers])

    def write(self, values: Float[Tensor, " B"]) -> None:
        """Put statistics into the layers; counts are rounded to whole numbers."""
        parts = values.split([b.numel() for b in self.buffers])
        for buffer, part in zip(self.buffers, parts, strict=True):
            whole = part if buffer.is_floating_point() else part.round()
            buffer.copy_(whole.view(buffer.shape))
