"""A progress bar with the figure that matters; silent when nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]


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

        def advance(
            figure: str = "", steps: int = 1, total: int | None = None, done: int | None = None
        ) -> None:
            if total:
                bar.update(task, total=total)
            if done is None:
                bar.update(task, advance=steps, figure=figure)
            else:
                bar.update(task, completed=done, figure=figure)

        yield advance
