"""What is compared: the methods by name, and the ablations of AdvStyle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jostle.core.errors import require
from jostle.style.insertion import At


@dataclass(frozen=True)
class Method:
    """A style layer, something done to the images instead, or nothing.

    **Arguments:** `kind`: a kind of [`insert`][jostle.style.insertion.insert]; `"erm"` (nothing); `"mixup"` (Zhang
    et al. 2018, `alpha` 0.2); `"jitter"` or `"grayscale"`, see
    [`recoloured`][jostle.style.augment.recoloured]. `settings`: of the layer. `at`: where it goes; by default where
    all go. `protocol`: what differs in the protocol.
    """

    kind: str = "erm"
    settings: Mapping[str, Any] = field(default_factory=dict)
    at: At | None = None
    protocol: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "erm": Method(),
    "mixup": Method("mixup"),
    "jitter": Method("jitter"),
    "grayscale": Method("grayscale"),
    "mixstyle": Method("mixstyle"),
    "padain": Method("padain"),
    "efdmix": Method("efdmix"),
    "dsu": Method("dsu"),
    "advstyle": Method("advstyle"),
    "advstyle-lambda0": Method("advstyle", {"lam": 0.0}),
    "advstyle-lambda1": Method("advstyle", {"lam": 1.0}),
    "advstyle-early": Method("advstyle", at="early"),
    "adversarial-only": Method("advstyle", {"recipe": "adv"}),
    "adversarial-only-lambda0": Method("advstyle", {"recipe": "adv", "lam": 0.0}),
    "direction": Method("advstyle", {"recipe": "direction"}),
    "intensity": Method("advstyle", {"recipe": "intensity"}),
    "per-sample": Method("advstyle", {"granularity": "sample"}),
    "constant-start": Method("advstyle", {"start": "constant"}),
    "half-normal-start": Method("advstyle", {"start": "half-normal"}),
    "inner-ascent": Method("advstyle", protocol={"ascent": "inner"}),
}
"""Methods and ablations by name; `advstyle-lambda0` has the noise and no adversary, `advstyle-early` (ResNets) no
layer behind stages 3 and 4."""

Ablation = Literal["places", "lam", "start", "ascent", "recipe", "branch"]
_GROUPS: dict[str, tuple[str, ...]] = {
    "lam": ("advstyle-lambda0", "advstyle-lambda1"),
    "start": ("constant-start", "half-normal-start"),
    "ascent": ("inner-ascent",),
    "recipe": ("adversarial-only", "direction", "intensity"),
    "branch": ("per-sample",),
}


def ablations(what: Sequence[Ablation], places: Sequence[str]) -> dict[str, Method]:
    """AdvStyle, and AdvStyle with one thing changed at a time.

    **Arguments:** `what`: `places` (each place alone, and all but the last), `lam` (0 and 1 instead of 10), `start`
    (constant and half-normal scales), `ascent` (three ascent-only steps a batch), `recipe` (no DSU branch, direction,
    intensity), `branch` (one a sample). `places`: where all of them go, at least one.

    >>> list(ablations(("places", "ascent"), ("layer1", "layer2")))
    ['advstyle', 'only layer1', 'only layer2', 'inner-ascent']
    """
    require(bool(what), "what must name at least one ablation, but it is empty")
    out = {"advstyle": METHODS["advstyle"]}
    for group in dict.fromkeys(what):
        require(
            group == "places" or group in _GROUPS,
            f"what must be of places, {', '.join(_GROUPS)}, but {group!r} came",
        )
        if group != "places":
            out |= {name: METHODS[name] for name in _GROUPS[group]}
            continue
        if len(places) > 1:
            out |= {f"only {name}": Method("advstyle", at=(name,)) for name in places}
        if len(places) > 2:
            out[f"without {places[-1]}"] = Method("advstyle", at=tuple(places[:-1]))
    return out
