"""Networks of the tests, and random statistics for those without weights."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Branches(nn.Module):
    """A little of everything: a normalisation, a sum, in-place ReLU, pooling, a concatenation, a mean."""

    input_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(12, 5)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.45]).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / 0.25
        x = torch.relu(self.norm(self.first(x)))
        y = F.max_pool2d(torch.relu_(self.second(x) + x), 2)
        return self.head(torch.cat([y, self.third(y)], 1).mean((2, 3)))


class Moved(nn.Module):
    """What moves codes about: a split, both forms of a shuffle, a slice, upsampling by unequal factors."""

    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.side = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.head = nn.Conv2d(6, 4, 3, stride=2), nn.Linear(4, 5)
        self.shuffle = nn.ChannelShuffle(4)

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.relu(self.first(x)).chunk(2, dim=1)
        y = torch.cat([one, torch.relu(self.side(two))], 1)
        batch, channels, high, wide = y.shape
        y = y.view(batch, 2, channels // 2, high, wide).transpose(1, 2).contiguous()
        y = self.shuffle(y.view(batch, channels, high, wide))
        return self.head(self.last(F.interpolate(y[:, 1:7], scale_factor=(2, 3))).mean((2, 3)))


class Tiny(nn.Module):
    """A residual network for 28x28 digits with batch normalisation."""

    input_shape = (1, 28, 28)

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width)
        self.a, self.bn1 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.b, self.bn2 = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.c, self.bn3 = nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False), nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        x = F.relu(x + self.bn1(self.a(x)))
        x = F.relu(self.bn2(self.b(x)))
        x = F.relu(x + self.bn3(self.c(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def seeded(build: type[nn.Module] | object, *args: object, **kwargs: object) -> nn.Module:
    """A network with seeded weights and lively batch statistics, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(*args, **kwargs)  # type: ignore[operator]
        for child in model.modules():
            if isinstance(child, nn.BatchNorm2d):
                nn.init.normal_(child.running_mean, 0.0, 0.2)
                nn.init.uniform_(child.running_var, 0.5, 1.5)
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.normal_(child.bias, 0.0, 0.2)
    return model.eval()


def pictures(count: int, *shape: int, seed: int = 0) -> Tensor:
    """Random images of 8 bits, smooth enough to look like something, in [0, 1]."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, shape[0], max(shape[1] // 4, 1), max(shape[2] // 4, 1), generator=draw)
    fine = F.interpolate(coarse, shape[1:], mode="bilinear") + 0.1 * torch.randn(
        count, *shape, generator=draw
    )
    return (255 * fine.clamp(0, 1)).round() / 255
