"""Data sets and models by name, offline first.

Nothing heavy is imported here: torchvision, timm, scikit-learn and the others come in when a name needs them.
"""

from jostle.zoo.fetch import citylearn_2022 as citylearn_2022
from jostle.zoo.images import Images as Images
from jostle.zoo.listing import datasets as datasets
from jostle.zoo.listing import models as models
from jostle.zoo.listing import tables as tables
from jostle.zoo.loading import load_data as load_data
from jostle.zoo.networks import Normalised as Normalised
from jostle.zoo.networks import load_model as load_model
from jostle.zoo.networks import normalised as normalised

__all__ = [
    "Images",
    "Normalised",
    "citylearn_2022",
    "datasets",
    "load_data",
    "load_model",
    "models",
    "normalised",
    "tables",
]
