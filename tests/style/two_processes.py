"""One rank of a distributed training: `two_processes.py RANK WORLD STORE OUT`; what it saw goes to OUT."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

from jostle.style import AdvStyle, MixStyle

rank, world, store, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
torch.manual_seed(100 + rank)  # the ranks' own streams differ, as they should
seen: dict[str, object] = {"branches": [], "mixed": [], "outputs": []}


class Watched(MixStyle):
    """Says whether it mixed."""

    def forward(self, x):
        y = super().forward(x)
        seen["mixed"].append(y is not x)
        return y


def features(step):
    return torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(10 * step + rank))


# The style layer comes first: what it sees is known.
net = nn.Sequential(AdvStyle(2), Watched(2), nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(27, 2))
style = net[0]
wrapped = nn.parallel.DistributedDataParallel(net)
optimiser = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
for step in range(24):
    before = torch.stack([style.n_id, style.n_adv, style.n_dsu])
    ready = bool(style.initialised)
    optimiser.zero_grad()
    y = wrapped(features(step))
    if bool(style.initialised) and not ready:
        seen["first"] = (step, style.sigma_mu.detach().clone(), style.sigma_sigma.detach().clone())
    y.square().mean().backward()
    optimiser.step()
    after = torch.stack([style.n_id, style.n_adv, style.n_dsu])
    seen["branches"].append(int((after - before).argmax()))
    seen["outputs"].append(y.detach().clone())
seen["parameters"] = torch.cat([parameter.detach().flatten() for parameter in net.parameters()])

# Checkpointing asks for each branch twice.
layer, asked = AdvStyle(2), []
draw = layer.uniform


def uniform():
    asked.append(draw())
    return asked[-1]


layer.uniform = uniform
for step in range(12):
    x = features(step).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).square().sum().backward()
seen["asked"] = asked

other = AdvStyle(2, start="half-normal", probs=(0.0, 1.0, 0.0))
other(features(0))
seen["half-normal"] = other.sigma_mu.detach().clone()
torch.save(seen, out)
dist.destroy_process_group()
