"""Who holds which samples of a data set: dealt once, kept in a file, used by every run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.federated.partition import Scheme, partition
from jostle.files import whole
from jostle.zoo import Images


@dataclass(frozen=True, eq=False)
class Split:
    """Who holds which samples of a data set.

    `parts`: indices, one tensor a client. `test`: indices that nobody holds.

    >>> Split([torch.tensor([0, 2])], torch.tensor([1])).numbers()["clients"]
    1
    """

    parts: list[Tensor]
    test: Tensor

    suffix: ClassVar[str] = ".npz"

    def numbers(self) -> dict[str, Any]:
        """How many clients, and the sizes."""
        sizes = [len(part) for part in self.parts]
        return {
            "clients": len(sizes),
            "smallest": min(sizes),
            "largest": max(sizes),
            "dealt": sum(sizes),
            "test": len(self.test),
        }

    def save(self, path: str | Path) -> Path:
        """Write `path` (.npz)."""
        path = Path(path)
        require(path.suffix == self.suffix, f"path must end in {self.suffix}, but {path.name} came")
        arrays: dict[str, Any] = {f"client_{i}": part.numpy() for i, part in enumerate(self.parts)}
        with whole(path) as draft, draft.open("wb") as file:
            np.savez(file, **arrays, test=self.test.numpy())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Split":
        """Read what `save` wrote.

        **Raises:** `JostleError` if the file is absent or broken.
        """
        try:
            # numpy leaves a file open that is no archive.
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as kept:
                arrays = {name: torch.from_numpy(kept[name].astype(np.int64)) for name in kept.files}
            test = arrays.pop("test")
            return cls([arrays[f"client_{i}"] for i in range(len(arrays))], test)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise JostleError(f"split {path} cannot be read ({type(error).__name__})") from error


def split(
    data: Images,
    *,
    clients: int = 50,
    scheme: Scheme = "dirichlet",
    dirichlet: float = 0.1,
    classes_per_client: int = 3,
    test_share: float = 0.2,
    seed: int = 0,
) -> Split:
    """Deal a data set to clients and keep a share for testing.

    **Arguments:** `data`: labelled images. `clients`: how many hold the data, at least 1. `scheme`: how
    images are dealt: `dirichlet` gives equal sizes and uneven classes, `official` lets images repeat, as
    FedSpeed's program does, `ragged` makes sizes uneven too, `pathological` gives `classes_per_client`
    classes each, `iid` shuffles. `dirichlet`: concentration of the Dirichlet shares (`dirichlet`, `official`,
    `ragged`), above 0; small is uneven. `classes_per_client`: of the scheme `pathological`, 1 to the number
    of classes. `test_share`: share of the images that nobody holds, for testing, in [0, 1). `seed`: of all
    that is drawn.
    **Returns:** a [`Split`][jostle.federated.Split], which saves as .npz.

    >>> from jostle import zoo
    >>> split(zoo.load_data("digits").subset(range(100)), clients=4).numbers()["test"]
    20
    """
    require(0 <= test_share < 1, f"test_share must lie in [0, 1), but {test_share} came")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(data)))
    cut = len(order) - int(len(order) * test_share)
    held, test = order[:cut], order[cut:]
    parts = partition(
        data.labels[held],
        clients,
        scheme=scheme,
        concentration=dirichlet,
        classes_per_client=classes_per_client,
        seed=seed,
    )
    return Split([held[part] for part in parts], test)
