"""How much an attack costs: clean and attacked episodes under common random numbers, with true rewards."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from scipy.stats import t as student

from jostle.core.errors import require
from jostle.files import write_json
from jostle.observation.attack import Attack
from jostle.observation.policy import Policy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[int, int, str], None]
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Episodes:
    """What was seen and done, `(steps, copies, ...)`; NaN where a copy had already ended.

    `true`, `shown`: observations. `actions`: what was carried out. `rewards`: true ones. `seconds`: taken.
    """

    true: Array
    shown: Array
    actions: Array
    clean_actions: Array
    rewards: Array
    kpi: dict[str, Array]
    series: dict[str, Array]
    seconds: float

    @property
    def returns(self) -> Array:
        """The return of each copy's episode."""
        return np.nansum(self.rewards, axis=0)


@dataclass(frozen=True)
class Row:
    """One attack, summed up. Regrets are signed so that positive is worse.

    `attacked_return`: mean over seeds. `regret`: clean less attacked return, with `interval`, its 95 % paired
    t-interval over seeds (`None` for one seed). `action_mae`: mean change of executed actions, in their units
    (continuous). `asr`: share of attacked steps whose action changed (discrete). `attack_rate`: share of steps
    with a changed observation; `regret_a_step`: regret a changed observation. `linf`, `l2`: mean distance of
    what was shown where it was changed. `kpi`: means; `kpi_regret`: less the clean ones. `steps_a_second`.
    """

    clean_return: float
    attacked_return: float
    regret: float
    interval: tuple[float, float] | None
    action_mae: float | None
    asr: float | None
    attack_rate: float
    regret_a_step: float
    linf: float
    l2: float
    kpi: dict[str, float]
    kpi_regret: dict[str, float]
    steps_a_second: float


@dataclass(frozen=True, eq=False)
class Report:
    """Attacks compared on one policy. `rows`: one an attack. `episodes`: what happened, `none` included."""

    suffix: ClassVar[str] = ".json"

    rows: dict[str, Row]
    seeds: tuple[int, ...]
    episodes: dict[str, Episodes] = field(repr=False)

    def table(self) -> str:
        """The comparison as text, one attack a line."""
        kpi = [
            name for name in ("cost", "consumption", "ramping") if name in next(iter(self.rows.values())).kpi
        ]
        lines = [["attack", "return", "regret", "action change", *kpi]]
        for name, row in self.rows.items():
            change = row.action_mae if row.action_mae is not None else row.asr
            numbers = [row.attacked_return, row.regret, change or 0.0, *(row.kpi[k] for k in kpi)]
            lines.append([name, *(f"{value:.4g}" for value in numbers)])
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)

    def plot(self) -> "Figure":
        """The regrets as a figure."""
        from jostle.observation.figures import attack_bars

        return attack_bars(self)

    def numbers(self) -> dict[str, Any]:
        """The rows as plain numbers."""
        return {name: asdict(row) for name, row in self.rows.items()}

    def save(self, path: Path) -> None:
        """Write the rows, with their seeds, as JSON."""
        write_json(Path(path), {"seeds": list(self.seeds), "attacks": self.numbers()})


def evaluate(
    policy: Policy,
    make_env: Callable[[], gym.Env | VectorEnv],
    attacks: Mapping[str, Attack],
    *,
    seeds: Sequence[int] = (0,),
    attack_seed: int = 0,
    stochastic: bool = False,
    max_steps: int = 100_000,
    callback: Progress | None = None,
) -> Report:
    """Run the policy under each attack, and under none, on the same seeds.

    Episode `i` of every attack is the true environment reset with `seeds[i]`: what differs is the attack. The
    agent acts on what it is shown; the environment, its rewards and its KPIs are the true ones. All episodes
    run side by side, so one ascent serves them.

    **Arguments:** `policy`. `make_env`: makes a Gymnasium environment, or a vector environment with as many
    copies as there are seeds and no automatic reset (such as `BatteryBuilding`). `attacks`: by name. `seeds`:
    one an episode. `attack_seed`: of the attacks' own draws. `stochastic`: sample the policy's actions, with
    the same draws for every attack (deterministic by default: else noise is measured). `max_steps`: a limit.
    `callback`: called with attacks done, attacks in all and the last regret.
    **Returns:** [`Report`][jostle.observation.Report].
    **Raises:** `JostleError` if seeds are missing, or an episode does not end.
    """
    require(len(seeds) >= 1, "seeds must name at least one episode")
    require("none" not in attacks, "attacks must not be named 'none': that is the clean run")
    episodes: dict[str, Episodes] = {}
    rows: dict[str, Row] = {}
    for done, name in enumerate(["none", *attacks]):
        attack = attacks.get(name)
        rng = torch.Generator().manual_seed(attack_seed)
        draws = torch.Generator().manual_seed(attack_seed + 1) if stochastic else None
        episodes[name] = roll(policy, make_env, attack, seeds, rng, draws, max_steps)
        rows[name] = summarise(policy, episodes["none"], episodes[name])
        if callback is not None:
            callback(done + 1, len(attacks) + 1, f"{name}: regret {rows[name].regret:.4g}")
    return Report(rows, tuple(int(seed) for seed in seeds), episodes)


def roll(
    policy: Policy,
    make_env: Callable[[], gym.Env | VectorEnv],
    attack: Attack | None,
    seeds: Sequence[int],
    generator: torch.Generator | None = None,
    draws: torch.Generator | None = None,
    max_steps: int = 100_000,
) -> Episodes:
    """One episode a seed, side by side, under an attack or none; see `evaluate`."""
    fleet = _fleet(make_env, len(seeds))
    start = time.perf_counter()
    o = fleet.reset(seeds)
    live = np.ones(len(seeds), dtype=bool)
    log: list[tuple[Array, Array, Array, Array]] = []
    alive: list[Array] = []
    t = 0
    with policy.held():
        while live.any():
            require(t < max_steps, f"an episode did not end within max_steps = {max_steps}")
            shown = o
            if attack is not None:
                if live.all():
                    shown = attack(policy, o, t=t, generator=generator)[0]
                else:
                    shown = o.copy()
                    shown[live] = attack(policy, o[live], t=t, generator=generator)[0]
            actions = policy.act(np.where(live[:, None], shown, 0.0).astype(o.dtype), draws)
            after, rewards, over = fleet.step(actions, live)
            log.append((o, shown, actions, rewards))
            alive.append(live)
            live = live & ~over
            o, t = after, t + 1
    seconds = time.perf_counter() - start
    there = np.stack(alive)
    true, seen, actions, rewards = (_blank(np.stack(part), ~there) for part in zip(*log, strict=True))
    clean = actions.copy()
    if attack is not None and draws is None:
        clean[there] = policy.act(true[there].astype(o.dtype))
    return Episodes(true, seen, actions, clean, rewards, fleet.kpi(), fleet.series(), seconds)


def summarise(policy: Policy, clean: Episodes, attacked: Episodes) -> Row:
    """One attack's row, from its episodes and the clean ones."""
    loss = clean.returns - attacked.returns
    change = np.abs(attacked.actions - attacked.clean_actions)
    moved = np.abs(attacked.shown - attacked.true)
    there = ~np.isnan(attacked.rewards)
    struck = there & (np.nan_to_num(moved).max(2) > 0)
    changes = bool(struck.any())
    kpi = {name: float(np.mean(value)) for name, value in attacked.kpi.items()}
    regret = float(loss.mean())
    return Row(
        clean_return=float(clean.returns.mean()),
        attacked_return=float(attacked.returns.mean()),
        regret=regret,
        interval=interval(loss),
        action_mae=None if policy.discrete else float(change[there].mean()),
        asr=(float((change[struck] > 0).mean()) if changes else 0.0) if policy.discrete else None,
        attack_rate=float(struck.sum() / there.sum()),
        regret_a_step=float(loss.sum() / struck.sum()) if changes else 0.0,
        linf=float(moved.max(2)[struck].mean()) if changes else 0.0,
        l2=float(np.sqrt((moved**2).sum(2))[struck].mean()) if changes else 0.0,
        kpi=kpi,
        kpi_regret={name: value - float(np.mean(clean.kpi[name])) for name, value in kpi.items()},
        steps_a_second=float(there.sum() / max(attacked.seconds, 1e-9)),
    )


def interval(values: Any, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of a mean; `None` for fewer than two values.

    >>> [round(bound, 2) for bound in interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return None
    half = float(student.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return float(x.mean()) - half, float(x.mean()) + half


def _blank(value: Array, gone: Array) -> Array:
    """The values, with NaN for copies whose episode is over."""
    out = value.astype(np.float64) if value.dtype.kind == "i" else value
    out[gone] = np.nan
    return out


class _Many:
    """Single environments side by side."""

    def __init__(self, envs: Sequence[gym.Env]) -> None:
        self.envs = envs

    def reset(self, seeds: Sequence[int]) -> Array:
        return np.stack([env.reset(seed=int(s))[0] for env, s in zip(self.envs, seeds, strict=True)])

    def step(self, actions: Array, live: Array) -> tuple[Array, Array, Array]:
        blank = np.full(self.envs[0].observation_space.shape or (), np.nan, dtype=np.float32)
        found = [
            env.step(actions[i])[:4] if live[i] else (blank, np.nan, True, True)
            for i, env in enumerate(self.envs)
        ]
        after, rewards, ended, cut = zip(*found, strict=True)
        return np.stack(after), np.array(rewards, dtype=np.float64), np.logical_or(ended, cut)

    def kpi(self) -> dict[str, Array]:
        if not hasattr(self.envs[0].unwrapped, "kpis"):
            return {}
        rows: list[dict[str, float]] = [env.unwrapped.kpis() for env in self.envs]  # type: ignore[attr-defined]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    def series(self) -> dict[str, Array]:
        return {}


class _Native:
    """A vector environment whose copies end together."""

    def __init__(self, env: VectorEnv) -> None:
        self.env = env

    def reset(self, seeds: Sequence[int]) -> Array:
        some: Any = [int(seed) for seed in seeds]
        return np.array(self.env.reset(seed=some)[0])

    def step(self, actions: Array, live: Array) -> tuple[Array, Array, Array]:
        o, rewards, ended, cut, _ = self.env.step(actions)
        over = np.logical_or(ended, cut)
        require(
            bool(over.all() or not over.any()),
            "the vector environment's copies must end together; give a function that makes single ones",
        )
        return o, rewards, over

    def kpi(self) -> dict[str, Array]:
        inner: Any = self.env.unwrapped
        return inner.kpis() if hasattr(inner, "kpis") else {}

    def series(self) -> dict[str, Array]:
        inner = self.env.unwrapped
        return {name: np.array(getattr(inner, name)) for name in ("net", "soc") if hasattr(inner, name)}


def _fleet(make_env: Callable[[], Any], count: int) -> _Many | _Native:
    first = make_env()
    if isinstance(first, VectorEnv):
        require(
            first.num_envs == count,
            f"make_env makes {first.num_envs} copies, but there are {count} seeds: make as many",
        )
        return _Native(first)
    return _Many([first, *(make_env() for _ in range(count - 1))])
