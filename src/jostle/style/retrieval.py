"""Retrieval as person re-identification measures it: mean average precision and the match curve."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.taps import Taps, frozen
from jostle.files import write_json
from jostle.zoo import Images

Progress = Callable[[int, int, str], None]
# Market-1501: 0002_c1s1_000451_03.jpg; DukeMTMC-reID: 0005_c2_f0046985.jpg; -1 is junk in Market's gallery.
_NAME = re.compile(r"(-?\d+)_c(\d+)")


@dataclass(frozen=True)
class Retrieval:
    """How well queries find their like in a gallery, all in percent.

    `mean_ap`: mean average precision. `rank1`, `rank5`, `rank10`: queries with a match among the first so
    many. `queries`: those that have a match at all; others do not count.
    """

    mean_ap: float
    rank1: float
    rank5: float
    rank10: float
    queries: int

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        write_json(Path(path), {name: getattr(self, name) for name in self.__dataclass_fields__})


def rank(
    query: Float[Tensor, "q features"],
    gallery: Float[Tensor, "g features"],
    query_ids: Int[Tensor, " q"],
    gallery_ids: Int[Tensor, " g"],
    query_cameras: Int[Tensor, " q"] | None = None,
    gallery_cameras: Int[Tensor, " g"] | None = None,
) -> Retrieval:
    """Rank a gallery for each query by cosine distance (Zheng et al., ICCV 2015).

    With cameras, gallery images of the query's own person *and* camera are junk and left out, as are those of
    person -1. The average precision of a query is the mean over its matches of the precision at their ranks.

    **Arguments:** `query`, `gallery`: features. `..._ids`: who is shown. `..._cameras`: by which camera; both
    or neither.
    **Raises:** `JostleError` if no query has a match.

    >>> gallery = torch.tensor([[1.0, 0.1], [1.0, 0.5], [1.0, 0.9]])
    >>> rank(torch.tensor([[1.0, 0.0]]), gallery, torch.tensor([5]), torch.tensor([5, 6, 5])).mean_ap
    83.33333333333333
    """
    both = (query_cameras is None) == (gallery_cameras is None)
    require(both, "cameras must be given for queries and gallery, or for neither")
    distance = 1 - F.normalize(query.float()) @ F.normalize(gallery.float()).T
    precisions, firsts = [], []
    for i in range(len(query)):
        keep = gallery_ids != -1
        if query_cameras is not None and gallery_cameras is not None:
            keep &= ~((gallery_ids == query_ids[i]) & (gallery_cameras == query_cameras[i]))
        order = distance[i][keep].argsort(stable=True)
        match = (gallery_ids[keep][order] == query_ids[i]).double()
        if not bool(match.any()):
            continue
        places = match.nonzero().flatten()
        found = torch.arange(1, len(places) + 1, dtype=torch.float64, device=places.device)
        precisions.append(float((found / (places + 1)).mean()))
        firsts.append(int(places[0]))
    require(bool(firsts), "no query has a match in the gallery")
    first = torch.tensor(firsts)
    one, five, ten = (100 * float((first < k).double().mean()) for k in (1, 5, 10))
    return Retrieval(100 * sum(precisions) / len(precisions), one, five, ten, len(firsts))


def persons(images: Images) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Person and camera of each image, from file names as Market-1501 and DukeMTMC-reID have them.

    **Raises:** `JostleError` for a name without `PERSON_cCAMERA`.
    """
    require(images.paths is not None, "retrieval takes images from files, whose names say person and camera")
    assert images.paths is not None
    ids, cameras = [], []
    for path in images.paths:
        found = _NAME.match(Path(path).name)
        if found is None:
            raise JostleError(
                f"image {path} must be named PERSON_cCAMERA..., such as 0002_c1s1_000451_03.jpg"
            )
        ids.append(int(found[1]))
        cameras.append(int(found[2]))
    return torch.tensor(ids), torch.tensor(cameras)


def features(
    model: nn.Module, batches: Iterable[Tensor], layer: str | None = None
) -> Iterator[Float[Tensor, "n features"]]:
    """The features of each batch, on the CPU: the model's output, or what a layer gives, averaged over space.

    **Arguments:** `batches`: brought to the model's device. `layer`: a dotted name; `None`: the output.
    """
    with frozen(model), torch.no_grad(), Taps(model, [layer] if layer else [""]) as taps:
        for x in batches:
            model(x.to(next(iter(model.parameters()), x).device))
            value = taps.values[-1]
            yield value.flatten(2).mean(2).cpu() if value.ndim > 2 else value.cpu()


def embed(
    model: nn.Module,
    images: Images,
    layer: str | None = None,
    batch: int = 64,
    callback: Progress | None = None,
) -> Float[Tensor, "n features"]:
    """Features of images; see [`features`][jostle.style.retrieval.features]."""
    out: list[Tensor] = []
    for part in features(model, (x for x, _ in images.batches(batch)), layer):
        out.append(part)
        if callback is not None:
            callback(sum(map(len, out)), len(images), "embedding")
    return torch.cat(out)


def retrieve(
    model: nn.Module,
    query: Images,
    gallery: Images,
    *,
    layer: str | None = None,
    callback: Progress | None = None,
) -> Retrieval:
    """Evaluate a model for person re-identification on two sets of images, across cameras.

    **Arguments:** `model`: gives the features that are compared. `query`: images of persons to be found
    again, in subfolders, with person and camera in the file names
    ([`persons`][jostle.style.retrieval.persons]). `gallery`: images among which the persons are sought, in
    subfolders, with person and camera in the file names. `layer`: where the features come from, a dotted
    name; the model's output by default.
    **Returns:** [`Retrieval`][jostle.style.retrieval.Retrieval].
    """
    ids, cameras = persons(query)
    others, views = persons(gallery)
    return rank(
        embed(model, query, layer, callback=callback),
        embed(model, gallery, layer, callback=callback),
        ids,
        others,
        cameras,
        views,
    )
