"""A progress bar with the figure that matters; silent when nobody watches."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]

SINK = "JOSTLE_PROGRESS"
"""Environment variable: a file that says how this process stands, for one that watches several."""


@contextmanager
def track(title: str, total: int | None, console: Console | None = None) -> Iterator[Advance]:
    """Show a bar for `total` steps; yield `advance(figure="", steps=1, total=None, done=None)`.

    **Arguments:** `title`: what is going on. `total`: how many steps, or `None` when unknown.
    **Yields:** a function to call as the work moves on, with the figure to show beside the bar.

    >>> with track("crafting", 2) as advance:
    ...     advance("fooling 12 %")
    ...     advance("fooling 40 %")
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figure]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, figure="")
        tell = _teller(title)

        def advance(
            figure: str = "", steps: int = 1, total: int | None = None, done: int | None = None
        ) -> None:
            if total:
                bar.update(task, total=total)
            if done is None:
                bar.update(task, advance=steps, figure=figure)
            else:
                bar.update(task, completed=done, figure=figure)
            tell(bar.tasks[task].completed, bar.tasks[task].total, figure)

        tell(0, total, "")
        yield advance


def _teller(title: str) -> Callable[[float, float | None, str], None]:
    path = os.environ.get(SINK)
    if path is None:
        return lambda done, total, figure: None
    draft, last = Path(f"{path}.{os.getpid()}"), [0.0]

    def tell(done: float, total: float | None, figure: str) -> None:
        now = time.monotonic()
        if done and now - last[0] < 0.2:
            return
        last[0] = now
        with suppress(OSError):  # who watches may be gone
            draft.write_text(json.dumps({"title": title, "done": done, "total": total, "figure": figure}))
            draft.replace(path)

    return tell
