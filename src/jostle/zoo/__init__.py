"""Data sets and models by name, offline first."""

from jostle.zoo.data import datasets, load_data
from jostle.zoo.images import Images
from jostle.zoo.models import Normalised, load_model, models, normalised

__all__ = ["Images", "Normalised", "datasets", "load_data", "load_model", "models", "normalised"]
