"""What an attacker maximises, as plain functions of a policy's output before its squashing.

Every function returns one number a sample, `J`, larger when the attack is stronger.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jostle.core.errors import require

Distance = Literal["mse", "mae", "huber"]


def dl(z: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Difference of logits, the Carlini-Wagner margin: `J = max_{j != y} z_j - z_y`.

    The reference class is left out with -inf. (Leaving it out with 0, as the authors' code does, gives a
    wrong value and gradient when all logits are negative.)

    >>> dl(torch.tensor([[-3.0, -1.0, -2.0]]), torch.tensor([1]))
    tensor([-1.])
    """
    require(z.shape[1] >= 2, f"z must hold at least 2 classes, but {z.shape[1]} came")
    own = torch.nn.functional.one_hot(y, z.shape[1]).bool()
    return z.masked_fill(own, -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0]


def gdl(
    z: Float[Tensor, "batch classes"], y: Int[Tensor, " batch"], groups: Int[Tensor, " classes"]
) -> Float[Tensor, " batch"]:
    """Grouped difference of logits: the best logit outside the group of `y` less the best inside it.

    `J = max_{j not in G(y)} z_j - max_{i in G(y)} z_i`: with the actions in order and two halves as groups
    this is the bifurcation layer for discrete actions.

    **Arguments:** `z`: logits. `y`: the reference class. `groups`: the group of each class.

    >>> z = torch.tensor([[1.0, 4.0, 2.0, 0.0, 3.0, -1.0]])
    >>> gdl(z, torch.tensor([1]), torch.tensor([0, 0, 0, 1, 1, 1]))
    tensor([-1.])
    """
    inside = groups[None, :] == groups[y][:, None]
    best_in = z.masked_fill(~inside, -torch.inf).amax(1)
    return z.masked_fill(inside, -torch.inf).amax(1) - best_in


def halves(classes: int) -> Int[Tensor, " classes"]:
    """The two groups of ordered actions, split at `classes // 2`.

    >>> halves(5)
    tensor([0, 0, 1, 1, 1])
    """
    return (torch.arange(classes) >= classes // 2).long()


def bifurcated(
    x: Float[Tensor, "batch actions"],
    side: Float[Tensor, "batch actions"],
    centre: Float[Tensor, " actions"],
) -> Float[Tensor, " batch"]:
    """The bifurcation layer with a margin loss: `J = 2 sum_k side_k (x_k - c_k)`.

    The layer makes two logits of an action, `z = (x - c, c - x)`, and the margin of the one that `side`
    names over the other is `2 side (x - c)`: monotone in `x`, so its gradient vanishes nowhere. `side` is -1
    to push down, +1 to push up; weights of several actions go into it. Against the clean side
    (`-sign(x_0 - c)`) the attack needs no target.

    >>> bifurcated(torch.tensor([[0.7]]), torch.tensor([[-1.0]]), torch.zeros(1))
    tensor([-1.4000])
    """
    return 2 * (side * (x - centre)).sum(1)


def regression(
    x: Float[Tensor, "batch actions"], x0: Float[Tensor, "batch actions"], kind: Distance = "mse"
) -> Float[Tensor, " batch"]:
    """The distance from the clean output `x0`: the untargeted loss that the paper improves upon.

    Its gradient is exactly 0 at the clean point, so it needs a random start. With one action and sign steps
    all three kinds give the same attack.

    >>> regression(torch.tensor([[2.0]]), torch.tensor([[0.0]]), "huber")
    tensor([1.5000])
    """
    if kind == "mse":
        return (x - x0).square().mean(1)
    if kind == "mae":
        return (x - x0).abs().mean(1)
    require(kind == "huber", f"kind must be mse, mae or huber, but {kind!r} came")
    return torch.nn.functional.huber_loss(x, x0, reduction="none").mean(1)


def gaussian_kl(
    mean: Float[Tensor, "batch actions"],
    sd: Float[Tensor, "batch actions"],
    mean0: Float[Tensor, "batch actions"],
    sd0: Float[Tensor, "batch actions"],
) -> Float[Tensor, " batch"]:
    """`KL(N(mean0, sd0) || N(mean, sd))`, the maximal action difference of Zhang et al. (2020).

    >>> one = torch.ones(1, 1)
    >>> gaussian_kl(3 * one, one, one, one)
    tensor([2.])
    """
    ratio = (sd0 / sd).square()
    return (0.5 * (ratio + ((mean - mean0) / sd).square() - 1 - ratio.log())).sum(1)
