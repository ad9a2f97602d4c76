"""What all style layers share, and the layers that mix the styles of a batch: MixStyle, EFDMix, pAdaIN."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.style.ranks import SharedDraws, together
from jostle.style.restyle import EPS, batch_uncertainty, channel_statistics, restyle


class StyleLayer(nn.Module):
    """A layer that changes the style of feature maps while training, and is not there otherwise.

    In evaluation mode, or switched off by `active = False`, it hands on the very tensor that came. So it does
    for inputs with a single value a channel, with one warning, since they have no standard deviation.

    **Arguments:** `num_channels`: of the feature maps. `p`: probability that a call changes anything, one
    draw a call; in [0, 1]. `eps`: added to variances, above 0. `channel_dim`: the axis of the channels: 1 for
    `(batch, channels, ...)`, -1 for tokens. `generator`: where the draws come from; torch's own by default.
    With activation checkpointing keep the default: checkpointing replays that one only.

    Under `torch.compile` it is no part of the graph while training (a break, so not with `fullgraph=True`), and
    nothing in evaluation. When several processes train one network with `torch.distributed`, all ranks take the
    same branch in a call, however they are seeded; noise, partners and the scatter of a batch are each rank's
    own.

    A subclass writes `change(x)`.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        p: float = 0.5,
        eps: float = EPS,
        channel_dim: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        require(num_channels >= 1, f"num_channels must be at least 1, but {num_channels} came")
        require(0 <= p <= 1, f"p must lie in [0, 1], but {p} came")
        require(eps > 0, f"eps must be above 0, but {eps} came")
        self.num_channels, self.p, self.eps, self.channel_dim = num_channels, p, eps, channel_dim
        self.generator = generator
        self.active = True
        self.place = ""
        self._warned: set[str] = set()
        self._shared = SharedDraws()

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """`x` in another style while training; `x` itself otherwise."""
        if not self.training or not self.active:
            return x
        if torch.compiler.is_compiling():
            from jostle.style.eager import styled

            return styled(self, x)
        return self.styled(x)

    def styled(self, x: Tensor) -> Tensor:
        """`x` in another style, once it is clear that the layer can work on it."""
        label = self.label
        require(x.is_floating_point(), f"{label} takes floating-point features, but {x.dtype} came")
        channels = x.shape[self.channel_dim] if x.ndim >= 2 else 0
        require(
            channels == self.num_channels,
            f"{label} was made for {self.num_channels} channels, but an input of shape {tuple(x.shape)} came",
        )
        if x.numel() == x.shape[0] * channels:
            self._warn(f"{label} sees a single value a channel, which has no style; it hands it on unchanged")
            return x
        return self.change(x)

    def change(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What the layer does while training; here nothing."""
        return x

    @property
    def label(self) -> str:
        """The layer's kind, and its place in the model once it was inserted."""
        return type(self).__name__ + (f" at {self.place!r}" if self.place else "")

    def uniform(self) -> float:
        """One draw from U(0, 1), on the host; in a distributed training the same on all ranks."""
        generator = (
            self.generator if self.generator is not None and self.generator.device.type == "cpu" else None
        )
        if together():
            return self._shared.draw(float(torch.rand((), generator=generator, dtype=torch.float64)))
        return float(torch.rand((), generator=generator))

    def noise(self, like: Tensor) -> Tensor:
        """Standard normal noise of the shape, precision and device of `like`."""
        if self.generator is None:
            return torch.randn_like(like)
        kind = {"dtype": like.dtype, "device": self.generator.device}
        return torch.randn(like.shape, generator=self.generator, **kind).to(like.device)

    def permutation(self, size: int, device: torch.device) -> Tensor:
        """A random order of the batch."""
        where = "cpu" if self.generator is None else self.generator.device
        return torch.randperm(size, generator=self.generator, device=where).to(device)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, p={self.p}"

    def _warn(self, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            warnings.warn(sentence, stacklevel=4)


class DSU(StyleLayer):
    """Domain shifts with uncertainty (Li et al., ICLR 2022): noise on the style, as wide as the batch's
    styles are.

    `y = (sigma + e_sigma S_sigma) (x - mu) / sigma + mu + e_mu S_mu`, `S` the
    [`batch_uncertainty`][jostle.style.restyle.batch_uncertainty], `e ~ N(0, 1)` for each sample and channel;
    gradients flow through `S`, as published. A batch of one has no uncertainty and is handed on.

    >>> layer = DSU(8, p=1.0).eval()
    >>> x = torch.rand(4, 8, 5, 5)
    >>> layer(x) is x
    True
    """

    def change(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.uniform() >= self.p:
            return x
        if len(x) < 2:
            self._warn(
                f"{self.label} needs two samples for their uncertainty; it hands a batch of one on unchanged"
            )
            return x
        return restyle(x, self.plan(x), eps=self.eps, channel_dim=self.channel_dim)

    def plan(self, x: Float[Tensor, "..."]):
        """The shifts for a fresh draw of noise."""
        noise = self.noise(_grid(x, self.num_channels, 2))

        def shifts(mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
            s_mu, s_sigma = batch_uncertainty(mu, sigma, self.eps)
            return noise[1] * s_sigma, noise[0] * s_mu

        return shifts


class _Mixer(StyleLayer):
    """Layers that mix each sample with another one of the batch.

    **Arguments:** `mix`: `"random"` pairs any two samples; `"crossdomain"` takes a batch whose halves come
    from two domains and pairs each sample with one of the other half. Others as `StyleLayer`.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        p: float = 0.5,
        alpha: float = 0.1,
        mix: str = "random",
        eps: float = EPS,
        channel_dim: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_channels, p=p, eps=eps, channel_dim=channel_dim, generator=generator)
        require(mix in ("random", "crossdomain"), f"mix must be random or crossdomain, but {mix!r} came")
        require(alpha > 0, f"alpha must be above 0, but {alpha} came")
        self.mix, self.alpha = mix, alpha

    def change(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.uniform() >= self.p:
            return x
        return self.mixed(x, self.partners(x), self.weights(x))

    def mixed(self, x: Tensor, order: Tensor, weight: Tensor) -> Tensor:
        """`x` mixed with `x[order]`; a weight of 1 keeps a sample as it is."""
        raise AssertionError("a subclass writes this")

    def partners(self, x: Tensor) -> Tensor:
        """Whom each sample is mixed with."""
        count = len(x)
        if self.mix == "random":
            return self.permutation(count, x.device)
        require(count % 2 == 0, f"{self.label} with mix='crossdomain' needs an even batch, but {count} came")
        half = count // 2
        first, second = self.permutation(half, x.device), self.permutation(half, x.device)
        return torch.cat([first + half, second])

    def weights(self, x: Tensor) -> Tensor:
        """One weight a sample from `Beta(alpha, alpha)`, shape `(batch, 1)`.

        Drawn through two gamma variates, so that it can come from a generator.
        """
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        shape = torch.full((2, len(x), 1), self.alpha, dtype=torch.float64)
        generator = (
            self.generator if self.generator is not None and self.generator.device.type == "cpu" else None
        )
        a, b = torch._standard_gamma(shape, generator=generator).clamp_min(1e-300)
        return (a / (a + b)).to(x.device, kind)


class MixStyle(_Mixer):
    """MixStyle (Zhou et al., ICLR 2021): give each sample a mixture of its own style and another one's.

    `y = gamma (x - mu) / sigma + beta`, `gamma = w sigma + (1 - w) sigma'`, `beta = w mu + (1 - w) mu'`,
    `w ~ Beta(alpha, alpha)`; the statistics are detached, as published.

    >>> torch.equal(MixStyle(3, p=0.0)(x := torch.rand(2, 3, 4, 4)), x)
    True
    """

    def mixed(self, x: Tensor, order: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            mu, sigma = channel_statistics(x, eps=self.eps, channel_dim=self.channel_dim)
            ratio = weight + (1 - weight) * sigma[order] / sigma
            shift = weight * mu + (1 - weight) * mu[order] - ratio * mu
            ratio, shift = (_spread(part, x, self.channel_dim) for part in (ratio, shift))
        return torch.addcmul(shift, x, ratio).to(x.dtype)


class PAdaIN(MixStyle):
    """Permuted AdaIN (Nuriel et al., CVPR 2021): swap the styles of the samples of a batch, now and then.

    MixStyle with weight 0; `p` is 0.01 by default.
    """

    def __init__(
        self,
        num_channels: int,
        *,
        p: float = 0.01,
        eps: float = EPS,
        channel_dim: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_channels, p=p, eps=eps, channel_dim=channel_dim, generator=generator)

    def weights(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 1, device=x.device)


class EFDMix(_Mixer):
    """Exact feature distribution mixing (Zhang et al., CVPR 2022): mix whole distributions of values, rank by
    rank.

    In each channel the value of rank `r` becomes `w x_(r) + (1 - w) x'_(r)`. The gradient is the published
    one: `y = x + (1 - w) (x'_(r) - stopgrad(x))`.

    >>> layer = EFDMix(1, p=1.0)
    >>> x = torch.tensor([[[[1.0, 2.0]]], [[[9.0, 7.0]]]])
    >>> layer.mixed(x, torch.tensor([1, 0]), torch.zeros(2, 1)).flatten().tolist()
    [7.0, 9.0, 2.0, 1.0]
    """

    def mixed(self, x: Tensor, order: Tensor, weight: Tensor) -> Tensor:
        moved = x.movedim(self.channel_dim, 1)
        flat = moved.flatten(2)
        values, ranks = flat.detach().sort(-1)
        theirs = torch.empty_like(values).scatter_(-1, ranks, values[order])
        rest = (1 - weight).to(x.dtype)[:, :, None]
        mixed = flat + rest * (theirs - flat.detach())
        return mixed.view(moved.shape).movedim(1, self.channel_dim)


def _grid(x: Tensor, channels: int, parts: int) -> Tensor:
    """An empty tensor `(parts, batch, channels)`, in the precision in which statistics are computed."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.empty(parts, len(x), channels, dtype=kind, device=x.device)


def _spread(value: Tensor, x: Tensor, channel_dim: int) -> Tensor:
    """A statistic `(batch, channels)` shaped to broadcast over `x`."""
    channel = channel_dim % x.ndim
    return value.reshape([size if axis in (0, channel) else 1 for axis, size in enumerate(x.shape)])
