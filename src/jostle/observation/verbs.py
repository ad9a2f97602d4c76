"""What the command line offers: attack, sweep, audit, bound and train agents in Gymnasium environments."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch

from jostle.core.errors import JostleError, require
from jostle.observation.attack import Attack
from jostle.observation.attacks import ACG, APGD, FGSM, PGD, Bifurcation, Noise
from jostle.observation.bounds import Method, bounds
from jostle.observation.budget import Budget, suggest_budget
from jostle.observation.building import BatteryBuilding, Building
from jostle.observation.consistency import rules_for
from jostle.observation.district import load_district
from jostle.observation.evaluate import Report, evaluate, roll
from jostle.observation.learning import Agent, Algorithm, learn_agent
from jostle.observation.policy import Policy, wrap_policy
from jostle.observation.rules import spaces_of
from jostle.observation.stealth import Stealth
from jostle.observation.stealth import stealth as compare

Progress = Callable[[int, int, str], None]
Kind = Literal["bifurcated", "toggle", "up", "down", "regression", "fgsm", "apgd", "acg", "uniform", "corner"]


def attack(
    agent: Agent,
    env: str,
    *,
    kinds: tuple[Kind, ...] = ("uniform", "bifurcated", "toggle"),
    eps: float = 0.05,
    units: Literal["observation", "range"] = "observation",
    still: tuple[int, ...] = (),
    steps: int = 40,
    episodes: int = 5,
    seed: int = 0,
    callback: Progress | None = None,
) -> Report:
    """What bounded sensor attacks cost your agent: returns, regrets and KPIs under common random numbers.

    **Arguments:** `agent`: a file that `train` wrote, a model that Stable-Baselines3 saved (`.zip`), or
    `FILE.py:FUNCTION`, a function of yours that makes a module. `env`: a Gymnasium id, or CityLearn's
    building data by name (`Building_6` to `Building_10`). `kinds`: noise (`uniform`, or `corner` with every
    feature at its bound), an ascent away from the clean action (`regression`), or ascents on the bifurcation
    layer: to the other half of the action's range (`bifurcated`), `up`, `down`, both in turn (`toggle`), in
    one step (`fgsm`), or with step lengths that adapt (`apgd`, `acg`). `eps`: largest change of each feature,
    at least 0. `units`: what `eps` counts in: the `observation` as the agent reads it, or shares of the
    observation space's `range`. `still`: features, by number from 0, that cannot be touched. `steps`: of the
    ascent at each observation, at least 1. `episodes`: how many, on seeds from `seed` on. `seed`: of the
    first episode, and of what attacks draw.
    """
    make = _maker(env, episodes)
    policy = _policy(agent, make)
    budget = _budget(policy, eps, units, still)
    attacks = {kind: _attack(kind, budget, steps) for kind in kinds}
    return evaluate(
        policy, make, attacks, seeds=range(seed, seed + episodes), attack_seed=seed, callback=callback
    )


def sweep(
    agent: Agent,
    env: str,
    *,
    kind: Kind = "bifurcated",
    eps: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1),
    still: tuple[int, ...] = (),
    steps: int = 40,
    episodes: int = 5,
    seed: int = 0,
    callback: Progress | None = None,
) -> Report:
    """One attack at rising budgets.

    **Arguments:** `agent`: a file that `train` wrote, a model that Stable-Baselines3 saved (`.zip`), or
    `FILE.py:FUNCTION`, a function of yours that makes a module. `env`: a Gymnasium id, or CityLearn's
    building data by name (`Building_6` to `Building_10`). `kind`: noise (`uniform`, `corner`), an ascent away
    from the clean action (`regression`), or one on the bifurcation layer (the others). `eps`: largest changes
    of each feature in the units in which the agent reads it, a budget each. `still`: features, by number from
    0, that cannot be touched. `steps`: of the ascent at each observation, at least 1. `episodes`: how many,
    on seeds from `seed` on. `seed`: of the first episode, and of what the attack draws.
    """
    make = _maker(env, episodes)
    policy = _policy(agent, make)
    attacks = {f"{kind} {e:g}": _attack(kind, _budget(policy, e, "observation", still), steps) for e in eps}
    return evaluate(
        policy, make, attacks, seeds=range(seed, seed + episodes), attack_seed=seed, callback=callback
    )


def stealth(
    agent: Agent,
    env: str,
    *,
    kind: Kind = "bifurcated",
    eps: float = 0.05,
    hide: float | None = None,
    still: tuple[int, ...] = (),
    steps: int = 40,
    episodes: int = 1,
    block: int = 24,
    permutations: int = 1000,
    seed: int = 0,
) -> Stealth:
    """Would anybody notice? The detectors on what an attacked agent is shown, against the clean run.

    **Arguments:** `agent`: a file that `train` wrote, a model that Stable-Baselines3 saved (`.zip`), or
    `FILE.py:FUNCTION`, a function of yours that makes a module. `env`: a Gymnasium id, or CityLearn's
    building data by name (`Building_6` to `Building_10`). `kind`: noise (`uniform`, `corner`), an ascent away
    from the clean action (`regression`), or one on the bifurcation layer (the others). `eps`: largest change
    of each feature, in the units in which the agent reads it. `hide`: instead of `eps`, this factor times
    each feature's median change from one step to the next. `still`: features, by number from 0, that cannot
    be touched. `steps`: of the ascent at each observation, at least 1. `episodes`: how many, on seeds from
    `seed` on; rules of physics are checked only with 1. `block`: steps that are permuted together (24 hours:
    a day). `permutations`: of the MMD tests; 0: none. `seed`: of the first episode, and of what the attack
    and the tests draw.
    """
    make = _maker(env, episodes)
    policy = _policy(agent, make)
    seeds = range(seed, seed + episodes)
    clean = _rows(roll(policy, make, None, seeds).true)
    if hide is None:
        budget = _budget(policy, eps, "observation", still)
    else:
        chosen = suggest_budget(clean, factor=hide)
        budget = Budget(chosen.eps, mask=_mask(policy, still))
    found = roll(policy, make, _attack(kind, budget, steps), seeds, torch.Generator().manual_seed(seed))
    data = load_district(env) if env.startswith("Building_") else None
    rules = rules_for(clean, data) if episodes == 1 and len(clean) >= 25 else None
    return compare(
        clean,
        _rows(found.shown),
        block=block,
        permutations=permutations,
        generator=np.random.default_rng(seed),
        rules=rules,
    )


def audit(
    clean: Path,
    shown: Path,
    *,
    block: int = 24,
    permutations: int = 1000,
    seed: int = 0,
) -> Stealth:
    """The detectors on two logs of your own: observations that are known to be clean, and suspicious ones.

    **Arguments:** `clean`: what is known to be clean: `.npy`, or `.npz` with one array, `(steps, features)`
    in time order. `shown`: what is suspicious: `.npy`, or `.npz` with one array, of the same features in time
    order. `block`: steps that are permuted together (24 hours: a day). `permutations`: of the MMD tests; 0:
    none. `seed`: of the permutations.
    """
    known, seen = _log("clean", clean), _log("shown", shown)
    rng = np.random.default_rng(seed)
    return compare(known, seen, block=block, permutations=permutations, generator=rng)


def certify(
    agent: Agent,
    env: str,
    *,
    eps: float = 0.05,
    still: tuple[int, ...] = (),
    method: Method = "crown",
    observations: int = 500,
    seed: int = 0,
) -> dict[str, Any]:
    """How far any attack in a budget can move the agent's action, certified on observations of a clean episode.

    **Arguments:** `agent`: a file that `train` wrote, a model that Stable-Baselines3 saved (`.zip`), or
    `FILE.py:FUNCTION`, a function of yours that makes a module; linear, tanh and ReLU layers in a row. `env`:
    a Gymnasium id, or CityLearn's building data by name (`Building_6` to `Building_10`). `eps`: largest
    change of each feature, in the units in which the agent reads it. `still`: features, by number from 0,
    that cannot be touched. `method`: linear bounds (`crown`), or the wider ones of interval arithmetic
    (`ibp`). `observations`: how many of the episode at most, spread evenly. `seed`: of the episode.
    """
    make = _maker(env, 1)
    policy = _policy(agent, make)
    seen = _rows(roll(policy, make, None, (seed,)).true)
    chosen = seen[np.linspace(0, len(seen) - 1, min(observations, len(seen))).astype(int)].astype(np.float32)
    found = bounds(policy, chosen, _budget(policy, eps, "observation", still), method=method)
    return {"observations": len(chosen), "eps": eps, "method": method, **found.numbers()}


def train(
    env: str,
    *,
    algorithm: Algorithm = "sac",
    steps: int = 50_000,
    hidden: tuple[int, ...] = (64, 64),
    resist: Literal["none", "adv", "sa", "atla"] = "none",
    eps: float = 0.05,
    still: tuple[int, ...] = (),
    seed: int = 0,
    device: str = "cpu",
    callback: Progress | None = None,
) -> Agent:
    """Train an agent with Stable-Baselines3, and harden it if asked; `--out agent.safetensors` keeps it.

    **Arguments:** `env`: a Gymnasium id, or CityLearn's building data by name (`Building_6` to
    `Building_10`). `algorithm`: `sac` or `ppo`. `steps`: of the environment in training, at least 1, and as
    many again in hardening. `hidden`: widths of the hidden layers of actor and critics. `resist`: harden by
    adversarial training (`adv`), smoothness regularisation (`sa`) or alternating training (`atla`), or not at
    all (`none`). `eps`: largest change of each feature that is hardened against, in the units in which the
    agent reads it. `still`: features, by number from 0, that attacks in hardening cannot touch. `device`:
    that the networks are trained on: `cpu`, `cuda` or `auto` (the GPU if there is one).
    """
    from jostle.observation.harden import harden

    def make() -> gym.Env:
        return Building(load_district(env)) if env.startswith("Building_") else _gym(env)

    model = learn_agent(
        make(), algorithm, steps=steps, hidden=hidden, seed=seed, device=device, callback=callback
    )
    if resist != "none":
        budget = _budget(wrap_policy(model), eps, "observation", still)
        harden(model, make, budget, method=resist, steps=steps, seed=seed, callback=callback)
    return Agent.of(wrap_policy(model))


def _maker(env: str, copies: int) -> Callable[[], Any]:
    require(copies >= 1, f"episodes must be at least 1, but {copies} came")
    if env.startswith("Building_"):
        data = load_district(env)
        return lambda: BatteryBuilding(data, copies=copies, curves=None)
    return lambda: _gym(env)


def _gym(env: str) -> gym.Env:
    try:
        return gym.make(env)
    except gym.error.Error as error:
        raise JostleError(f"env must be a Gymnasium id or Building_6 to Building_10: {error}") from error


def _policy(agent: Agent, make: Callable[[], Any]) -> Policy:
    return agent.policy(*spaces_of(make()))


def _mask(policy: Policy, still: Sequence[int]) -> Any:
    bad = [j for j in still if not 0 <= j < policy.features]
    require(not bad, f"still must name features from 0 to {policy.features - 1}, but {bad} came")
    mask = np.ones(policy.features, dtype=bool)
    mask[list(still)] = False
    return mask


def _budget(policy: Policy, eps: float, units: Any, still: Sequence[int]) -> Budget:
    return Budget(eps, mask=_mask(policy, still), units=units)


def _attack(kind: Kind, budget: Budget, steps: int) -> Attack:
    if kind in ("uniform", "corner"):
        return Noise(budget, kind)  # type: ignore[arg-type]
    if kind == "regression":
        return PGD(budget, steps=steps)
    if kind == "fgsm":
        return FGSM(budget)
    if kind in ("apgd", "acg"):
        return (APGD if kind == "apgd" else ACG)(budget, steps=steps)
    direction: Any = "flip" if kind == "bifurcated" else kind
    return Bifurcation(budget, steps=steps, direction=direction)


def _log(name: str, path: Path) -> np.ndarray:
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return np.asarray(held, dtype=np.float64)
        with held:
            require(
                len(held.files) == 1,
                f"{name} must hold one array, but {path} holds {len(held.files)}: {', '.join(held.files)}",
            )
            return np.asarray(held[held.files[0]], dtype=np.float64)
    except JostleError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise JostleError(
            f"{name} must be a .npy or .npz file of numbers, but {path} is not: {error}"
        ) from error


def _rows(o: Any) -> Any:
    rows = np.swapaxes(o, 0, 1).reshape(-1, o.shape[-1]).astype(np.float64)
    return rows[np.isfinite(rows).all(1)]
