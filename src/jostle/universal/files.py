"""Published perturbation files: the authors' (0-255, HWC, BGR) and the 2020 port's ([0, 1], CHW, RGB)."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.files import whole

# A perturbation is far smaller than an image; larger entries mean the other file's unit, or an image.
LIMIT = 64 / 255


def read_authors(path: str | os.PathLike[str]) -> Float[Tensor, "1 channels height width"]:
    """Read a perturbation as the authors of GD-UAP publish them.

    A `.npy` array of shape `(1, H, W, 3)` or `(H, W, 3)`, in units of 0-255, channels blue, green, red (the
    networks are Caffe conversions).

    **Returns:** the perturbation in units of `[0, 1]`, RGB, float32.
    **Raises:** `JostleError` for an array of another shape or kind, NaN, entries above 64, or a file in the
    port's unit.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_authors(folder + "/uap.npy", torch.full((1, 3, 2, 2), 10 / 255))
    ...     round(read_authors(folder + "/uap.npy").max().item() * 255, 3)
    10.0
    """
    array = _load(path)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    require(
        array.ndim == 3 and array.shape[-1] == 3,
        f"{path} must hold an array of shape (1, H, W, 3) or (H, W, 3), but {array.shape} came"
        + ("; channels first is read_port's layout" if 3 in array.shape[-3:-2] else ""),
    )
    largest = float(np.abs(array).max())
    require(
        largest == 0 or largest > 0.5,
        f"{path} must be in units of 0-255, but its largest entry is {largest:.3g}; "
        "read_port reads units of [0, 1]",
    )
    require(
        largest <= 255 * LIMIT,
        f"{path} must hold a perturbation of at most 64 in units of 0-255, but its largest entry is "
        f"{largest:.3g}",
    )
    rgb = np.ascontiguousarray(array[..., ::-1].transpose(2, 0, 1)) / 255.0
    return torch.from_numpy(rgb.astype(np.float32))[None]


def write_authors(path: str | os.PathLike[str], delta: Float[Tensor, "1 channels height width"]) -> None:
    """Write a perturbation as the authors of GD-UAP do: `(1, H, W, 3)`, units of 0-255, BGR, float32.

    **Arguments:** `delta`: `(1, 3, H, W)` in units of `[0, 1]`, RGB.
    **Raises:** `JostleError` for another shape, NaN or entries above 64/255.
    """
    array = _checked(delta).transpose(0, 2, 3, 1)[..., ::-1] * 255.0
    _save(path, array.astype(np.float32))


def read_port(path: str | os.PathLike[str]) -> Float[Tensor, "1 channels height width"]:
    """Read a perturbation of the PyTorch port of 2020 (psandovalsegura/pytorch-gd-uap).

    A `.npy` array of shape `(1, 3, H, W)` or `(3, H, W)`, in units of `[0, 1]`, RGB.

    **Returns:** the perturbation as it is, float32.
    **Raises:** `JostleError` for an array of another shape or kind, NaN, or entries above 64/255 (the
    authors' unit).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_port(folder + "/uap.npy", torch.full((1, 3, 2, 2), 0.03))
    ...     read_port(folder + "/uap.npy").shape
    torch.Size([1, 3, 2, 2])
    """
    array = _load(path)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    require(
        array.ndim == 3 and array.shape[0] == 3,
        f"{path} must hold an array of shape (1, 3, H, W) or (3, H, W), but {array.shape} came"
        + ("; channels last is read_authors' layout" if array.shape[-1:] == (3,) else ""),
    )
    largest = float(np.abs(array).max())
    require(
        largest <= LIMIT,
        f"{path} must be in units of [0, 1] and at most 64/255, but its largest entry is {largest:.3g}; "
        "read_authors reads units of 0-255",
    )
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))[None]


def write_port(path: str | os.PathLike[str], delta: Float[Tensor, "1 channels height width"]) -> None:
    """Write a perturbation as the PyTorch port of 2020 does: `(1, 3, H, W)`, units of `[0, 1]`, RGB, float32.

    **Arguments:** `delta`: `(1, 3, H, W)` in units of `[0, 1]`, RGB.
    **Raises:** `JostleError` for another shape, NaN or entries above 64/255.
    """
    _save(path, _checked(delta).astype(np.float32))


def _load(path: str | os.PathLike[str]) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise JostleError(f"there is no file {path}") from None
    except (ValueError, EOFError, OSError) as error:
        raise JostleError(f"{path} is not a .npy file of plain numbers ({error})") from None
    require(
        isinstance(array, np.ndarray), f"{path} must be a .npy file, but an archive of several arrays came"
    )
    require(
        bool(np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)),
        f"{path} must hold real numbers, but an array of {array.dtype} came",
    )
    require(array.size > 0, f"{path} must hold a perturbation, but its array is empty")
    require(bool(np.isfinite(array).all()), f"{path} holds NaN or infinite entries")
    return array.astype(np.float64)


def _checked(delta: Tensor) -> np.ndarray:
    require(
        delta.ndim == 4 and delta.shape[0] == 1 and delta.shape[1] == 3,
        f"delta must have shape (1, 3, H, W), but {tuple(delta.shape)} came",
    )
    array = delta.detach().cpu().double().numpy()
    require(bool(np.isfinite(array).all()), "delta holds NaN or infinite entries")
    largest = float(np.abs(array).max())
    require(
        largest <= LIMIT,
        f"delta must be in units of [0, 1] and at most 64/255, but its largest entry is {largest:.3g}",
    )
    return array


def _save(path: str | os.PathLike[str], array: np.ndarray) -> None:
    with whole(Path(path)) as draft, draft.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
