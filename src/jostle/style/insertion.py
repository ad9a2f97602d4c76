"""Put style layers into any network by layer names, and take them out again without a trace."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.core.layers import find
from jostle.core.taps import Taps, first_tensor, frozen, swap_first
from jostle.style.advstyle import AdvStyle
from jostle.style.layers import DSU, EFDMix, MixStyle, PAdaIN, StyleLayer

KINDS: Mapping[str, type[StyleLayer]] = {
    "advstyle": AdvStyle,
    "dsu": DSU,
    "mixstyle": MixStyle,
    "efdmix": EFDMix,
    "padain": PAdaIN,
}
HOME = "style_layers"
"""The name under which inserted layers live in the model, and so in its state dict."""

At = Sequence[str] | Literal["auto", "official", "early"]


class Inserted:
    """Style layers in a model: what [`insert`][jostle.style.insertion.insert] gives back.

    `layers`: from the name of the model's layer to the style layer behind it. A context manager that removes
    them on leaving.
    """

    def __init__(self, model: nn.Module, layers: dict[str, StyleLayer], hooks: list[Any]) -> None:
        self.model, self.layers, self._hooks = model, layers, hooks

    @property
    def names(self) -> tuple[str, ...]:
        """The layers of the model behind which the style layers sit."""
        return tuple(self.layers)

    def active(self, on: bool) -> None:
        """Switch all of them on or off."""
        for layer in self.layers.values():
            layer.active = on

    def remove(self) -> None:
        """Take them out: outputs and state dict keys are those of before. Harmless when done already."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if hasattr(self.model, HOME):
            delattr(self.model, HOME)

    def __enter__(self) -> "Inserted":
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def __repr__(self) -> str:
        rows = (f"{type(layer).__name__} behind {name}" for name, layer in self.layers.items())
        return f"Inserted({', '.join(rows)})"


def insert(
    model: nn.Module,
    at: At = "auto",
    kind: str | type[StyleLayer] | Callable[[int], StyleLayer] = "advstyle",
    *,
    example: Tensor | None = None,
    **settings: Any,
) -> Inserted:
    """Put a style layer behind each of the named layers of a model.

    By forward hooks: the model's own code and names stay. The layers live in `model.style_layers`, so that
    `parameters()`, `state_dict()`, `to()`, `train()` and DistributedDataParallel see them. Each has its own
    scales. Places: names of `dict(model.named_modules())`; `"auto"`, by the kind of network
    ([`places`][jostle.style.insertion.places]); `"official"`, all six places of the published ResNet script;
    `"early"`, these without stages 3 and 4.

    **Arguments:** `model`: changed in place. `at`: see above. `kind`: `advstyle`, `dsu`, `mixstyle`,
    `efdmix`, `padain`, a class, or a function from the number of channels to a layer. `example`: a small
    input batch for the dry run that finds the channels; without it, they are read from the weights.
    `settings`: handed to the layers, such as `lam=10.0`.
    **Returns:** [`Inserted`][jostle.style.insertion.Inserted].
    **Raises:** `JostleError` if a name is not there (with the nearest names), there are style layers already,
    or the dry run fails.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
    >>> handle = insert(net, ["1"], "dsu", example=torch.zeros(2, 3, 8, 8))
    >>> handle
    Inserted(DSU behind 1)
    >>> handle.remove()
    >>> hasattr(net, "style_layers")
    False
    """
    require(not hasattr(model, HOME), "the model has style layers already: remove them first")
    if isinstance(kind, str):
        require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}, but {kind!r} came")
        make: Callable[..., StyleLayer] = KINDS[kind]
    else:
        make = kind
    found = places(model, at, example) if isinstance(at, str) else tuple(at)
    require(bool(found), "at names no layer to put a style layer behind")
    require(len(set(found)) == len(found), f"at names a layer twice: {', '.join(found)}")
    find(model, list(found))  # says which name is wrong
    shapes = _shapes(model, found, example)
    home = _Home()
    layers: dict[str, StyleLayer] = {}
    hooks = []
    for name in found:
        shape = shapes[name]
        tokens = len(shape) == 3 and _holds_tokens(model)
        channels = shape[-1] if tokens else shape[1]
        extra: dict[str, Any] = {"channel_dim": -1} if tokens else {}
        layer = make(channels, **settings, **extra)
        layer.place = name
        layer.train(model.training)
        home[name.replace(".", "/")] = layers[name] = layer
        skip = _leading_tokens(model) if tokens and not name.endswith("patch_embed") else 0
        hooks.append(model.get_submodule(name).register_forward_hook(_Behind(layer, skip, name)))
    like = next(iter(model.parameters()), None)
    if like is not None:
        home.to(like.device)
    model.add_module(HOME, home)
    return Inserted(model, layers, hooks)


class _Home(nn.ModuleDict):
    """Where inserted layers live. An `nn.Sequential` calls all that it holds: this hands on what comes."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@dataclass(frozen=True)
class _Behind:
    """The hook that runs a style layer on what a module returns; an object, so that copies of a model keep
    their own.
    """

    layer: StyleLayer
    skip: int
    name: str

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        value = first_tensor(output, self.name)
        # Class and register tokens are not part of the picture's style.
        part = value[:, self.skip :] if self.skip else value
        styled = self.layer(part)
        if styled is part:
            return None
        return swap_first(output, torch.cat([value[:, : self.skip], styled], dim=1) if self.skip else styled)


def places(model: nn.Module, at: str = "auto", example: Tensor | None = None) -> tuple[str, ...]:
    """Where style layers go by default.

    `"auto"`: a ResNet: behind its max-pooling and its first three stages. Any network with a spatial
    resolution that falls: behind the last layer before each of its first four falls (for EfficientNet and
    MobileNet these are the ends of the first four stages). A vision transformer: behind the patch embedding
    and the blocks at a quarter and a half of its depth. `"official"`, ResNets only: conv1, max-pooling and
    all four stages. `"early"`, ResNets only: these but the last two stages.

    **Arguments:** `model`: any. `example`: a small input batch; needed unless it is a ResNet or a
    transformer.
    **Raises:** `JostleError` if no rule fits.

    >>> import torchvision
    >>> places(torchvision.models.resnet18())
    ('maxpool', 'layer1', 'layer2', 'layer3')
    """
    require(
        at in ("auto", "official", "early"),
        f"at must be auto, official, early or a list of layer names, but {at!r} came",
    )
    names = dict(model.named_modules())
    official = ("conv1", "maxpool", "layer1", "layer2", "layer3", "layer4")
    # A network may sit inside a wrapper, such as one that normalises its input.
    for prefix in (name.removesuffix("maxpool") for name in names if re.fullmatch(r"(.*\.)?maxpool", name)):
        if all(prefix + name in names for name in official):
            chosen = {"official": official, "early": official[:4], "auto": official[1:5]}[at]
            return tuple(prefix + name for name in chosen)
    require(at == "auto", f"at={at!r} is for ResNets; name the layers, or use 'auto'")
    blocks = _transformer_blocks(names)
    if blocks:
        embedding = next(
            (name for name in names if re.fullmatch(r"(.*\.)?(patch_embed|encoder\.dropout)", name)), None
        )
        chosen = [blocks[max(len(blocks) // 4 - 1, 0)], blocks[max(len(blocks) // 2 - 1, 0)]]
        return tuple(dict.fromkeys([*([embedding] if embedding else []), *chosen]))
    require(
        example is not None, "example must be given: 'auto' finds the places by running the network on it"
    )
    assert example is not None
    return _before_falls(model, example)


def _transformer_blocks(names: Mapping[str, nn.Module]) -> list[str]:
    inner = re.compile(r"(?:^|.*\.)(?:blocks\.(\d+)|encoder_layer_(\d+))$")
    found = [name for name in names if inner.match(name)]
    attends = any("attn" in name or "attention" in name for name in names)
    return found if attends else []


def _holds_tokens(model: nn.Module) -> bool:
    return bool(_transformer_blocks(dict(model.named_modules())))


def _leading_tokens(model: nn.Module) -> int:
    """How many class and register tokens stand before the picture's."""
    for inner in model.modules():
        if isinstance(getattr(inner, "num_prefix_tokens", None), int):
            return inner.num_prefix_tokens  # type: ignore[return-value]
        if isinstance(getattr(inner, "class_token", None), Tensor):
            return 1
    return 0


def _before_falls(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """The last module to end before each of the first four falls of the resolution.

    A fall inside a block belongs to the outermost module that still got the old resolution.
    """
    events: list[tuple[str, bool, int]] = []  # name, whether it ends, the area that it got or gave
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        for name, child in model.named_modules():
            if name:
                begin = child.register_forward_pre_hook(
                    lambda m, i, n=name: events.append((n, False, _area(i)))
                )
                end = child.register_forward_hook(lambda m, i, o, n=name: events.append((n, True, _area(o))))
                stack.callback(begin.remove)
                stack.callback(end.remove)
        with torch.no_grad():
            model(example)
    chosen: list[str] = []
    least = _area(example)
    for now, (name, ends, size) in enumerate(events):
        if not ends or not 1 < size < least:
            continue
        begins = {n: i for i, (n, done, got) in enumerate(events[:now]) if not done and got == least}
        around = [i for n, i in begins.items() if name == n or name.startswith(n + ".")]
        if around and min(around) > 0 and events[min(around) - 1][1]:
            chosen.append(events[min(around) - 1][0])
        least = size
    require(
        bool(chosen), "the network's spatial resolution never falls; name the layers for the style layers"
    )
    return tuple(dict.fromkeys(chosen))[:4]


def _area(value: Any) -> int:
    """Height times width of the first tensor in something; 0 where there is no picture."""
    try:
        shape = first_tensor(value, "").shape
    except JostleError:
        return 0
    return shape[-2] * shape[-1] if len(shape) == 4 else 0


def _shapes(model: nn.Module, names: Sequence[str], example: Tensor | None) -> dict[str, torch.Size]:
    inputs = [example] if example is not None else _guesses(model)
    problem: Exception | None = None
    for batch in inputs:
        try:
            with frozen(model), torch.no_grad(), Taps(model, list(names), reduce=lambda a: a.shape) as taps:
                model(batch)
            found = dict(zip(taps.names, taps.values, strict=True))
        except Exception as error:  # the user's own forward code may fail in any way it likes
            problem = error
            continue
        for name in names:
            require(
                name in found,
                f"layer {name!r} did not run on the example, so no style layer can sit behind it",
            )
            require(
                len(found[name]) >= 3,
                f"layer {name!r} gives shape {tuple(found[name])}: a style needs (batch, channels, ...)",
            )
        return found
    raise JostleError(
        f"the dry run failed ({type(problem).__name__}: {problem}); give an example that the model takes"
    )


def _guesses(model: nn.Module) -> Iterator[Tensor]:
    """Batches that the first weights suggest."""
    like = next(iter(model.parameters()), torch.zeros(()))
    for child in model.modules():
        if isinstance(child, nn.Conv2d):
            for size in (64, 224):
                yield torch.zeros(2, child.in_channels, size, size, device=like.device, dtype=like.dtype)
            return
    raise JostleError("example must be given: the model's input cannot be guessed from its weights")


def style_layers(model: nn.Module) -> dict[str, StyleLayer]:
    """All style layers of a model, inserted or written into it, by name.

    >>> list(style_layers(nn.Sequential(DSU(3), nn.ReLU())))
    ['0']
    """
    return {
        layer.place or name: layer for name, layer in model.named_modules() if isinstance(layer, StyleLayer)
    }


@contextmanager
def enabled(model: nn.Module, on: bool = True) -> Iterator[None]:
    """Switch the style layers of a model on or off while the context lasts.

    >>> net = nn.Sequential(DSU(3, p=1.0)).train()
    >>> with enabled(net, False):
    ...     x = torch.rand(2, 3, 4, 4)
    ...     net(x) is x
    True
    """
    before = [(layer, layer.active) for layer in style_layers(model).values()]
    try:
        for layer, _ in before:
            layer.active = on
        yield
    finally:
        for layer, was in before:
            layer.active = was


def scales(model: nn.Module) -> list[nn.Parameter]:
    """The learnt scales of all AdvStyle layers.

    Leave them out when you clip gradients: theirs are reversed.
    `clip_grad_norm_([p for p in model.parameters() if id(p) not in set(map(id, scales(model)))], 1.0)`.

    >>> len(scales(nn.Sequential(AdvStyle(4), DSU(4))))
    2
    """
    layers = [layer for layer in style_layers(model).values() if isinstance(layer, AdvStyle)]
    return [parameter for layer in layers for parameter in (layer.sigma_mu, layer.sigma_sigma)]


def param_groups(
    model: nn.Module, *, weight_decay: float = 5e-4, weight_decay_scales: float | None = None
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: the weights, and the scales, so that they can differ in weight decay.

    The official trainer decays the scales like the weights (the default here); decay works against the
    adversary, so 0 is the saner choice for new work. Parameters that need no gradient are left out.

    **Arguments:** `model`: with style layers or without. `weight_decay`, `weight_decay_scales`: at least 0.

    >>> [len(group["params"]) for group in param_groups(nn.Sequential(nn.Linear(2, 2), AdvStyle(2)))]
    [2, 2]
    """
    own = scales(model)
    known = {id(parameter) for parameter in own}
    weights = [p for p in model.parameters() if id(p) not in known and p.requires_grad]
    decay = weight_decay if weight_decay_scales is None else weight_decay_scales
    require(
        min(weight_decay, decay) >= 0, f"weight decay must be at least 0, but {min(weight_decay, decay)} came"
    )
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": weight_decay}]
    if own:
        groups.append({"params": own, "weight_decay": decay})
    return groups
