"""When a crafting halves its perturbation, when it looks at how well it fools, and when it ends."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from jostle.core.errors import JostleError, require

ScheduleName = Literal["fast", "paper", "released", "port2020"]


@dataclass(frozen=True)
class Schedule:
    """The settings of a crafting loop.

    **Arguments:** `size`: Adam's step in units of the budget's radius. `steps`: at most so many. `rescale`:
    `"saturation"` halves when the share of entries at the bound stands still (GD-UAP), `"plateau"` when the
    objective does, `"never"` not at all. `theta`: standing still means a share that moves by less.
    `level`: only above this share at the bound. `window`, `gain`: a plateau is a gain below `gain` a tap over
    `window` steps. `check`: steps between two looks at the score; on a halving it looks after half as many.
    `patience`: looks without improvement before it stops. `starves`: halving also restarts the clock of the
    looks, as in the released code, so that halvings in quick succession prevent every look. `clip_inside`: the
    clip is part of the objective, and coordinates may drift beyond the bound (paper), or the iterate is clipped
    after each step. `keep`: the best look, or the last iterate. `reset_patience`: an improvement restarts the
    count. `port`: the network sees `delta` in its own units, without the mean image (the 2020 port's slip).
    """

    size: float
    steps: int
    rescale: Literal["saturation", "plateau", "never"] = "saturation"
    theta: float = 1e-5
    level: float = 0.5
    window: int = 50
    gain: float = 1e-4
    check: int = 400
    patience: int = 10
    starves: bool = False
    clip_inside: bool = False
    keep: Literal["best", "last"] = "best"
    reset_patience: bool = True
    port: bool = False

    def __post_init__(self) -> None:
        require(self.size > 0, f"size must be above 0, but {self.size} came")
        require(self.steps >= 1, f"steps must be at least 1, but {self.steps} came")


SCHEDULES: dict[str, Schedule] = {
    # A tenth of the radius a step: ten times the paper's, for an answer in seconds.
    "fast": Schedule(size=0.1, steps=150, rescale="plateau", check=50, patience=1000),
    # GD-UAP, section 3, with the clock of the looks kept apart from that of the halvings.
    "paper": Schedule(size=0.01, steps=40_000, clip_inside=True),
    # The same as the authors' code runs it.
    "released": Schedule(size=0.01, steps=40_000, clip_inside=True, starves=True),
    # psandovalsegura/pytorch-gd-uap: 0.1 in [0, 1] units is 2.55 times the radius of 10/255.
    "port2020": Schedule(size=2.55, steps=10_000, patience=5, keep="last", reset_patience=False, port=True),
}


def schedule_named(name: str | Schedule) -> Schedule:
    """A schedule by name, or the one that is given.

    **Raises:** `JostleError` if there is none of that name.

    >>> schedule_named("paper").size
    0.01
    """
    if isinstance(name, Schedule):
        return name
    if name not in SCHEDULES:
        raise JostleError(f"schedule must be one of {', '.join(SCHEDULES)}, but {name!r} came")
    return SCHEDULES[name]


@dataclass
class Clock:
    """Decides, step by step, when to look and when to halve.

    Feed it the share of saturated entries and the objective after each step with `tick`, and each score with
    `scored`.

    >>> clock = Clock(SCHEDULES["paper"])
    >>> [t for t in range(1, 900) if clock.tick(t, saturation=0.3, value=0.0, taps=1)[0]]
    [400, 800]
    """

    schedule: Schedule
    saturation: float = 0.0
    checked: int = 0
    strikes: int = 0
    best: float | None = None
    values: list[float] = field(default_factory=list)

    def tick(self, t: int, saturation: float, value: float, taps: int) -> tuple[bool, bool]:
        """Whether to look, and whether to halve afterwards, at step `t`."""
        plan = self.schedule
        still = abs(saturation - self.saturation) < plan.theta and saturation > plan.level
        self.saturation = saturation
        halve = still and plan.rescale == "saturation"
        if plan.rescale == "plateau":
            self.values = [*self.values[-plan.window :], value]
            flat = len(self.values) > plan.window and value - self.values[0] < plan.gain * taps
            halve = flat and saturation > plan.level
        since = t - self.checked
        look = (halve and since > plan.check // 2) or since >= plan.check
        if look:
            self.checked = t
        if halve:
            self.values = []
            if plan.starves:
                self.checked = t
        return look, halve

    def scored(self, score: float) -> tuple[bool, bool]:
        """Whether a score is the best so far, and whether patience is at its end."""
        better = self.best is None or score > self.best
        if better:
            self.best = score
            if self.schedule.reset_patience:
                self.strikes = 0
        else:
            self.strikes += 1
        return better, self.strikes >= self.schedule.patience

    def state_dict(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        state = asdict(self)
        del state["schedule"]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for name, value in state.items():
            setattr(self, name, value)
