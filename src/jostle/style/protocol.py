"""The protocol of a domain generalisation experiment as one object, and one paired training run under it."""

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.training import Trainer, minibatches
from jostle.style.advstyle import check_scales
from jostle.style.augment import RECOLOURED, augmented, recoloured
from jostle.style.diagnostics import adversarial_gap, scale_report
from jostle.style.domains import Domain, check_domains, floating, joined, split
from jostle.style.evaluate import Trial
from jostle.style.insertion import KINDS, At, insert, param_groups, scales
from jostle.style.methods import METHODS, Method

Build = Callable[[], nn.Module]
"""Makes a fresh model; its random weights come from torch's own generator, which is seeded for it."""
Progress = Callable[[int, int, str], None]
TEST_BATCH = 100


@dataclass(frozen=True)
class Protocol:
    """All that decides a domain generalisation number besides the method; it goes into every record.

    The defaults are those of the official PACS script but for `split` and `translate`.

    **Arguments:** `epochs`, `batch`, `lr`, `momentum`, `weight_decay`: SGD with a cosine to zero, a step a
    batch. `weight_decay_scales`: of the learnt scales; `None`: like the weights, as published. `split`: of the
    sources; `"drawn"` here, or `"official"`, by the split lists that the domains were loaded with. `validation`:
    share of each source held out, stratified by class, in [0, 1), when it is drawn. `split_seed`: of that split, the
    same for all seeds. `selection`: test the `"last"` epoch, or the one that is best on the held-out part of the
    sources. `mirror`: random horizontal mirroring. `translate`: random windows of images made an eighth larger,
    as that script has them; for whole images, not for cached features. `ascent`: `"joint"`, one step for all, as
    published, or `"inner"`: three ascent-only steps on the scales before each step on the weights. `half`:
    the network in bfloat16; styles are computed in float32 at least.

    >>> Protocol(epochs=1).batch
    64
    """

    epochs: int = 50
    batch: int = 64
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    weight_decay_scales: float | None = None
    split: Literal["drawn", "official"] = "drawn"
    validation: float = 0.1
    split_seed: int = 0
    selection: Literal["last", "source_val"] = "last"
    mirror: bool = True
    translate: bool = False
    ascent: Literal["joint", "inner"] = "joint"
    half: bool = False

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs must be at least 1, but {self.epochs} came")
        require(self.batch >= 2, f"batch must be at least 2, but {self.batch} came")
        require(self.lr > 0, f"lr must be above 0, but {self.lr} came")
        require(0 <= self.validation < 1, f"validation must lie in [0, 1), but {self.validation} came")
        require(
            self.selection == "last" or self.split == "official" or self.validation > 0,
            "selection='source_val' needs validation above 0, but it is 0",
        )


def stream(seed: int, name: str) -> torch.Generator:
    """The generator of one kind of randomness (`order`, `augmentation`, `initialisation`, `noise`) of a seed.

    Four streams apart, so that methods see the same batches whatever noise they draw: they are paired.
    """
    return torch.Generator().manual_seed(zlib.crc32(f"style/{seed}/{name}".encode()))


def training_parts(domain: Domain, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """Indices of the images of a source to train on, and of those held out.

    **Raises:** `JostleError` for the official split without split lists.
    """
    if protocol.split == "drawn":
        return split(domain.labels, protocol.validation, protocol.split_seed)
    require(
        domain.parts is not None, "split='official' needs domains that were loaded with their split lists"
    )
    assert domain.parts is not None
    return domain.parts.train, domain.parts.held


def trial(
    build: Build,
    domains: Mapping[str, Domain],
    sources: Sequence[str],
    targets: Sequence[str],
    method: str,
    seed: int,
    protocol: Protocol,
    at: At = "auto",
    *,
    table: Mapping[str, Method] = METHODS,
    callback: Progress | None = None,
) -> tuple[Trial, nn.Module]:
    """Train one method with one seed on the sources and test it on the targets.

    Order of the batches, augmentation, initialisation and style noise come from four generators of the seed.

    **Arguments:** `build`: makes the model. `domains`: by name. `method`: a name in `table`. `at`: where style
    layers go, as for [`insert`][jostle.style.insertion.insert]. `callback`: `(done, total, figure)` after
    each batch.
    **Returns:** the record, and the trained model with its style layers, in evaluation mode.
    **Raises:** `JostleError` for unknown names, or when scales or the loss are no longer finite.
    """
    check_domains(domains, sources, targets)
    started = time.perf_counter()
    parts = {name: training_parts(domains[name], protocol) for name in sources}
    train, held = (joined([domains[name].subset(parts[name][side]) for name in sources]) for side in (0, 1))
    model, history, accuracy = trained(
        build, train, held, method, seed, protocol, at, table=table, callback=callback
    )
    shown = {name: domains[name] for name in targets}
    if protocol.split == "official":
        shown = {name: d if d.parts is None else d.subset(d.parts.test) for name, d in shown.items()}
    with _repeatable(), _halved(protocol, train.images.device):
        correct = {name: hits(model, domain) for name, domain in shown.items()}
    total = {name: len(domain) for name, domain in shown.items()}
    seconds = time.perf_counter() - started
    return Trial(method, seed, tuple(sources), correct, total, accuracy, seconds, history), model


def trained(
    build: Build,
    train: Domain,
    held: Domain,
    method: str,
    seed: int,
    protocol: Protocol,
    at: At = "auto",
    *,
    table: Mapping[str, Method] = METHODS,
    callback: Progress | None = None,
) -> tuple[nn.Module, tuple[dict[str, Any], ...], float]:
    """Make a model and train it with one method and one seed; torch's own streams are handed back as they were.

    **Arguments:** as for [`trial`][jostle.style.protocol.trial]; `train`, `held`: images to learn from and to judge
    by.
    **Returns:** the model in evaluation mode, with its style layers, and what `fit` returns.
    """
    require(method in table, f"method must be one of {', '.join(table)}, but {method!r} came")
    how, device = table[method], train.images.device
    # Dropout and the like draw from torch's own streams.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _repeatable():
        torch.manual_seed(stream(seed, "initialisation").initial_seed())
        model = build()
        if how.kind in KINDS:
            example = floating(train.images[: min(2, len(train))])
            noise = stream(seed, "noise")
            insert(model, how.at or at, how.kind, example=example, generator=noise, **how.settings)
        plan = replace(protocol, **how.protocol)
        history, accuracy = fit(model, train, plan, seed, held=held, kind=how.kind, callback=callback)
    return model.eval(), history, accuracy


def fit(
    model: nn.Module,
    train: Domain,
    protocol: Protocol,
    seed: int = 0,
    *,
    held: Domain | None = None,
    kind: str = "erm",
    callback: Progress | None = None,
) -> tuple[tuple[dict[str, Any], ...], float]:
    """Train a model under a protocol, with the style layers that it has.

    **Arguments:** `model`: changed in place. `train`: what it learns from. `held`: held-out images. `kind`: what is
    done to the images of a batch, if it is `"mixup"`, `"jitter"` or `"grayscale"`. Others as for
    [`trial`][jostle.style.protocol.trial].
    **Returns:** a row an epoch (`epoch`, `loss`, `scales`, and with AdvStyle layers `gap`, see
    [`adversarial_gap`][jostle.style.diagnostics.adversarial_gap], on the first held-out images), and the accuracy on
    `held` in percent, NaN without.
    """
    order, augmentation, noise = (stream(seed, name) for name in ("order", "augmentation", "noise"))
    groups = param_groups(
        model, weight_decay=protocol.weight_decay, weight_decay_scales=protocol.weight_decay_scales
    )
    own = scales(model)
    if protocol.ascent == "inner":
        groups = groups[:1]
    optimiser = torch.optim.SGD(groups, protocol.lr, protocol.momentum)
    each = math.ceil(len(train) / protocol.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, each * protocol.epochs)

    def loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        x = augmented(train, batch[0], augmentation, mirror=protocol.mirror, translate=protocol.translate)
        y = train.labels[batch[0]]
        if kind in RECOLOURED:
            x = recoloured(x, kind, noise)
        if protocol.ascent == "inner" and own:
            for _ in range(3):
                grads = torch.autograd.grad(F.cross_entropy(net(x), y), own, allow_unused=True)
                with torch.no_grad():
                    for scale, grad in zip(own, grads, strict=True):
                        if grad is not None:  # already reversed: a step down its gradient climbs the loss
                            scale -= optimiser.param_groups[0]["lr"] * grad
        if kind != "mixup":
            return F.cross_entropy(net(x), y)
        pair = torch._standard_gamma(torch.full((2,), 0.2, dtype=torch.float64), generator=noise)
        weight = float(pair[0] / pair.sum())
        other = torch.randperm(len(y), generator=noise)
        out = net(weight * x + (1 - weight) * x[other])
        return weight * F.cross_entropy(out, y) + (1 - weight) * F.cross_entropy(out, y[other])

    def cast(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        with _halved(protocol, train.images.device):
            return loss(net, batch)

    def judged(held: Domain) -> float:
        with _halved(protocol, train.images.device):
            return 100 * hits(model, held) / len(held)

    judge = held if held is not None and len(held) else train
    probe = floating(judge.images[: protocol.batch]), judge.labels[: protocol.batch]

    def looked() -> dict[str, Any]:
        if not own:
            return {"scales": {}}
        with _halved(protocol, train.images.device):
            return {"scales": scale_report(model), "gap": adversarial_gap(model, *probe)}

    trainer = Trainer(model, optimiser, cast, schedule=schedule)
    rows: list[dict[str, Any]] = []
    best, best_state, accuracy = -1.0, None, math.nan

    def after(trainer: Trainer) -> None:
        nonlocal best, best_state, accuracy
        if callback is not None:
            callback(trainer.step, each * protocol.epochs, f"loss {trainer.last:.2f}")
        if trainer.step % each:
            return
        check_scales(model, trainer.step)
        rows.append({"epoch": trainer.step // each, "loss": trainer.last, **looked()})
        if protocol.selection == "source_val" and held is not None:
            now = judged(held)
            if now > best:
                best, best_state = now, copy.deepcopy(model.state_dict())

    model.train()
    indices = torch.arange(len(train))
    trainer.run(
        (
            batch
            for batch in minibatches(indices, size=protocol.batch, epochs=protocol.epochs, generator=order)
        ),
        after,
    )
    if best_state is not None:
        model.load_state_dict(best_state)
    if held is not None and len(held):
        accuracy = judged(held)
    return tuple(rows), accuracy


@torch.no_grad()
def hits(model: nn.Module, domain: Domain) -> int:
    """How many images of a domain the model gets right, in evaluation mode; the mode is put back."""
    was = model.training
    model.eval()
    right = 0
    for images, labels in zip(domain.images.split(TEST_BATCH), domain.labels.split(TEST_BATCH), strict=True):
        right += int((model(floating(images)).argmax(1) == labels).sum())
    model.train(was)
    return right


@contextmanager
def _repeatable() -> Iterator[None]:
    """On a GPU too a seed that is run again gives the same numbers."""
    flags = torch.backends.cudnn
    was = flags.deterministic, flags.benchmark
    flags.deterministic, flags.benchmark = True, False
    try:
        yield
    finally:
        flags.deterministic, flags.benchmark = was


def _halved(protocol: Protocol, device: torch.device) -> torch.autocast:
    """The context in which the network computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=protocol.half)


def dg_benchmark(
    build: Build,
    domains: Mapping[str, Domain],
    methods: Sequence[str] = ("erm", "dsu", "advstyle"),
    protocol: Protocol | None = None,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    sources: Sequence[str] | None = None,
    at: At = "auto",
    table: Mapping[str, Method] = METHODS,
    callback: Progress | None = None,
) -> list[Trial]:
    """Compare methods over paired seeds: from the given sources to all other domains, or leaving one out in
    turn.

    **Arguments:** `sources`: train on these, test on the rest; `None`: each domain is the target once, and
    all others are the sources. Others as for [`trial`][jostle.style.protocol.trial].
    **Returns:** the trials, for [`summarise`][jostle.style.evaluate.summarise].
    """
    protocol = protocol or Protocol()
    if sources is not None:
        plans = [(tuple(sources), tuple(name for name in domains if name not in sources))]
    else:
        plans = [(tuple(name for name in domains if name != target), (target,)) for target in domains]
    jobs = [(method, seed, *plan) for seed in seeds for plan in plans for method in methods]
    out = []
    for done, (method, seed, train, test) in enumerate(jobs):
        record, _ = trial(build, domains, train, test, method, seed, protocol, at, table=table)
        out.append(record)
        if callback is not None:
            callback(done + 1, len(jobs), f"{method} {record.macro:.1f} %")
    return out
