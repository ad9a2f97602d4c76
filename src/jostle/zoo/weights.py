"""Weights from files, never unpickled, and put into a network with a sentence for whatever does not fit."""

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.zoo.words import reason

# Under these keys training scripts keep the state dict within a larger checkpoint.
_NESTS = ("state_dict", "model_state_dict", "model")
# What wrappers put before every key: our `Normalised`, `DataParallel`, `torch.compile`.
_PREFIXES = ("model.", "module.", "_orig_mod.")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file, or a .pth or .pt file that holds tensors only.

    Files of pickled objects are refused, for unpickling runs whatever code the file brings. A checkpoint that
    keeps the state dict under `state_dict`, `model_state_dict` or `model` is opened.

    **Arguments:** `path`: the file.
    **Returns:** tensors on the CPU by name.
    **Raises:** `JostleError` if the file is absent, is broken, holds other objects than tensors, or none.

    >>> import tempfile, safetensors.torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     safetensors.torch.save_file({"bias": torch.ones(2)}, f"{folder}/w.safetensors")
    ...     read_state(f"{folder}/w.safetensors")
    {'bias': tensor([1., 1.])}
    """
    path = Path(path).expanduser()
    require(path.is_file(), f"weights file {path} does not exist")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found: object = load_file(path)
        except (SafetensorError, OSError) as error:
            raise JostleError(f"{path} is not a readable safetensors file: {reason(error)}") from error
    else:
        require(
            path.suffix in (".pth", ".pt"),
            f"weights must be a .safetensors, .pth or .pt file, but {path.name!r} came",
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on foreign pickles torch warns, and then refuses them
                found = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise JostleError(
                f"{path} holds pickled objects, which are not loaded because they can run code; "
                "save model.state_dict(), best as .safetensors"
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
            raise JostleError(f"{path} is not a readable weights file: {reason(error)}") from error
    for nest in _NESTS:
        if isinstance(found, Mapping) and isinstance(found.get(nest), Mapping):
            found = found[nest]
            break
    state = (
        {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    )
    require(len(state) > 0, f"{path} holds no state dict (named tensors); save model.state_dict()")
    return state


def fill(model: nn.Module, state: Mapping[str, Tensor], source: str, *, fresh: int | None = None) -> None:
    """Copy `state` into `model`, every tensor of it.

    **Arguments:** `model`: changed in place. `state`: tensors by name; a prefix that a wrapper put before all
    names is taken off. `source`: where the weights come from, for the sentences. `fresh`: number of outputs
    of a new classifier; tensors of the old one, which differ in their first length only, then stay as they
    are.
    **Raises:** `JostleError` that names the first tensor that is missing, unexpected, or of another shape.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> fill(layer, {"module.weight": torch.tensor([[2.0]])}, "a test")
    >>> layer.weight.item()
    2.0
    """
    wanted = model.state_dict()
    for prefix in _PREFIXES:
        # Only when no wanted name starts so: a network may well have a part called `model`.
        if all(key.startswith(prefix) for key in state) and not any(key.startswith(prefix) for key in wanted):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    # Old checkpoints lack BatchNorm's step counter, which no inference reads.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    require(not missing, f"weights from {source} lack {(missing or [''])[0]!r}, which the model has")
    require(not unexpected, f"weights from {source} hold {(unexpected or [''])[0]!r}, which the model lacks")
    kept = dict(wanted)
    for key, value in state.items():
        have, want = tuple(value.shape), tuple(wanted[key].shape)
        if have != want and fresh is not None and have[1:] == want[1:] and want[:1] == (fresh,):
            continue
        require(
            have == want, f"weights from {source} have {key!r} of shape {have}, but the model wants {want}"
        )
        kept[key] = value
    model.load_state_dict(kept)


def require_finite(model: nn.Module, source: str) -> None:
    """Refuse a network with NaN or infinite parameters, or NaN buffers (an attention mask may be infinite).

    **Raises:** `JostleError` that names the first of them.

    >>> require_finite(nn.Linear(2, 2), "a test")
    """
    for key, value in model.named_parameters():
        require(bool(value.isfinite().all()), f"{source} has NaN or infinite values in {key!r}")
    for key, value in model.named_buffers():
        require(not bool(value.isnan().any()), f"{source} has NaN values in {key!r}")
