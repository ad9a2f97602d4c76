"""What `--help` says comes from the docstrings: every setting of every study, and every option of a verb."""

import dataclasses
import importlib
import typing

import pytest

from jostle.cli_help import described, entries
from jostle.cli_types import options_of, settings_of
from jostle.lab.rooms import ROOMS, load_study


@pytest.mark.parametrize("key", ROOMS)
def test_settings_say_what_they_are(key: str) -> None:
    study = load_study(key)
    base = study.config("quick")
    made = settings_of(type(base))
    silent = {field.name for field in dataclasses.fields(made) if not _help(field.type)}
    assert not silent, silent
    assert vars(type(base)(**vars(made(**vars(base))))) == vars(base)
    assert "`" not in (made.__doc__ or "")


@pytest.mark.parametrize("key", ROOMS)
def test_options_of_the_verbs_do(key: str) -> None:
    for verb in importlib.import_module(f"jostle.{key}").VERBS:
        kind = options_of(verb).kind
        silent = {
            field.name
            for field in dataclasses.fields(kind)
            if not _help(field.type) and not dataclasses.is_dataclass(field.type)
        }
        assert not silent, f"{verb.__name__}: {silent}"


def test_an_entry_begins_a_sentence() -> None:
    doc = "Do it.\n\nMore.\n\n**Arguments:** `x`: one of `a`, `b`: no others. `y*`, and `z`.\n**Raises:** no."
    assert entries(doc) == {"x": "one of a, b: no others. y*, and z"}
    assert described(doc) == "Do it.\n\nMore."


def _help(kind: object) -> str:
    notes = typing.get_args(kind)[1:] if typing.get_origin(kind) is typing.Annotated else ()
    return next((note.help for note in notes), "")
