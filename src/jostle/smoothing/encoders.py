"""Networks that are told how noisy their input is, and what is put on them."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jostle.core.errors import require
from jostle.core.taps import first_tensor
from jostle.smoothing.schedule import input_scale, snapped, time_condition, time_embedding


class Encoder(nn.Module, ABC):
    """Features of a noisy image in [-1, 1]: `encoder(z_t, t)`; what rRCM trains.

    The input is scaled by `c_in(t)`; `_features(scaled, condition)` is the network's own part, with one condition an
    image, or one for all.

    **Attributes:** `width`: of the features. `depth`: number of blocks, for learning rates by depth.
    """

    width: int
    depth: int

    def forward(
        self, z: Float[Tensor, "batch ..."], t: Float[Tensor, " batch"] | float
    ) -> Float[Tensor, "batch width"]:
        """Features of `z`, an image in [-1, 1] with noise of standard deviation `t`."""
        # One time for all is embedded once.
        times = torch.as_tensor(t, dtype=torch.float32, device=z.device).reshape(-1)
        scale = input_scale(times).reshape(-1, *[1] * (z.ndim - 1))
        return self._features(z * scale.to(z.dtype), time_condition(times))

    @abstractmethod
    def _features(self, scaled: Tensor, condition: Tensor) -> Tensor:
        """Features of the scaled input under the time's condition."""

    def layer_of(self, name: str) -> int:
        """Depth of a parameter: 0 for the embedding, `i + 1` for block `i`, `depth + 1` beyond."""
        if name.startswith("blocks."):
            return int(name.split(".")[1]) + 1
        return self.depth + 1 if name.startswith("norm") else 0


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a GELU network of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "batch tokens width"]) -> Float[Tensor, "batch tokens width"]:
        """One block."""
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TimedViT(Encoder):
    """The paper's encoder: a vision transformer over the tokens `[CLS, TIME, patches]`; the features are CLS.

    **Arguments:** `shape`: (channels, height, width). `patch`: side of a patch. `width`, `depth`, `heads`: of the
    transformer (768, 12, 12 for rRCM-B; 512, 6, 8 for rRCM-S). `freeze_patches`: keep the patch embedding as it was
    drawn, as on ImageNet.

    >>> net = TimedViT((1, 28, 28), patch=7, width=64, depth=3, heads=4)
    >>> net(torch.zeros(2, 1, 28, 28), 0.5).shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        freeze_patches: bool = False,
    ) -> None:
        super().__init__()
        channels, height, side = shape
        require(
            height % patch == 0 and side % patch == 0,
            f"patch must divide the image's sides, but {patch} does not divide {height} x {side}",
        )
        require(
            width % heads == 0 and width % 2 == 0,
            f"width must be even and a multiple of heads, but {width} came",
        )
        self.width, self.depth = width, depth
        count = (height // patch) * (side // patch)
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, count + 2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        nn.init.trunc_normal_(self.position, std=0.02)
        nn.init.normal_(self.cls, std=1e-6)
        # As MoCo-v3: qkv counts as three matrices, the patch convolution as a linear layer.
        for block in self.blocks:
            assert isinstance(block, Block)
            for linear in (block.proj, block.mlp[0], block.mlp[2]):
                assert isinstance(linear, nn.Linear)
                nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(linear.bias)
            nn.init.uniform_(block.qkv.weight, -math.sqrt(3 / width), math.sqrt(3 / width))
        reach = math.sqrt(6 / (channels * patch**2 + width))
        nn.init.uniform_(self.patches.weight, -reach, reach)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        if freeze_patches:
            self.patches.requires_grad_(False)

    def _features(self, scaled: Tensor, condition: Tensor) -> Tensor:
        tokens = self.patches(scaled).flatten(2).transpose(1, 2)
        time = time_embedding(condition, self.width).to(tokens.dtype).expand(len(tokens), -1)
        x = torch.cat([self.cls.expand(len(tokens), -1, -1).to(tokens.dtype), time[:, None], tokens], dim=1)
        x = x + self.position.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class TimedMLP(Encoder):
    """Residual layers over the flat image and 16 numbers of time: for images as small as 8x8.

    **Arguments:** `entries`: numbers an image. `hidden`: width of the layers. `width`: of the features. `depth`:
    residual layers.

    >>> TimedMLP(64)(torch.zeros(2, 1, 8, 8), 0.5).shape
    torch.Size([2, 128])
    """

    _time = 16

    def __init__(self, entries: int, hidden: int = 256, width: int = 128, depth: int = 1) -> None:
        super().__init__()
        self.width, self.depth = width, depth
        self.enter = nn.Linear(entries + self._time, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, hidden)) for _ in range(depth)
        )
        self.norm = nn.Sequential(
            nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, width), nn.LayerNorm(width)
        )

    def _features(self, scaled: Tensor, condition: Tensor) -> Tensor:
        time = time_embedding(condition, self._time).to(scaled.dtype).expand(len(scaled), -1)
        x = self.enter(torch.cat([scaled.flatten(1), time], dim=1))
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


class TimedConv(Encoder):
    """A small residual convolutional network; each block's channels are shifted by a linear map of the time.

    **Arguments:** `channels`: of the image. `width`: of the features, a multiple of 8. `depth`: blocks; every second
    one halves the sides.

    >>> TimedConv(3, width=64, depth=4)(torch.zeros(2, 3, 32, 32), 0.5).shape
    torch.Size([2, 64])
    """

    _time = 32

    def __init__(self, channels: int, width: int = 256, depth: int = 6) -> None:
        super().__init__()
        require(width % 8 == 0, f"width must be a multiple of 8, but {width} came")
        self.width, self.depth = width, depth
        halvings = (depth + 1) // 2 - 1
        sizes = [max(8, width >> max(0, halvings - i // 2)) for i in range(depth)]
        self.enter = nn.Conv2d(channels, sizes[0], 3, padding=1)
        befores = [sizes[0], *sizes[:-1]]
        self.blocks = nn.ModuleList(
            _ConvBlock(before, after, 2 if i % 2 == 0 and i else 1, self._time)
            for i, (before, after) in enumerate(zip(befores, sizes, strict=True))
        )
        self.norm = nn.LayerNorm(width)

    def _features(self, scaled: Tensor, condition: Tensor) -> Tensor:
        time = time_embedding(condition, self._time).to(scaled.dtype)
        x = self.enter(scaled)
        for block in self.blocks:
            x = block(x, time)
        return self.norm(x.mean((2, 3)))


class _ConvBlock(nn.Module):
    def __init__(self, before: int, after: int, stride: int, time: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.time = nn.Linear(time, after)
        self.short = nn.Conv2d(before, after, 1, stride) if (before, stride) != (after, 1) else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(nn.functional.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.short(x) + self.conv2(nn.functional.silu(self.norm2(y)))


class Backbone(Encoder):
    """Any network that gives features, as an encoder that is not told the time.

    **Arguments:** `network`: from images to (batch, width), a timm model with `num_classes=0` for example.

    >>> Backbone(nn.Flatten(), width=64)(torch.zeros(2, 1, 8, 8), 0.5).shape
    torch.Size([2, 64])
    """

    def __init__(self, network: nn.Module, width: int) -> None:
        super().__init__()
        self.network, self.width, self.depth = network, width, 0

    def _features(self, scaled: Tensor, condition: Tensor) -> Tensor:
        return first_tensor(self.network(scaled), "the backbone")


class Projector(nn.Sequential):
    """Three linear layers without bias, batch norm and ReLU after the first two: where the contrast is measured.

    **Arguments:** `width`: of the features. `hidden`: 4096 for rRCM-B on ImageNet, 2048 otherwise. `out`: 256.

    >>> Projector(8, 16, 4)(torch.ones(3, 8)).shape
    torch.Size([3, 4])
    """

    def __init__(self, width: int, hidden: int = 2048, out: int = 256) -> None:
        super().__init__(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, out, bias=False),
        )


class TimedClassifier(nn.Module):
    """An encoder and a linear head as a classifier of images in [0, 1] with noise of a known `sigma`.

    `x -> head(encoder(2x - 1, t))`, `t` the level of the grid nearest to `2 sigma`: denoising and classifying is one
    forward pass. The noise is in the image already, so what smooths it is `SmoothedClassifier(model, sigma)`.

    **Arguments:** `encoder`: any [`Encoder`][jostle.smoothing.Encoder]. `classes`: number of outputs. `sigma`: the
    noise it will see, above 0. `shape`: of its images, for the command line.

    >>> TimedClassifier(TimedMLP(64), 10, 0.5)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    classes: tuple[str, ...] | None = None

    def __init__(
        self, encoder: Encoder, classes: int, sigma: float, shape: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__()
        self.encoder, self.input_shape, self.t = encoder, shape, snapped(sigma)
        self.head = nn.Linear(encoder.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        """Logits of noisy images."""
        return self.head(self.encoder(2 * x - 1, self.t))

    def groups(self, lr: float, decay: float) -> list[dict[str, Any]]:
        """Parameters with learning rates by depth: `lr d^(depth + 1 - l)`, `l = 0` for the embedding."""
        depth = self.encoder.depth
        rows: dict[int, list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                inner = name.removeprefix("encoder.")
                layer = self.encoder.layer_of(inner) if inner != name else depth + 1
                rows.setdefault(layer, []).append(parameter)
        return [{"params": rows[layer], "lr": lr * decay ** (depth + 1 - layer)} for layer in sorted(rows)]
