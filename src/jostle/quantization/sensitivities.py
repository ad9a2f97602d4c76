"""What rounding a layer costs: second-order sensitivities with their standard errors, and simpler ones."""

import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jostle.core.errors import optional, require
from jostle.quantization.lowering import integer_layer
from jostle.quantization.network import Quantised
from jostle.quantization.program import Layer

Method = Literal["fisher", "fisher_quadratic", "hessian", "kl", "loss", "error"]
METHODS = ("fisher", "fisher_quadratic", "hessian", "kl", "loss", "error")


@dataclass(frozen=True)
class Sensitivity:
    """A number a layer and width: how much the loss suffers when the layer's weights have so many bits.

    `trace`, `sem`: of the Hessian or Fisher matrix of each layer with its standard error (None for methods without).
    `error`: `|Q(W) - W|^2`. `omega`, `omega_sem`: the sensitivity and its standard error, both (layers, bits).
    """

    method: Method
    layers: tuple[str, ...]
    bits: tuple[int, ...]
    params: tuple[int, ...]
    macs: tuple[int, ...]
    error: Float[np.ndarray, "layers bits"]
    omega: Float[np.ndarray, "layers bits"]
    omega_sem: Float[np.ndarray, "layers bits"]
    trace: Float[np.ndarray, " layers"] | None = None
    sem: Float[np.ndarray, " layers"] | None = None
    samples: int = 0

    @property
    def doubtful(self) -> tuple[str, ...]:
        """Layers whose standard error is not below their mean: nothing is known of them but an upper bound."""
        low = int(np.argmin(self.bits))
        return tuple(
            name
            for name, mean, sem in zip(self.layers, self.omega[:, low], self.omega_sem[:, low], strict=True)
            if sem > 0 and sem >= mean
        )

    def bound(self) -> Float[np.ndarray, "layers bits"]:
        """What the integer program minimises: the mean, where it is known; else mean plus two standard errors, not
        below 0. A negative estimate is never taken for 0.
        """
        upper = np.maximum(self.omega, 0) + 2 * self.omega_sem
        doubt = np.isin(np.array(self.layers), np.array(self.doubtful, dtype=str))
        return np.where(doubt[:, None], upper, self.omega)

    def numbers(self) -> dict[str, Any]:
        """A row a layer."""
        rows: dict[str, Any] = {
            "method": self.method,
            "samples": self.samples,
            "doubtful": len(self.doubtful),
        }
        for i, name in enumerate(self.layers):
            row: dict[str, Any] = {"parameters": self.params[i], "MACs": self.macs[i]}
            if self.trace is not None and self.sem is not None:
                row |= {"trace": float(self.trace[i]), "standard error": float(self.sem[i])}
            for j, b in enumerate(self.bits):
                row[f"omega {b}"] = float(self.omega[i, j])
                row[f"omega {b} standard error"] = float(self.omega_sem[i, j])
            rows[name] = row
        return rows


class Folded(nn.Module):
    """The floating-point network of a quantised one, its batch normalisation folded into plain weights."""

    def __init__(self, network: Quantised):
        super().__init__()
        self.network = deepcopy(network)
        for name in self.network.program.names:
            weight, bias = network.layer(name).folded()
            layer = Layer(weight, bias)
            self.network.program.layers[name] = layer
            self.network.layers[name.replace(".", "/")] = layer
        self.network.eval()

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """By layer."""
        return {name: self.network.layer(name).weight for name in self.network.program.names}

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Logits."""
        return self.network.float_forward(images)


def rounding_errors(network: Quantised, bits: Sequence[int]) -> dict[tuple[str, int], Tensor]:
    """`Q_b(W) - W` of every layer with its batch normalisation folded, for the grids as they are deployed."""
    grids, found = network.grids(), {}
    with torch.no_grad():
        for name in network.program.names:
            step = network.program[name]
            weight, bias = network.layer(name).folded()
            for b in bits:
                made = integer_layer(
                    name, weight, bias, grids[step.inputs[0]], grids.get(name), b,
                    per_channel=network.config.per_channel, multiplier=network.config.multiplier,
                )  # fmt: skip
                scale = made.scale.reshape(-1, *[1] * (weight.ndim - 1))
                found[name, b] = (made.weight * scale).to(weight.dtype) - weight
    return found


def sensitivity(
    network: Quantised,
    images: Float[Tensor, "images channels height width"],
    labels: Int[Tensor, " images"] | None = None,
    *,
    method: Method = "fisher",
    bits: Sequence[int] = (4, 8),
    probes: int = 32,
    tolerance: float = 0.05,
    generator: torch.Generator | None = None,
    callback: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """How the loss answers to rounding each layer's weights, alone, to each width.

    | method | `Omega_i(b)` | cost |
    | --- | --- | --- |
    | `hessian` | `Tr(H_i) / n_i |dW|^2` (HAWQ-V2/V3), Hutchinson's estimate | 2 to 4 gradients a probe |
    | `fisher` | `E_x E_{y~p} |g_i|^2 / n_i |dW|^2`: positive, far less noise | a gradient an image |
    | `fisher_quadratic` | `E (g_i . dW)^2`, without taking the curvature for isotropic | the same |
    | `kl`, `loss` | divergence of outputs, or growth of the loss, with that layer rounded | a pass a width |
    | `error` | `|dW|^2` | none |

    **Arguments:** `network`: calibrated; not changed. `images`: in [0, 1]. `labels`: for `hessian` and `loss`;
    the network's own answers where they are not given. `bits`: candidate widths. `probes`: at most, of `hessian`; it
    stops when every layer's standard error is below `tolerance` of its mean. `generator`: draws probes and classes.
    **Returns:** [`Sensitivity`][jostle.quantization.Sensitivity], with standard errors (over probes or images).
    **Raises:** `JostleError` if the method is unknown, or there are no images.
    """
    require(method in METHODS, f"method must be one of {', '.join(METHODS)}, but {method!r} came")
    require(len(images) > 0, "sensitivity needs at least one image, but none came")
    bits = tuple(sorted({int(b) for b in bits}))
    names = network.program.names
    deltas = rounding_errors(network, bits)
    folded = Folded(network)
    draw = torch.Generator().manual_seed(0) if generator is None else generator
    error = np.array([[float(deltas[n, b].double().square().sum()) for b in bits] for n in names])
    params = np.array([network.layer(n).weight.numel() for n in names])
    trace = sem = None
    omega_sem = np.zeros_like(error)
    if method == "error":
        omega, samples = error, 0
    elif method == "hessian":
        values = hessian_probes(folded, images, labels, probes, tolerance, draw, callback)
        trace, sem = _mean_and_error(values)
        omega, omega_sem = trace[:, None] / params[:, None] * error, sem[:, None] / params[:, None] * error
        samples = len(values)
    elif method in ("fisher", "fisher_quadratic"):
        squares, projections = fisher_samples(folded, images, deltas, bits, draw, callback)
        trace, sem = _mean_and_error(squares)
        if method == "fisher":
            omega, omega_sem = (
                trace[:, None] / params[:, None] * error,
                sem[:, None] / params[:, None] * error,
            )
        else:
            omega, omega_sem = _mean_and_error(projections)
        samples = len(images)
    else:
        omega, omega_sem = _mean_and_error(
            _single_layers(folded, images, labels, deltas, bits, method, callback)
        )
        samples = len(images)
    macs = tuple(network.program.macs(n) for n in names)
    return Sensitivity(
        method,
        tuple(names),
        bits,
        tuple(int(p) for p in params),
        macs,
        error,
        omega,
        omega_sem,
        trace,
        sem,
        samples,
    )


def hessian_probes(
    folded: Folded,
    images: Tensor,
    labels: Tensor | None,
    probes: int,
    tolerance: float,
    generator: torch.Generator,
    callback: Callable[[int, int, str], None] | None = None,
) -> Float[np.ndarray, "probes layers"]:
    """`v_i . (H v)_i` of each layer for joint Rademacher probes `v`; its mean over probes is `Tr H_i`.

    One Hessian-vector product serves all layers. Stops when standard errors are below `tolerance` of the means.
    """
    with warnings.catch_warnings():
        # Of what curvlinops imports when it first works: not the user's business.
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
        return _probes(folded, images, labels, probes, tolerance, generator, callback)


def _probes(
    folded: Folded,
    images: Tensor,
    labels: Tensor | None,
    probes: int,
    tolerance: float,
    generator: torch.Generator,
    callback: Callable[[int, int, str], None] | None,
) -> np.ndarray:
    curvature = optional("curvlinops", "quantization")
    require(probes >= 2, f"probes must be at least 2, but {probes} came")
    weights = list(folded.weights.values())
    if labels is None:
        with torch.no_grad():
            labels = torch.cat([folded(batch).argmax(1) for batch in images.split(32)])
    data = list(zip(images.split(32), labels.split(32), strict=True))
    for parameter in folded.parameters():
        parameter.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    operator = curvature.HessianLinearOperator(
        folded, nn.CrossEntropyLoss(), weights, data, check_deterministic=False
    )
    rows: list[list[float]] = []
    for k in range(probes):
        signs = [
            (2 * torch.randint(0, 2, w.shape, generator=generator) - 1).to(device=w.device, dtype=w.dtype)
            for w in weights
        ]
        products = operator @ signs
        rows.append([float((v.double() * p.double()).sum()) for v, p in zip(signs, products, strict=True)])
        mean, sem = _mean_and_error(np.array(rows))
        if callback is not None:
            callback(k + 1, probes, f"{int((sem > tolerance * np.abs(mean)).sum())} layers above tolerance")
        if k >= 3 and bool((sem < tolerance * np.abs(mean)).all()):
            break
    return np.array(rows)


def fisher_samples(
    folded: Folded,
    images: Tensor,
    deltas: dict[tuple[str, int], Tensor],
    bits: Sequence[int],
    generator: torch.Generator,
    callback: Callable[[int, int, str], None] | None = None,
) -> tuple[Float[np.ndarray, "images layers"], Float[np.ndarray, "images layers bits"]]:
    """`|g_i|^2` and `(g_i . dW_i(b))^2` of each image and layer, with the class drawn from the network's own output."""
    weights = folded.weights
    squares, projections = [], []
    for k, image in enumerate(images):
        log = F.log_softmax(folded(image[None]), 1)
        chosen = torch.multinomial(log.detach().exp().cpu(), 1, generator=generator).item()
        grads = torch.autograd.grad(log[0, int(chosen)], list(weights.values()))
        squares.append([float(g.double().square().sum()) for g in grads])
        projections.append(
            [
                [float((g * deltas[n, b]).double().sum()) ** 2 for b in bits]
                for n, g in zip(weights, grads, strict=True)
            ]
        )
        if callback is not None:
            callback(k + 1, len(images), "images")
    return np.array(squares), np.array(projections)


@torch.no_grad()
def _single_layers(
    folded: Folded,
    images: Tensor,
    labels: Tensor | None,
    deltas: dict[tuple[str, int], Tensor],
    bits: Sequence[int],
    method: str,
    callback: Callable[[int, int, str], None] | None,
) -> Float[np.ndarray, "images layers bits"]:
    """The divergence, or growth of the loss, a sample, when one layer alone is rounded."""

    def outputs() -> Tensor:
        # In float64: a divergence of 1e-9 is a difference of numbers of order 1.
        return torch.cat([F.log_softmax(folded(batch).double(), 1) for batch in images.split(32)])

    base = outputs()
    target = base.argmax(1) if labels is None else labels
    found = np.zeros((len(images), len(folded.weights), len(bits)))
    for i, (name, weight) in enumerate(folded.weights.items()):
        for j, b in enumerate(bits):
            kept = weight.clone()
            weight.add_(deltas[name, b])
            now = outputs()
            weight.copy_(kept)
            if method == "kl":
                value = (base.exp() * (base - now)).sum(1)
            else:
                value = (base - now).gather(1, target[:, None])[:, 0]
            found[:, i, j] = value.cpu().numpy()
        if callback is not None:
            callback(i + 1, len(folded.weights), "layers")
    return found


def _mean_and_error(values: Float[np.ndarray, "samples ..."]) -> tuple[np.ndarray, np.ndarray]:
    count = len(values)
    spread = values.std(0, ddof=1) if count > 1 else np.full(values.shape[1:], np.inf)
    return values.mean(0), spread / np.sqrt(count)
