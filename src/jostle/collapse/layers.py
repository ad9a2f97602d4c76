"""Collapse layer by layer in anybody's classifier, measured over any stream of labelled batches."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jostle.collapse.accumulator import Accumulator
from jostle.collapse.report import NCReport
from jostle.core.errors import JostleError, require
from jostle.core.layers import Where, find
from jostle.core.taps import Taps, first_tensor, frozen
from jostle.files import whole, write_json
from jostle.zoo import Images

Pooling = Literal["gap", "flatten"]
Data = Images | tuple[Tensor, Tensor] | Iterable[Any]
"""Zoo images, `(images, labels)` tensors, or an iterable of such batches that can be gone through twice."""

Progress = Callable[[int, int, str], None]
FEATURES = "features"


@dataclass(frozen=True, eq=False)
class Measured:
    """Collapse at each layer of a classifier, in the order in which the layers run.

    `layers`: a report a layer; the input of the head comes last, as `features`. `accuracy`: of the classifier
    on the same data.
    """

    layers: dict[str, NCReport]
    accuracy: float

    @property
    def last(self) -> NCReport:
        """The report of the last layer: of the head's input, where there is a head."""
        return next(reversed(self.layers.values()))

    def curve(self, name: str) -> list[float]:
        """One metric along the layers, such as `nc1`."""
        return [getattr(report, name) for report in self.layers.values()]

    def numbers(self) -> dict[str, Any]:
        """The metrics that are usually reported, a layer; all there is stands in the record."""
        shown = ("nc1", "nc1_trace", "nc2", "nc3", "nc4", "ncc", "cdnv")
        rows = {
            layer: {name: getattr(report, name) for name in shown} for layer, report in self.layers.items()
        }
        return {"accuracy": self.accuracy, **rows}

    def record(self) -> dict[str, Any]:
        """Everything, as a JSON object."""
        layers = {name: report.record() for name, report in self.layers.items()}
        return {"accuracy": self.accuracy, "layers": layers}

    def save(self, path: Path) -> None:
        """Write `NAME.json`, and beside it `NAME-geometry.png` and `NAME-layers.png`."""
        from jostle.collapse import figures

        path = Path(path)
        require(path.suffix == ".json", f"out must end in .json, but {path.name} came")
        write_json(path, self.record())
        for name, figure in (
            ("geometry", figures.geometry(self.last)),
            ("layers", figures.by_layer(self.layers)),
        ):
            with whole(path.with_name(f"{path.stem}-{name}.png")) as draft:
                figure.savefig(draft, dpi=160, bbox_inches="tight")


def measure(
    model: nn.Module,
    data: Images | tuple[Tensor, Tensor] | Iterable[Any],
    layers: tuple[str, ...] | Where | None = None,
    *,
    head: str | None = None,
    pooling: Pooling = "gap",
    passes: Literal[1, 2] = 2,
    K: int | None = None,
    rank_tol: float = 0.0,
    cdnv_exponent: float = 2.0,
    batch: int = 128,
    callback: Progress | None = None,
) -> Measured:
    """How far each layer of a classifier has collapsed, and the geometry of its last features.

    Class statistics stream: memory is `O(K d)` a layer with two passes over the data, `O(K d + d^2)` with
    one. The network runs in evaluation mode and is left as it was. Neural collapse is about the training set:
    measure there, without augmentation.

    Labels number the head's outputs; a head may have more of them than there are classes. If most predictions
    are then none of the classes, the labels cannot be its numbers: a warning says so, and `nc3` and `nc4`
    stay unknown.

    **Arguments:** `model`: a classifier; images in, logits out. `data`: labelled images; from Python also
    `(images, labels)`, or an iterable of such batches that can be gone through `passes` times. `layers`:
    names, or a kind that [`find`][jostle.core.layers.find] knows; by default the blocks, else the
    activations; `()` for the head's input alone. `head`: the name of the last linear layer, whose input is
    the last set of features and whose weight `nc3` compares; by default the last `nn.Linear`. `pooling`:
    `gap` averages `(batch, channels, places...)` over places and `(batch, tokens, channels)` over tokens,
    `flatten` does not; the numbers differ. `passes`: over the data; with 1, `nc4` and `ncc` stay unknown.
    `K`: how many classes; by default those in the labels, or as many as the head has. `rank_tol`: directions
    of the class means with a singular value below this share of the largest are left out of `nc1`, in [0, 1).
    `cdnv_exponent`: of the distance in `cdnv`, above 0, 2 as usual. `batch`: images at a time. `callback`:
    `(done, total or 0, figure)` after each batch.
    **Returns:** [`Measured`][jostle.collapse.Measured].
    **Raises:** `JostleError` for layers that are not there, no data, labels that do not fit, NaN features.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    >>> images = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> found = measure(net, (images, torch.arange(30) % 3))
    >>> list(found.layers), found.last.nc1 > 0
    (['2', 'features'], True)
    """
    require(pooling in ("gap", "flatten"), f"pooling must be gap or flatten, but {pooling!r} came")
    require(passes in (1, 2), f"passes must be 1 or 2, but {passes} came")
    require(
        not isinstance(data, Iterator), "data must be gone through more than once: give a list or a loader"
    )
    stream = _Stream(model, layers, head, pooling)
    K = K or _classes(data) or stream.head_classes
    require(K is not None, "K must be given: neither the data nor a head says how many classes there are")
    assert K is not None
    stats: dict[str, Accumulator] = {}
    total = _length(data)
    correct = done = known = 0
    numbered = True
    for attempt in range(passes):
        done = 0
        for values, labels, predicted in stream(data, batch):
            for name, value in values.items():
                if attempt == 0:
                    if name not in stats:
                        stats[name] = Accumulator(
                            K,
                            value.shape[1],
                            one_pass=passes == 1,
                            rank_tol=rank_tol,
                            cdnv_exponent=cdnv_exponent,
                            device=value.device,
                        )
                    _named(name, stats[name].update, value, labels)
                else:
                    stats[name].second_pass(value, labels, predicted if numbered else None)
            known += 0 if attempt else int((predicted < K).sum())
            correct += 0 if attempt else int((predicted == labels).sum())
            done += len(labels)
            if callback is not None:
                callback(attempt * total + done, passes * total, f"pass {attempt + 1} of {passes}")
        # A head that knows these classes names one of them for most samples.
        numbered = 2 * known >= done
    require(done > 0, "data must hold at least one batch, but it is empty")
    reports = {}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for name, acc in stats.items():
            # The rows of the labels: each of 0 to K - 1 occurs.
            weight = stream.weight if name == FEATURES and numbered else None
            reports[name] = acc.compute(None if weight is None else weight[:K], pooling=pooling)
        if not numbered:
            warnings.warn(
                f"the model has more outputs than the {K} classes of the labels, and {1 - known / done:.0%} of its "
                "predictions are none of these: the labels do not number its outputs, so nc3 and nc4 "
                "stay unknown and the accuracy means nothing",
                stacklevel=2,
            )
    for note in dict.fromkeys(str(item.message) for item in heard):  # once, not once a layer
        warnings.warn(note, stacklevel=2)
    return Measured(reports, correct / done)


def collect(
    model: nn.Module,
    data: Images | tuple[Tensor, Tensor] | Iterable[Any],
    layer: str = FEATURES,
    *,
    pooling: Pooling = "gap",
    batch: int = 128,
) -> tuple[Float[Tensor, "N d"], Int[Tensor, " N"]]:
    """The features of one layer, all in memory: for [`bank`][jostle.collapse.bank] and the tied model.

    **Arguments:** as of [`measure`][jostle.collapse.measure]; `layer`: one name, the head's input by default.
    **Returns:** features and labels, in the order of the data.

    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> features, labels = collect(net, (torch.zeros(5, 4), torch.zeros(5, dtype=torch.long)))
    >>> tuple(features.shape)
    (5, 3)
    """
    stream = _Stream(model, () if layer == FEATURES else (layer,), None, pooling)
    found = [(values[layer], labels) for values, labels, _ in stream(data, batch)]
    require(bool(found), "data must hold at least one batch, but it is empty")
    return torch.cat([h for h, _ in found]), torch.cat([y for _, y in found])


class _Stream:
    """From batches to the pooled features of each layer, labels and predictions."""

    def __init__(self, model: nn.Module, layers: Any, head: str | None, pooling: Pooling) -> None:
        self.model, self.pooling = model, pooling
        self.head = head if head is not None else _last_linear(model)
        self.where: Any = layers
        if layers is None:
            self.where = _default_layers(model)
        elif not callable(layers) and not isinstance(layers, str):
            self.where = tuple(layers)
        self.weight: Tensor | None = None
        if self.head is not None:
            find(model, [self.head])
            weight = getattr(model.get_submodule(self.head), "weight", None)
            self.weight = weight if isinstance(weight, Tensor) and weight.ndim == 2 else None
        require(
            self.head is not None or self.where != (),
            "the model has no linear layer for a head: name the layers to measure",
        )

    @property
    def head_classes(self) -> int | None:
        return None if self.weight is None else len(self.weight)

    def __call__(self, data: Any, batch: int) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
        device = next(self.model.parameters(), torch.empty(0)).device
        with ExitStack() as stack:
            stack.enter_context(frozen(self.model))
            # A loader draws its seed from the global generator: whoever trains beside us must not notice.
            stack.enter_context(torch.random.fork_rng(devices=[]))
            watched = []
            if self.where != ():
                watched.append(stack.enter_context(Taps(self.model, self.where, reduce=self._pool)))
            if self.head is not None:
                taps = Taps(self.model, [self.head], when="pre", reduce=self._pool)
                stack.enter_context(taps)
            for images, labels in _batches(data, batch):
                with torch.no_grad():
                    logits = first_tensor(self.model(images.to(device)), "model")
                values = {
                    name: value
                    for taps_ in watched
                    for name, value in zip(taps_.names, taps_.values, strict=True)
                }
                if self.head is not None:
                    require(len(taps.values) > 0, f"the model does not run its head {self.head!r}")
                    values[FEATURES] = taps.values[-1]
                require(
                    logits.ndim == 2 and len(logits) == len(labels),
                    f"the model must return (batch, classes), but {tuple(logits.shape)} came",
                )
                yield values, labels.to(device), logits.argmax(1)

    def _pool(self, value: Tensor) -> Tensor:
        value = value.detach()
        require(value.ndim >= 2, f"a layer must return (batch, ...), but {tuple(value.shape)} came")
        if value.ndim == 2 or self.pooling == "flatten":
            return value.flatten(1)
        # (batch, channels, places...), or (batch, tokens, channels).
        return value.mean(1) if value.ndim == 3 else value.flatten(2).mean(2)


def _default_layers(model: nn.Module) -> Where | tuple[()]:
    for kind in ("block", "activation"):
        try:
            find(model, kind)  # pyright: ignore
        except JostleError:
            continue
        return kind  # pyright: ignore
    return ()


def _last_linear(model: nn.Module) -> str | None:
    names = [name for name, child in model.named_modules() if isinstance(child, nn.Linear)]
    return names[-1] if names else None


def _batches(data: Any, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(data, Images):
        yield from data.batches(size)
    elif _pair(data):
        images, labels = data[0], data[1]
        require(
            len(images) == len(labels),
            f"images and labels must be equally long, but {len(images)} and {len(labels)} came",
        )
        if len(images):
            yield from zip(images.split(size), labels.split(size), strict=True)
    else:
        for item in data:
            require(
                isinstance(item, tuple | list) and len(item) >= 2,
                "data must give batches of (images, labels)",
            )
            pair: Any = item
            yield pair[0], pair[1]


def _pair(data: Any) -> bool:
    return type(data) in (tuple, list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data)


def _classes(data: Any) -> int | None:
    labels = data.labels if isinstance(data, Images) else data[1] if _pair(data) else None
    return int(labels.max()) + 1 if isinstance(labels, Tensor) and len(labels) else None


def _length(data: Any) -> int:
    return len(data) if isinstance(data, Images) else len(data[0]) if _pair(data) else 0


def _named(name: str, update: Callable[..., None], value: Tensor, labels: Tensor) -> None:
    try:
        update(value, labels)
    except JostleError as error:
        raise JostleError(f"layer {name!r}: {error}") from error
