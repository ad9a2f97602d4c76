"""The result of a crafting: one perturbation for all images, and how it came about."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.files import write_tensors


@dataclass(frozen=True, eq=False)
class UniversalPerturbation:
    """One additive perturbation, `(1, C, H, W)` in units of [0, 1] images, and the record of its making.

    It is handed back unclamped: what `apply` clamps is the perturbed image. `history` has a row a step
    (`step`, `objective`, `saturation`), with `score` where it was looked at and `rescaled` where it was halved.
    `record` says how it was made: budget, prior, loss, taps, schedule, seed, what selected it.

    >>> up = UniversalPerturbation(torch.full((1, 1, 2, 2), 0.1))
    >>> up.apply(torch.ones(3, 1, 2, 2)).max()
    tensor(1.)
    """

    delta: Float[Tensor, "1 channels height width"]
    record: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()

    suffix: ClassVar[str] = ".safetensors"

    def apply(
        self,
        images: Float[Tensor, "batch channels h w"],
        *,
        clamp: bool = True,
        bits: int | None = None,
        fit: Literal["error", "tile", "resize"] = "error",
    ) -> Float[Tensor, "batch channels h w"]:
        """`images + delta`, as a camera or a file would hold it.

        **Arguments:** `images`: in [0, 1]. `clamp`: cut to [0, 1] (off for parity with the released
        evaluators). `bits`: round to so many bits a channel, 8 for a PNG. `fit`: what to do when the sizes
        differ: refuse, repeat `delta` as tiles, or resample it (which low-passes and weakens it).
        **Raises:** `JostleError` if channels or sizes differ, or `bits` is not in 1..16.
        """
        return perturb(images, self.delta, clamp=clamp, bits=bits, fit=fit)

    def save(self, path: str | Path) -> Path:
        """Write `path` (.safetensors): the perturbation, with record and history in its header."""
        path = Path(path)
        require(path.suffix == self.suffix, f"path must end in {self.suffix}, but {path.name} came")
        note = json.dumps({"record": dict(self.record), "history": [dict(row) for row in self.history]})
        write_tensors(path, {"delta": self.delta}, {"jostle": note})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "UniversalPerturbation":
        """Read what `save` wrote; any safetensors file with a tensor `delta` will do.

        **Raises:** `JostleError` if the file is absent, broken or holds no perturbation.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        require(path.is_file(), f"perturbation must be a .safetensors file, but {path} does not exist")
        try:
            with safe_open(path, framework="pt") as file:
                require(
                    "delta" in file.keys(),  # noqa: SIM118 (not a dict)
                    f"{path} must hold a tensor 'delta', but it holds {', '.join(file.keys()) or 'nothing'}",
                )
                delta, note = (
                    file.get_tensor("delta"),
                    json.loads((file.metadata() or {}).get("jostle", "{}")),
                )
        except (SafetensorError, OSError, ValueError) as error:
            if isinstance(error, JostleError):
                raise
            raise JostleError(f"perturbation {path} cannot be read: {error}") from error
        delta = delta.float()
        require(bool(torch.isfinite(delta).all()), f"perturbation {path} holds NaN or infinity")
        require(delta.ndim in (3, 4), f"perturbation {path} must be (C, H, W), but {tuple(delta.shape)} came")
        return cls(delta.reshape(1, *delta.shape[-3:]), note.get("record", {}), note.get("history", ()))


def perturb(
    images: Float[Tensor, "batch channels h w"],
    delta: Float[Tensor, "#batch colours height width"],
    *,
    clamp: bool = True,
    bits: int | None = None,
    fit: Literal["error", "tile", "resize"] = "error",
) -> Float[Tensor, "batch channels h w"]:
    """Add a perturbation to images; see [`apply`][jostle.universal.UniversalPerturbation.apply].

    >>> import torch
    >>> perturb(torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.3, -0.3]]]])).flatten()
    tensor([0.3000, 0.0000])
    """
    require(bits is None or 1 <= bits <= 16, f"bits must lie in 1 to 16, but {bits} came")
    require(
        images.shape[1] == delta.shape[1],
        f"images must have {delta.shape[1]} channels like delta, but {images.shape[1]} came",
    )
    height, width = images.shape[2:]
    if delta.shape[2:] != images.shape[2:]:
        if fit == "resize":
            delta = F.interpolate(delta, size=(height, width), mode="nearest-exact")
        elif fit == "tile":
            rows, columns = -(-height // delta.shape[2]), -(-width // delta.shape[3])
            delta = delta.repeat(1, 1, rows, columns)[:, :, :height, :width]
        else:
            raise JostleError(
                f"images must be {tuple(delta.shape[2:])} pixels like delta, but {(height, width)} came; "
                "fit='tile' repeats delta, fit='resize' resamples and weakens it"
            )
    out = images + delta.to(images.device, images.dtype)
    if clamp:
        out = out.clamp(0, 1)
    if bits is not None:
        levels = 2**bits - 1
        out = (out * levels).round() / levels
    return out


def spectrum(delta: Float[Tensor, "1 channels height width"]) -> Float[Tensor, "height width"]:
    """Power of a perturbation by spatial frequency, zero frequency in the middle, averaged over channels.

    >>> import torch
    >>> int(spectrum(torch.ones(1, 1, 4, 4)).argmax())
    10
    """
    return torch.fft.fftshift(torch.fft.fft2(delta[0]).abs().square().mean(0), dim=(0, 1))
