"""The study's work in pieces that can run side by side: attacked years, pendulums, hardening."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import DiscretizeAction, TransformReward
from torch import Tensor

from jostle.core.errors import JostleError, require
from jostle.observation.adversary import learn_adversary
from jostle.observation.attack import Attack
from jostle.observation.attacks import FGSM, PGD, Bifurcation, Noise, Targeted
from jostle.observation.bounds import bounds
from jostle.observation.budget import Budget, suggest_budget
from jostle.observation.building import BatteryBuilding, Building
from jostle.observation.consistency import rules_for
from jostle.observation.district import CALENDAR, FEATURES, District, load_district
from jostle.observation.envs import DiscretizedVectorEnv
from jostle.observation.evaluate import Episodes, evaluate, roll
from jostle.observation.fitting import Candidate, clone, fit_proxy, network
from jostle.observation.harden import harden
from jostle.observation.learning import learn_agent
from jostle.observation.objectives import Regress
from jostle.observation.policy import Policy, wrap_policy
from jostle.observation.rules import ScaledPendulum, self_consumption, spaces_of, swing_up
from jostle.observation.stealth import stealth
from jostle.observation.wrapped import Transfer

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Task:
    """What a piece of work needs to know.

    `hours`: of the year, 0 for all. `batteries`: seeds of the copies. `bins`: of a discretised action, 0: continuous.
    `harmful`: the agent is paid for harm.
    """

    building: str
    hours: int
    batteries: tuple[int, ...]
    eps: float
    steps: int
    hidden: tuple[int, ...]
    epochs: int
    seed: int
    name: str = ""
    weights: Any = None
    proxy: Any = None
    worst: Any = None
    stealth_eps: Any = None
    agent: str = "clone"
    train_steps: int = 0
    bins: int = 0
    harmful: bool = False
    turns: int = 0
    pendulum_eps: tuple[float, ...] = ()
    episodes: int = 0


def district_of(task: Task) -> District:
    """The building's data, cut to the task's hours."""
    whole = _whole(task.building)
    return whole if not task.hours else whole.window(0, task.hours)


@lru_cache(maxsize=1)
def _whole(building: str) -> District:
    """The building's year; reading it takes as long as a week under attack, and every piece of work needs it."""
    return load_district(building)


def buildings(task: Task, copies: int) -> VectorEnv:
    """The building that the task is about, with as many copies of it, each with a battery of its own."""
    env = BatteryBuilding(district_of(task), copies=copies, curves=None)
    return DiscretizedVectorEnv(env, task.bins) if task.bins else env


def calendar_masked(eps: Any = 0.05) -> Budget:
    """A budget that leaves the six calendar features alone.

    >>> calendar_masked(0.05).radii(31)[[5, 6]]
    tensor([0.0000, 0.0500], dtype=torch.float64)
    """
    mask = np.ones(len(FEATURES), dtype=bool)
    mask[list(CALENDAR)] = False
    return Budget(eps, mask=mask)


def attack_named(task: Task) -> Attack | None:
    """The attack of a name, under the task's budget."""
    budget, steps = calendar_masked(task.eps), task.steps
    quiet = None if task.stealth_eps is None else calendar_masked(torch.as_tensor(task.stealth_eps))
    made: dict[str, Callable[[], Attack | None]] = {
        "none": lambda: None,
        "uniform noise": lambda: Noise(budget),
        "corner noise": lambda: Noise(budget, "corner"),
        "regression": lambda: PGD(budget, Regress(), steps=steps),
        "bifurcated": lambda: Bifurcation(budget, steps=steps),
        "toggle": lambda: Bifurcation(budget, steps=steps, direction="toggle"),
        "up": lambda: Bifurcation(budget, steps=steps, direction="up"),
        "down": lambda: Bifurcation(budget, steps=steps, direction="down"),
        "optimally targeted": lambda: Targeted(
            _policy(replace(task, agent="ppo", bins=0), task.worst).act, calendar_masked(1.0), steps=steps
        ),
        "stealth bifurcated": lambda: Bifurcation(_need(quiet), steps=steps),
        "black-box toggle": lambda: Transfer(
            FGSM(calendar_masked(2 * task.eps), goal=Bifurcation(direction="toggle").goal),
            _policy(replace(task, agent="clone"), task.proxy),
        ),
    }
    if task.name not in made:
        raise JostleError(f"attack must be one of {', '.join(made)}, but {task.name!r} came")
    return made[task.name]()


def _need(budget: Budget | None) -> Budget:
    require(budget is not None, "a stealth budget is needed for this attack")
    assert budget is not None
    return budget


def _policy(task: Task, weights: Weights) -> Policy:
    observed, acted = spaces_of(buildings(replace(task, hours=48), 1))
    activation = torch.nn.ReLU if task.agent == "sac" else torch.nn.Tanh
    sizes = (len(FEATURES), *task.hidden, task.bins or 1)
    net = network(sizes, torch.Generator().manual_seed(0), activation)
    net.load_state_dict(dict(weights))
    head: Any = "argmax" if task.bins else "clip" if task.agent == "ppo" else "tanh"
    return wrap_policy(net, head=head, observation_space=observed, action_space=acted)


def make_agent(task: Task) -> dict[str, Tensor]:
    """The controller's weights: cloned from the self-consumption rule, or learnt by SAC or PPO."""
    data = district_of(task)
    if task.agent == "clone":
        act = self_consumption(data)
        made = clone(
            (lambda o: _binned(act(o), task.bins)) if task.bins else act,
            lambda: buildings(task, 1),
            spaces_of(buildings(task, 1)),
            hidden=task.hidden,
            epochs=task.epochs,
            generator=torch.Generator().manual_seed(task.seed),
        )
        return made.policy.net.state_dict()
    env: gym.Env = Building(data)
    if task.bins:
        env = DiscretizeAction(env, task.bins)
    if task.harmful:
        env = TransformReward(env, lambda reward: -float(reward))
    model = learn_agent(env, task.agent, steps=task.train_steps, hidden=task.hidden, seed=task.seed)
    policy = wrap_policy(model)
    assert policy.chain is not None
    return {key: value.cpu() for key, value in torch.nn.Sequential(*policy.chain).state_dict().items()}


def _binned(actions: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each action, as `DiscretizeAction` cuts [-1, 1]."""
    return np.clip((actions[:, 0] + 1) / 2 * bins, 0, bins - 1).astype(np.int64)


def attacked_year(task: Task) -> dict[str, Any]:
    """A year under one attack, one copy a battery: returns, KPIs, and what the first copy saw and did."""
    policy = _policy(task, task.weights)
    rng = torch.Generator().manual_seed(task.seed)
    found = roll(
        policy,
        lambda: buildings(task, len(task.batteries)),
        attack_named(task),
        task.batteries,
        rng,
    )
    kpi = {name: torch.from_numpy(value) for name, value in found.kpi.items()}
    out = {
        "name": task.name,
        "seconds": found.seconds,
        "returns": torch.from_numpy(found.returns),
        "kpi": kpi,
    }
    return out if task.bins else {**out, **_kept(found)}


def _kept(found: Episodes) -> dict[str, Any]:
    moved = np.abs(found.shown - found.true)
    return {
        "action_mae": float(np.abs(found.actions - found.clean_actions).mean()),
        "linf": float(moved.max(2).mean()),
        "true": torch.from_numpy(found.true[:, 0].copy()),
        "shown": torch.from_numpy(found.shown[:, 0].copy()),
        "actions": torch.from_numpy(found.actions[:, 0, 0].copy()),
        "clean_actions": torch.from_numpy(found.clean_actions[:, 0, 0].copy()),
        "net": torch.from_numpy(found.series["net"][:, 0].copy()),
        "soc": torch.from_numpy(found.series["soc"][:, 0].copy()),
    }


def quiet_radii(clean: Tensor) -> list[float]:
    """The stealth budget of a log: no feature moves more than half its median hourly change, nor than 0.03."""
    eps = suggest_budget(clean.numpy(), quantile=0.5, factor=0.5).eps
    return torch.as_tensor(eps).clamp_max(0.03).tolist()


def proxy_weights(task: Task, true: Tensor, actions: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A stand-in of the controller, from its log alone: weights and how well it was predicted."""
    spaces = spaces_of(BatteryBuilding(district_of(replace(task, hours=48))))
    made = fit_proxy(
        true.numpy(),
        actions.numpy(),
        spaces,
        candidates=(Candidate(task.hidden),),
        epochs=max(task.epochs // 2, 1),
        generator=torch.Generator().manual_seed(task.seed + 7),
    )
    error = (made.policy.act(true)[:, 0] - actions).square().mean().sqrt()
    return made.policy.net.state_dict(), {"rmse": float(error)}


def detect(
    task: Task, years: Mapping[str, Mapping[str, Any]], permutations: int, rows: int
) -> dict[str, Any]:
    """What every detector says of each year, against the clean one."""
    data, clean = district_of(task), years["none"]["true"].numpy()
    rules = rules_for(clean, data)
    found = {}
    for name, year in years.items():
        if name == "none":
            continue
        rng = np.random.default_rng(task.seed)
        one = stealth(
            clean, year["shown"].numpy(), permutations=permutations, rows=rows, generator=rng, rules=rules
        )
        assert one.mmd is not None and one.zscore is not None
        found[name] = {
            "mmd": one.mmd.unbiased,
            "p": one.mmd.p,
            "null": torch.from_numpy(one.mmd.null),
            "ks": torch.from_numpy(one.statistic["ks"]),
            "ks p": torch.from_numpy(one.p["ks"]),
            "caught": {key: bool(value) for key, value in one.caught().items()},
            "broken": {key: float(value) for key, value in one.broken.items()},
        }
    return found


def certified(task: Task, o: Tensor) -> dict[str, Any]:
    """Certified intervals of the action beside what attacks reach, on some observations."""
    policy, budget = _policy(task, task.weights), calendar_masked(task.eps)
    out: dict[str, Any] = {"clean": policy.act(o)[:, 0]}
    for way in ("up", "down"):
        shown, _ = Bifurcation(budget, steps=task.steps, direction=way)(policy, o)
        out[way] = policy.act(shown)[:, 0]
    for method in ("ibp", "crown"):
        found = bounds(policy, o, budget, method=method)
        out[method] = torch.stack([found.low[:, 0], found.high[:, 0]])
    same = [
        PGD(budget, Regress(kind), steps=task.steps)(policy, o, generator=torch.Generator().manual_seed(1))[0]
        for kind in ("mse", "mae", "huber")
    ]
    out["one attack"] = bool(torch.equal(same[0], same[1]) and torch.equal(same[0], same[2]))
    return out


def hardened(task: Task) -> dict[str, Any]:
    """The clone with and without the smoothness regulariser, clean and attacked, on the task's hours."""
    data, budget = district_of(task), calendar_masked(task.eps)
    out: dict[str, Any] = {}
    for name, guard in (("plain", None), ("smooth", (PGD(budget, Regress(), steps=3), 20.0))):
        made = clone(
            self_consumption(data),
            lambda: BatteryBuilding(data),
            spaces_of(BatteryBuilding(data)),
            hidden=task.hidden,
            rounds=0,
            epochs=task.epochs,
            guard=guard,
            generator=torch.Generator().manual_seed(task.seed),
        )
        attack = {"bifurcated": Bifurcation(budget, steps=task.steps)}
        rows = evaluate(made.policy, lambda: BatteryBuilding(data), attack, seeds=task.batteries[:1]).rows
        out[name] = {
            "clean cost": rows["none"].kpi["cost"],
            "cost regret": rows["bifurcated"].kpi_regret["cost"],
            "action_mae": rows["bifurcated"].action_mae,
        }
    return out


def discretised(task: Task) -> dict[str, Any]:
    """The cost regret of the bifurcation attack on a controller of discretised actions, one number a battery."""
    task = replace(task, agent="ppo" if task.agent != "clone" else "clone")
    task = replace(task, weights=make_agent(task))
    clean, hit = (attacked_year(replace(task, name=name))["kpi"]["cost"] for name in ("none", "bifurcated"))
    return {"bins": task.bins, "clean cost": clean.tolist(), "cost regret": (hit - clean).tolist()}


def alternated(task: Task) -> dict[str, Any]:
    """PPO before and after training in turns with an adversary, each under an adversary learnt against it."""
    data, budget = district_of(task), calendar_masked(task.eps)
    steps, seed = task.train_steps, task.seed
    model = learn_agent(Building(data), "ppo", steps=steps, hidden=task.hidden, seed=seed)
    out: dict[str, Any] = {"plain": _against_its_own(task, model)}
    harden(model, lambda: Building(data), budget, method="atla", steps=steps, turns=task.turns, seed=seed)
    return out | {"alternated": _against_its_own(task, model)}


def _against_its_own(task: Task, model: Any) -> dict[str, Any]:
    """KPIs of an agent, and what an adversary adds that was learnt against it."""
    policy, env = wrap_policy(model), Building(district_of(task))
    budget, seed = calendar_masked(task.eps), task.seed + 1000
    learnt = {"learnt": learn_adversary(env, policy, budget, steps=task.train_steps, seed=seed)}
    rows = evaluate(policy, lambda: buildings(task, len(task.batteries)), learnt, seeds=task.batteries).rows
    return {"clean": rows["none"].kpi, "regret": rows["learnt"].kpi_regret}


def pendulum(task: Task) -> dict[str, Any]:
    """A cloned swing-up under each attack and budget: mean return, regrets, one episode each."""
    env = ScaledPendulum()
    rng = torch.Generator().manual_seed(task.seed)
    train = range(10_000 + 100 * task.seed, 10_016 + 100 * task.seed)
    made = clone(swing_up, ScaledPendulum, spaces_of(env), seeds=train, rounds=3, epochs=40, generator=rng)
    out: dict[str, Any] = {"regret": {}, "clean": 0.0}
    for eps in task.pendulum_eps:
        attacks = _pendulum_attacks(Budget(eps), task.steps)
        report = evaluate(
            made.policy, ScaledPendulum, attacks, seeds=range(task.episodes), attack_seed=task.seed
        )
        out["clean"] = report.rows["none"].clean_return
        out["regret"][f"{eps:g}"] = {name: report.rows[name].regret for name in attacks}
    return out


def _pendulum_attacks(budget: Budget, steps: int) -> dict[str, Attack]:
    return {
        "uniform noise": Noise(budget),
        "FGSM bifurcated": FGSM(budget),
        "regression": PGD(budget, Regress(), steps=steps),
        "bifurcated": Bifurcation(budget, steps=steps),
        "toggle": Bifurcation(budget, steps=steps, direction="toggle"),
    }


def do(task: tuple[str, Task]) -> Any:
    """One piece of work by its kind; importable, for workers."""
    kinds: dict[str, Callable[[Task], Any]] = {
        "year": attacked_year,
        "pendulum": pendulum,
        "hardened": hardened,
        "discretised": discretised,
        "alternated": alternated,
    }
    return kinds[task[0]](task[1])


def years_of(names: Sequence[str], task: Task) -> list[tuple[str, Task]]:
    """Tasks of attacked years."""
    return [("year", replace(task, name=name)) for name in names]
