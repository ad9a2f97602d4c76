"""AdvStyle: style noise whose size a channel is learnt by climbing the loss (arXiv 2301.12643)."""

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import JostleError, require
from jostle.style.layers import StyleLayer, _grid
from jostle.style.ranks import joint_uncertainty, together
from jostle.style.restyle import EPS, batch_uncertainty, channel_statistics, grad_reverse, restyle

Recipe = Literal["official", "adv", "direction", "intensity"]
Start = Literal["batch", "constant", "half-normal"]
CONSTANT = 0.1
_ODDS = {"official": (1 / 3, 1 / 3, 1 / 3)}


class AdvStyle(StyleLayer):
    """Adversarial style augmentation (Zhang et al., arXiv 2301.12643); not the image-level AdvStyle of
    NeurIPS 2022.

    While training, a call draws one of three branches: nothing, the learnt scales, or the batch's own (DSU).
    The adversarial branch is `y = x + e_sigma S_sigma (x - mu) / sigma + e_mu S_mu` with `e ~ N(0, 1)` a
    sample and channel, and scales `S` that the layer learns: their gradient is multiplied by `-lam`, so the
    optimiser that lowers the loss in the weights raises it in the scales. Scales may turn negative, which is
    harmless. They begin as the uncertainty of the first batch that the branch sees (in a distributed training: of
    the batches of all ranks).

    Recipes: `official`, the classification module, a third for each branch. `adv`: no DSU branch, a half
    each. `direction`, the re-identification module: `S / ||S|| * ||S_batch|| * mix_weight`, the direction
    learnt and the length the batch's. `intensity`: the batch's direction and the learnt length.

    **Arguments:** `num_channels`: of the feature maps. `lam`: weight of the reversed gradient, at least 0 (0:
    the scales stay, the ablation without an adversary). `recipe`: see above. `probs`: odds of (nothing,
    adversarial, DSU), summing to 1; the recipe's by default. `mix_weight`: at least 0, for `direction` only.
    `granularity`: one branch a `"batch"`, as published, or one a `"sample"`. `start`: of the scales; the
    first `"batch"`'s uncertainty, as published; a `"constant"` of 0.1; or `"half-normal"`, the uncertainty times
    `|e|` with `e ~ N(0, 1)`, another direction of the same size. `eps`, `channel_dim`, `generator`: as in
    [`StyleLayer`][jostle.style.layers.StyleLayer].

    The state holds `sigma_mu`, `sigma_sigma`, the flag `initialised` and the counters `n_id`, `n_adv`,
    `n_dsu` (calls, or samples a branch with granularity `"sample"`; forwards that checkpointing repeats count
    twice). A checkpoint of the official code loads as well. `scatter_mu` and `scatter_sigma`, not part of the
    state, are running means of the batches' uncertainty (a tenth of each new one; NaN before the first): what the
    scales are to be measured by.

    >>> layer = AdvStyle(8, generator=torch.Generator().manual_seed(2))
    >>> y = layer(torch.rand(4, 8, 5, 5))
    >>> bool(layer.initialised), layer.sigma_mu.shape
    (True, torch.Size([8]))
    """

    sigma_mu: nn.Parameter
    sigma_sigma: nn.Parameter
    initialised: Tensor
    n_id: Tensor
    n_adv: Tensor
    n_dsu: Tensor
    scatter_mu: Tensor
    scatter_sigma: Tensor

    def __init__(
        self,
        num_channels: int,
        *,
        lam: float = 10.0,
        recipe: Recipe = "official",
        probs: tuple[float, float, float] | None = None,
        mix_weight: float = 1.0,
        granularity: Literal["batch", "sample"] = "batch",
        start: Start = "batch",
        eps: float = EPS,
        channel_dim: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_channels, p=1.0, eps=eps, channel_dim=channel_dim, generator=generator)
        recipes = ("official", "adv", "direction", "intensity")
        require(recipe in recipes, f"recipe must be one of {', '.join(recipes)}, but {recipe!r} came")
        require(math.isfinite(lam) and lam >= 0, f"lam must be finite and at least 0, but {lam} came")
        probs = probs or _ODDS.get(recipe, (0.5, 0.5, 0.0))
        require(
            len(probs) == 3 and min(probs) >= 0 and abs(sum(probs) - 1) < 1e-6,
            f"probs must be three odds of at least 0 that sum to 1, but {probs} came",
        )
        require(mix_weight >= 0, f"mix_weight must be at least 0, but {mix_weight} came")
        require(
            granularity in ("batch", "sample"),
            f"granularity must be batch or sample, but {granularity!r} came",
        )
        starts = ("batch", "constant", "half-normal")
        require(start in starts, f"start must be one of {', '.join(starts)}, but {start!r} came")
        self.lam, self.recipe, self.probs = lam, recipe, probs
        self.mix_weight, self.granularity, self.start = mix_weight, granularity, start
        self.sigma_mu = nn.Parameter(torch.full((num_channels,), CONSTANT))
        self.sigma_sigma = nn.Parameter(torch.full((num_channels,), CONSTANT))
        self.register_buffer("initialised", torch.tensor(start == "constant"))
        for name in ("n_id", "n_adv", "n_dsu"):
            self.register_buffer(name, torch.tensor(0))
        for name in ("scatter_mu", "scatter_sigma"):
            self.register_buffer(name, torch.full((num_channels,), math.nan), persistent=False)
        # The flag on the host: reading the buffer would wait for the device at each call.
        self._ready = start == "constant"

    def change(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        adv, dsu = self._branches(x)
        measured = self.recipe in ("direction", "intensity")  # by the uncertainty of the batch
        if len(x) < 2 and (dsu is not None or measured):
            self._warn(
                f"{self.label} needs two samples for their uncertainty; it hands a batch of one on unchanged"
            )
            adv, dsu = None if measured else adv, None
        if adv is None and dsu is None:
            return self._touch(x)
        if adv is not None:
            self._initialise(x)
        noise = self.noise(_grid(x, self.num_channels, 2))

        def shifts(mu: Tensor, sigma: Tensor, s_mu: Tensor, s_sigma: Tensor) -> tuple[Tensor, Tensor]:
            uncertain = dsu is not None or (adv is not None and measured)
            batch = batch_uncertainty(mu, sigma, self.eps) if uncertain else None
            self._watch(mu, sigma)
            scale_mu, scale_sigma = torch.zeros_like(mu), torch.zeros_like(sigma)
            if adv is not None:
                learnt = self.used_scales(s_mu, s_sigma, batch)
                scale_mu, scale_sigma = scale_mu + adv * learnt[0], scale_sigma + adv * learnt[1]
            if dsu is not None:
                assert batch is not None
                scale_mu, scale_sigma = scale_mu + dsu * batch[0], scale_sigma + dsu * batch[1]
            return noise[1] * scale_sigma, noise[0] * scale_mu

        return self._touch(
            restyle(x, shifts, self.sigma_mu, self.sigma_sigma, eps=self.eps, channel_dim=self.channel_dim)
        )

    def used_scales(
        self, s_mu: Tensor, s_sigma: Tensor, batch: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The scales as the recipe uses them, behind the gradient reversal.

        **Arguments:** `s_mu`, `s_sigma`: the learnt ones. `batch`: the batch's uncertainty, for the recipes
        `direction` and `intensity`.
        """
        learnt = (grad_reverse(s_mu, self.lam), grad_reverse(s_sigma, self.lam))
        if batch is None or self.recipe not in ("direction", "intensity"):
            return learnt
        pairs = zip(learnt, batch, strict=True)
        if self.recipe == "direction":
            mu, sigma = (
                _unit(own) * torch.linalg.vector_norm(theirs) * self.mix_weight for own, theirs in pairs
            )
        else:
            mu, sigma = (_unit(theirs) * torch.linalg.vector_norm(own) for own, theirs in pairs)
        return mu, sigma

    def _branches(self, x: Tensor) -> tuple[Tensor | float | None, Tensor | float | None]:
        """Weights, 0 or 1 a sample, of the adversarial and the DSU branch; `None` where nobody takes it."""
        nothing, adversarial, _ = self.probs
        if self.granularity == "batch":
            u = self.uniform()
            if u < nothing:
                self.n_id += 1
                return None, None
            if u < nothing + adversarial:
                self.n_adv += 1
                return 1.0, None
            self.n_dsu += 1
            return None, 1.0
        where = self.generator.device if self.generator is not None else x.device
        u = torch.rand(len(x), 1, generator=self.generator, device=where).to(x.device)
        idle, adv = u < nothing, (u >= nothing) & (u < nothing + adversarial)
        dsu = ~(idle | adv)
        for counter, mask in ((self.n_id, idle), (self.n_adv, adv), (self.n_dsu, dsu)):
            counter += mask.sum()
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        return adv.to(kind), dsu.to(kind)

    def _initialise(self, x: Tensor) -> None:
        # A pass without gradients (BatchNorm recalibration, a weight average) is not the first batch of
        # training.
        if self._ready or not torch.is_grad_enabled():
            return
        with torch.no_grad():
            found = joint_uncertainty(
                *channel_statistics(x, eps=self.eps, channel_dim=self.channel_dim), self.eps
            )
            if found is None:
                self._warn(
                    f"{self.label} needs two samples to initialise its scales; it waits for a larger batch"
                )
                return
            wide = torch.stack(found)
            if self.start == "half-normal":
                noise = self.noise(wide).abs()
                if together():
                    dist.broadcast(noise, src=0)
                wide = wide * noise
            self.sigma_mu.copy_(wide[0])
            self.sigma_sigma.copy_(wide[1])
            self.initialised.fill_(True)
        self._ready = True

    @torch.no_grad()
    def _watch(self, mu: Tensor, sigma: Tensor) -> None:
        """Keep the running means of the batches' uncertainty."""
        if len(mu) < 2:
            return
        now = batch_uncertainty(mu, sigma, self.eps)
        for mean, new in zip((self.scatter_mu, self.scatter_sigma), now, strict=True):
            mean.copy_(torch.where(mean.isnan(), new.to(mean.dtype), mean.lerp(new.to(mean.dtype), 0.1)))

    def _touch(self, y: Tensor) -> Tensor:
        """With DistributedDataParallel every parameter must take part in every step, if only with a zero."""
        if not (dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()):
            return y
        return _Touch.apply(y, self.sigma_mu, self.sigma_sigma)  # type: ignore[no-any-return]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for ours, theirs in (("sigma_mu", "adv_mean_std"), ("sigma_sigma", "adv_std_std")):
            if prefix + theirs in state_dict:
                state_dict[prefix + ours] = state_dict.pop(prefix + theirs).reshape(-1)
                state_dict[prefix + "initialised"] = torch.tensor(True)
                for counter in ("n_id", "n_adv", "n_dsu"):
                    state_dict.setdefault(prefix + counter, torch.tensor(0))
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._ready = bool(self.initialised)

    def extra_repr(self) -> str:
        return f"{self.num_channels}, lam={self.lam}, recipe={self.recipe!r}, probs={self.probs}"


class _Touch(torch.autograd.Function):
    """`y` forwards; backwards the parameters get a zero, with no pass over `y`."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        return g, *(torch.zeros_like(parameter) for parameter in ctx.saved_tensors)


def _unit(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    return vector / length.clamp_min(torch.finfo(vector.dtype).tiny)


def check_scales(model: nn.Module, step: int) -> None:
    """Stop when a learnt scale is no longer a number.

    **Arguments:** `model`: with style layers. `step`: said in the message.
    **Raises:** `JostleError` that names the layer and what to lower.

    >>> check_scales(nn.Sequential(AdvStyle(4)), 0)
    """
    for name, layer in model.named_modules():
        if isinstance(layer, AdvStyle):
            good = torch.isfinite(layer.sigma_mu).all() & torch.isfinite(layer.sigma_sigma).all()
            if not bool(good):
                raise JostleError(
                    f"the scales of {layer.place or name or 'AdvStyle'} are not finite after step {step}: "
                    "lower lam or the learning rate"
                )
