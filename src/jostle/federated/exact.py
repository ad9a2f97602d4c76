"""What can be checked exactly: limits on quadratics, lost replies, and the two engines side by side."""

from typing import Any

import torch
from torch import nn

from jostle.federated.course import Course
from jostle.federated.family import FAMILY, by_name
from jostle.federated.federation import Federation
from jostle.federated.fedspeed import FedDyn, FedSpeed
from jostle.federated.local import Local
from jostle.federated.memory import Memory
from jostle.federated.quadratics import Quadratics
from jostle.federated.server import losing

_LOCAL = Local(lr=0.1, epochs=7, batch_size=1, weight_decay=0.0, clip_mode=None)


def _errors(course: Course, rounds: int, problem: Quadratics) -> list[float]:
    best, out = problem.minimiser(), []
    for _ in range(rounds):
        course.advance()
        out.append(float((course.server.x - best).abs().max()))
    return out


class Careless(Memory):
    """A client that commits at once, whatever became of its reply: what two phases are there to prevent."""

    def recall(self, accepted: int, generation: int = 0) -> dict[str, torch.Tensor]:
        """The newest vectors."""
        return self.pending or self.committed


def quadratics(rounds: int) -> dict[str, Any]:
    """Errors by round on five quadratics, two of five clients a round; and FedDyn's fixed point.

    **Arguments:** `rounds`: of each run.
    **Returns:** `curves`: by name; `sum_g`, `gap_g`: how far the corrections are from summing to 0, and from the
    clients' gradients, at the fixed point of full participation.
    """
    problem = Quadratics()
    dyn, active = FedDyn(prox_mu=1.0), FedSpeed(prox_mu=1.0, alpha=0.0, aggregation="active")
    some: dict[str, Any] = {"fraction": 0.4}
    curves = {
        "correction averaged over all": _errors(
            problem.federation(**some).start(dyn, _LOCAL), rounds, problem
        ),
        "over active clients only, as printed": _errors(
            problem.federation(**some).start(active, _LOCAL), rounds, problem
        ),
        "10 % of replies lost": _errors(
            problem.federation(**some, transport=losing(0.1, seed=1)).start(dyn, _LOCAL), rounds, problem
        ),
    }
    careless = problem.federation(**some, transport=losing(0.1, seed=1)).start(dyn, _LOCAL)
    careless.memories = {i: Careless() for i in range(5)}
    curves["10 % lost, clients commit at once"] = _errors(careless, rounds, problem)
    whole = problem.federation().start(dyn, _LOCAL)
    for _ in range(300):
        whole.advance()
    g = torch.stack([-whole.memories[i].recall(whole.server.last(i))["h"] for i in range(5)])
    wanted = torch.stack([problem.gradient(i, problem.minimiser()) for i in range(5)])
    return {
        "curves": curves,
        "sum_g": float(g.sum(0).abs().max()),
        "gap_g": float((g - wanted).abs().max()),
        "error": float((whole.server.x - problem.minimiser()).abs().max()),
    }


def engines() -> dict[str, float]:
    """The largest difference between the engines after three rounds, in float64, for each algorithm."""
    g = torch.Generator().manual_seed(0)
    clients = []
    for n in (12, 7, 12, 5):
        x = torch.randn(n, 5, generator=g, dtype=torch.float64)
        clients.append((x, torch.randint(3, (n,), generator=g)))
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    found = {}
    for name in FAMILY:
        ends = []
        for engine in ("batched", "sequential"):
            fed = Federation(net, nn.functional.cross_entropy, clients, fraction=0.5, engine=engine)
            run = fed.run(by_name(name), rounds=3, lr=0.2, local_epochs=2, batch_size=4)
            ends.append(run.course.server.x)
        found[name] = float((ends[0] - ends[1]).abs().max())
    return found
