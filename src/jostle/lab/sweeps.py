"""A stage of independent tasks, side by side, which a killed run takes up where it was."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jostle.lab.engines import Engine, parallel
from jostle.lab.runs import Partial, Run, Stage, _slug


def sweep(
    run: Run,
    name: str,
    function: Callable[[Any], Any],
    tasks: Mapping[str, Any],
    *,
    engine: Engine = "loky",
    jobs: int = 1,
    partial: bool = False,
    figure: Callable[[Any], str] | None = None,
    rows: Callable[[str, Any], Iterable[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Carry out all tasks as one stage of a run; what is done when it is killed is kept.

    **Arguments:** `name`: of the stage. `function`: importable by name; what it returns is kept as a stage's result
    is. `tasks`: by name; the results depend neither on their order nor on `jobs` and `engine`, which are those of
    [`parallel`][jostle.lab.engines.parallel]. `partial`: the function takes `(item, Partial)`, for tasks that are long
    enough to keep a state of their own ([`Partial`][jostle.lab.runs.Partial]). `figure`: from a result to what the
    progress bar shows; by default the task's name. `rows`: from a task's name and result to what is logged, in the
    order of `tasks`.
    **Returns:** the results by name, in the order of `tasks`.
    """

    if not tasks:
        return {}

    def work(stage: Stage) -> dict[str, Any]:
        stage.every = 0.0
        done: dict[str, Any] = stage.load() or {}
        left = [task for task in tasks if task not in done]
        kept = {task: Partial(stage.path.with_suffix(f".{_slug(task)}.partial.pt")) for task in tasks}
        items = [(tasks[task], kept[task]) if partial else tasks[task] for task in left]
        for task in done:  # what a kill left just after the task was done
            kept[task].path.unlink(missing_ok=True)
        with run.progress(name, len(tasks)) as advance:
            advance("", steps=len(done))
            for i, result in parallel(function, items, engine=engine, jobs=jobs):
                done[left[i]] = result
                stage.save(done)
                kept[left[i]].path.unlink(missing_ok=True)
                advance(left[i] if figure is None else figure(result))
        ordered = {task: done[task] for task in tasks}
        for task, result in ordered.items():
            for row in rows(task, result) if rows else ():
                run.log(**row)
        return ordered

    return run.stage(name, work)


def call(task: tuple[Any, ...]) -> Any:
    """Carry out a task that is a function, importable by name, and what it is given.

    >>> call((divmod, 7, 2))
    (3, 1)
    """
    function, *given = task
    return function(*given)
