"""The command line: studies, reports, and the verbs of every room, built from their typed signatures."""

import contextlib
import dataclasses
import importlib
import inspect
import io
import sys
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from jostle.cli_help import one_sentence
from jostle.cli_types import Options, options_of, settings_of
from jostle.core.errors import JostleError
from jostle.files import read_json, write_json
from jostle.lab.progress import track
from jostle.lab.report import changes
from jostle.lab.rooms import ROOMS, load_study, room

_HELP = ("-h", "--help", "help")
_USAGE = """\
jostle: nudge a system and measure how it answers

  jostle list                       methods, papers, presets, what is missing
  jostle zoo [NAME]                 data and models by name, or fetch NAME
  jostle run METHOD [--preset quick|gpu|paper] [--SETTING VALUE ...]
                                    a paper's study: a run folder, its report
      [--devices N] [--nodes N] [--precision bf16-mixed]
                                    its trainings on several GPUs
  jostle run --resume RUN           finish a run that was cut off
  jostle demo [METHOD ...]          all quick studies at once, then the index
  jostle report [RUN]               the page of a run; without RUN, of all runs
  jostle METHOD                     the verbs of a method
  jostle METHOD VERB --help         what a verb takes

methods: """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; every mistake of the user's is one sentence on stderr and a non-zero exit."""
    out, err = Console(), Console(stderr=True)
    words = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = lambda text, *_, **__: err.print(
        f"jostle: note: {text}", style="yellow", highlight=False
    )
    try:
        return _dispatch(words, out)
    except JostleError as error:
        err.print(f"jostle: {error}", style="red", highlight=False, markup=False)
        return 2
    except OSError as error:  # a full disk, say, met outside of our own files
        where = f": {error.filename}" if error.filename else ""
        err.print(
            f"jostle: the system said: {error.strerror or error}{where}",
            style="red",
            highlight=False,
            markup=False,
        )
        return 2
    except KeyboardInterrupt:
        err.print("jostle: stopped by hand", style="red")
        return 130


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _dispatch(words: list[str], out: Console) -> int:
    plain = len(words) == 2 and words[0] in ("run", "demo", "list", "zoo", "report") and words[1] in _HELP
    if not words or words[0] in _HELP or plain:
        out.print(_USAGE + ", ".join(ROOMS), highlight=False)
        return 0
    command, rest = words[0], words[1:]
    if command == "list":
        return _list(rest, out)
    if command == "zoo":
        return _zoo(rest, out)
    if command == "run":
        return _run(rest, out)
    if command == "demo":
        return _demo(rest, out)
    if command == "report":
        return _report(rest, out)
    return _verb(room(command).key, rest, out)


def _list(words: list[str], out: Console) -> int:
    _none_left(words, "list")
    table = Table("method", "what it does", "paper", "presets", "missing", box=None, header_style="bold")
    for entry in ROOMS.values():
        presets = "" if entry.missing else ", ".join(load_study(entry.key).presets)
        table.add_row(
            entry.key,
            entry.sentence,
            f"arXiv {entry.arxiv} ({entry.year})",
            presets,
            ", ".join(entry.missing),
        )
    out.print(table)
    return 0


def _zoo(words: list[str], out: Console) -> int:
    from jostle import zoo

    if words and words[0] == "citylearn-2022":
        _none_left(words[1:], "zoo")
        out.print(zoo.citylearn_2022(), highlight=False, soft_wrap=True)
        return 0
    _none_left(words, "zoo")
    table = Table("name", "what it is", "here", box=None, header_style="bold")
    for name, sentence, here, extra in (*zoo.models(), *zoo.datasets()):
        table.add_row(name, sentence, "yes" if here else f"pip install 'jostle[{extra}]'")
    for name, sentence, here, _ in zoo.tables():
        table.add_row(name, sentence, "yes" if here else f"jostle zoo {name}")
    out.print(table)
    return 0


def _run(words: list[str], out: Console) -> int:
    from jostle import lab

    preset, words = _take(words, "--preset")
    folder, words = _take(words, "--resume")
    processes, words = _processes(words)
    if folder is not None:
        _none_left(words, "run --resume")
        run = lab.resume(Path(folder))
    else:
        if not words or words[0].startswith("-"):
            raise JostleError(f"run needs a method: one of {', '.join(ROOMS)}")
        key, preset = words[0], preset or "quick"
        base = load_study(key).config(preset)
        kind = settings_of(type(base))
        given = _parse(kind, words[1:], f"jostle run {key}", default=kind(**vars(base)))
        config = type(base)(**vars(given))
        run = lab.start(key, preset, config, processes=processes)
    if not run.kept:
        return 0
    _print_claims(read_json(run.folder / "claims.json"), out)
    if note := changes(read_json(run.folder / "config.json")):
        out.print(note, style="yellow", highlight=False, markup=False)
    out.print(f"report: {run.folder / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def _processes(words: list[str]) -> tuple[Any, list[str]]:
    """`--devices`, `--nodes` and `--precision`, which are the run's and not the study's."""
    from jostle.lab.processes import Processes

    given: dict[str, Any] = {}
    for name in ("devices", "nodes", "precision"):
        value, words = _take(words, f"--{name}")
        if value is not None and name != "precision" and not value.isdigit():
            raise JostleError(f"--{name} must be a whole number, but {value!r} came")
        if value is not None:
            given[name] = value if name == "precision" else int(value)
    return Processes(**given), words


def _demo(words: list[str], out: Console) -> int:
    from jostle import lab

    jobs, words = _take(words, "--jobs")
    if jobs is not None and not jobs.isdigit():
        raise JostleError(f"--jobs must be a whole number, but {jobs!r} came")
    if unknown := [word for word in words if word.startswith("-")]:
        raise JostleError(f"demo takes methods and --jobs, but {unknown[0]!r} came")
    outcomes = lab.tour(words or None, jobs=None if jobs is None else int(jobs))
    out.print(f"report: {lab.write_index().absolute()}", highlight=False, soft_wrap=True)
    return int(any(outcome.state != "finished" for outcome in outcomes))


def _report(words: list[str], out: Console) -> int:
    from jostle import lab

    if words and words[0].startswith("-"):
        raise JostleError("report takes a run folder, or nothing for the index of all runs")
    if not words:
        out.print(f"report: {lab.write_index()}", highlight=False, soft_wrap=True)
        return 0
    _none_left(words[1:], "report")
    folder = Path(words[0])
    if not (folder / "config.json").exists():
        raise JostleError(f"{folder} is not a run folder: it has no config.json")
    page = lab.write_report(folder, room(read_json(folder / "config.json")["study"]))
    out.print(f"report: {page}", highlight=False, soft_wrap=True)
    return 0


def _verb(key: str, words: list[str], out: Console) -> int:
    missing = room(key).missing
    verbs: dict[str, Callable[..., Any]] = {
        function.__name__: function for function in importlib.import_module(f"jostle.{key}").VERBS
    }
    if not words or words[0] in _HELP:
        table = Table("verb", "what it does", box=None, header_style="bold")
        for name, function in verbs.items():
            table.add_row(
                f"jostle {key} {name}", (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
            )
        out.print(table)
        if missing:
            out.print(f"not installed: {', '.join(missing)}")
        return 0
    name, rest = words[0], words[1:]
    if name not in verbs:
        raise JostleError(f"{key} has no verb {name!r}; its verbs are {', '.join(verbs)}")
    target, rest = _take(rest, "--out")
    if target is not None:
        _check_target(verbs[name], Path(target))
    options = options_of(verbs[name])
    given = _parse(options.kind, _named(options.kind, rest), f"jostle {key} {name}")
    with track(f"{key} {name}", None) as advance:
        result = options.call(
            given, lambda done, total, figure: advance(figure, steps=0, total=total, done=done)
        )
    _show(result, out)
    if target is not None:
        _keep(result, Path(target))
        out.print(f"written: {target}", highlight=False, soft_wrap=True)
    return 0


def _named(kind: Any, words: list[str]) -> list[str]:
    """Give leading words the names of the options without a default, in their order: `disk date STARS.csv`."""
    named: list[str] = []
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING or not words or words[0].startswith("-"):
            break
        named += [f"--{field.name.replace('_', '-')}", words[0]]
        words = words[1:]
    return named + words


def _parse(kind: Any, words: list[str], prog: str, default: Any = None) -> Any:
    extra = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(io.StringIO()) as box:
            return tyro.cli(kind, args=words, prog=prog, **extra)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise JostleError(f"{one_sentence(box.getvalue())} ({prog} --help says what it takes)") from None


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    for i, word in enumerate(words):
        if word.startswith(option + "="):
            return word.partition("=")[2], words[:i] + words[i + 1 :]
        if word == option:
            if i + 1 == len(words):
                raise JostleError(f"{option} needs a value")
            return words[i + 1], words[:i] + words[i + 2 :]
    return None, words


def _none_left(words: list[str], command: str) -> None:
    if words:
        raise JostleError(f"{command} takes no {words[0]!r}")


def _print_claims(claims: list[dict[str, str]], out: Console) -> None:
    table = Table("claim", "what it says", "paper", "here", "verdict", box=None, header_style="bold")
    colour = {"holds": "green", "fails": "red", "not-tested": "dim"}
    for claim in claims:
        verdict = claim["verdict"]
        table.add_row(
            claim["id"], claim["text"], claim["paper"], claim["measured"], f"[{colour[verdict]}]{verdict}[/]"
        )
    out.print(table)


def _numbers(result: Any) -> Any:
    if hasattr(result, "numbers"):
        return result.numbers()
    if hasattr(result, "record"):
        return dict(result.record)
    if isinstance(result, Mapping):
        return {str(name): _numbers(item) for name, item in result.items()}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: _numbers(getattr(result, field.name)) for field in dataclasses.fields(result)}
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [_numbers(item) for item in result]
    return result


def _show(result: Any, out: Console) -> None:
    numbers = _numbers(result)
    if not isinstance(numbers, Mapping):
        if numbers is not None and not hasattr(result, "savefig"):
            out.print(numbers)
        return
    rows = list(_flat(numbers))
    table = Table("figure", "value", box=None, header_style="bold")
    for name, value in rows:
        table.add_row(name, _short(value))
    out.print(table)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_short, value)) if isinstance(value, list | tuple) and value else str(value)


def _flat(numbers: Mapping[str, Any], before: str = "") -> Any:
    for name, value in numbers.items():
        label = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{label}.")
        elif not isinstance(value, list) or len(value) <= 12:
            yield label, value


def _check_target(function: Callable[..., Any], path: Path) -> None:
    """Before the work, not after it: where its result cannot go."""
    made = typing.get_type_hints(inspect.unwrap(function)).get("return")
    suffix = getattr(made, "suffix", ".json")
    known = (suffix,) if isinstance(suffix, str) else suffix
    if not hasattr(made, "savefig") and path.suffix not in known:
        raise JostleError(f"out must end in {' or '.join(known)} for this verb, but {path.name} came")
    if not path.absolute().parent.is_dir():
        raise JostleError(f"out names a folder that does not exist: {path.absolute().parent}")


def _keep(result: Any, path: Path) -> None:
    from jostle.files import whole

    if hasattr(result, "savefig"):
        with whole(path) as draft:
            result.savefig(draft, dpi=160, bbox_inches="tight")
    elif hasattr(result, "save"):
        result.save(path)
    else:
        write_json(path, _numbers(result))


__all__ = ["Options", "entry", "main"]
