"""The names of ImageNet's 1,000 classes and how its folders are recognised."""

import re
from collections.abc import Sequence
from functools import lru_cache

_WNID = re.compile(r"n\d{8}")


@lru_cache(maxsize=1)
def class_names() -> tuple[str, ...]:
    """The 1,000 category names in the order of the class index, as torchvision gives them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def named(folders: Sequence[str]) -> tuple[str, ...]:
    """Readable names for sorted class folders: ImageNet's own if they are its 1,000 WNIDs, else themselves.

    >>> named(["cat", "dog"])
    ('cat', 'dog')
    >>> named([f"n{k:08d}" for k in range(1000)])[0]
    'tench'
    """
    if len(folders) == 1000 and all(_WNID.fullmatch(folder) for folder in folders):
        return class_names()
    return tuple(folders)
