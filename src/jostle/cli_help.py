"""From a docstring to what `--help` says: a description, and a line for each option."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Annotated, Any

import tyro

_SECTION = re.compile(r"\*\*(\w+):\*\*")
# "`x`, `y`: what they are." at the beginning of a sentence.
_ENTRY = re.compile(r"(?:^|(?<=\. ))((?:`[\w*]+`(?:, | and )?)+): ")


def described(doc: str) -> str:
    """What a docstring says beside its arguments, its result and its example, without marks.

    >>> described("Twice `x`.\\n\\n**Arguments:** `x`: a number.\\n**Returns:** another.\\n\\n>>> 1\\n1")
    'Twice x.'
    >>> described("Settings.\\n\\n`x`: a number.\\n`y`: another.")
    'Settings.'
    """
    paragraphs = _SECTION.split(_text(doc))[0].split("\n\n")
    return "\n\n".join(_plain(part) for part in paragraphs if part.strip() and not _ENTRY.match(_line(part)))


def entries(doc: str) -> dict[str, str]:
    """What a docstring says of each argument; a name may stand for several, as `pretrain_*`.

    >>> entries("Twice.\\n\\n**Arguments:** `x`, `y`: numbers, in\\n    metres. `z`: of both.\\n**Returns:** `w`: no.")
    {'x': 'numbers, in metres', 'y': 'numbers, in metres', 'z': 'of both'}
    """
    parts = _SECTION.split(_text(doc))
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    # A dataclass without a heading says what its fields are in a paragraph of its own.
    texts = [sections["Arguments"]] if "Arguments" in sections else parts[0].split("\n\n")
    found: dict[str, str] = {}
    for text in texts:
        pieces = _ENTRY.split(_line(text))
        for names, said in zip(pieces[1::2], pieces[2::2], strict=True):
            found |= dict.fromkeys(re.findall(r"`([\w*]+)`", names), _plain(said).removesuffix("."))
    return found


def with_help(
    fields: Iterable[tuple[str, Any, Any]], said: Mapping[str, str], typed: Mapping[str, str]
) -> list[tuple[str, Any, Any]]:
    """The fields `(name, type, default)`, their types annotated with what is said of them and how they are typed."""
    made = []
    for name, kind, default in fields:
        first = next((text for pattern, text in said.items() if fnmatch(name, pattern)), "")
        text = "; ".join(part for part in (first, typed.get(name, "")) if part)
        made.append((name, Annotated[kind, tyro.conf.arg(help=text)] if text else kind, default))
    return made


def _text(doc: str) -> str:
    return re.sub(r"\[(`[^`]*`)\]\[[^\]]*\]", r"\1", doc.partition("\n>>>")[0].strip())


def _line(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    return _line(text).replace("**", "").replace("`", "")


def one_sentence(box: str) -> str:
    """The parser's box of an error as one sentence.

    >>> one_sentence("╭─ Error ──╮\\n│ bad value  │\\n│ of --x     │\\n│ ────────── │\\n│ For full helptext │\\n╰────╯")
    'bad value of --x'
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", box).replace("│", "").strip()
    lines = text.splitlines()[1:]  # below the title
    # Options stand by themselves, indented, their help below them more so: their names are enough.
    names = (
        re.sub(r"^ {3,6}(--[\w.-]+).*", r"\1,", line.rstrip())
        for line in lines
        if not line.startswith(" " * 7)
    )
    # Rules stand between parts.
    parts = (_line(part) for part in re.split(r"(?m)^ *(?:─+|-{3,}|╰.*)$", "\n".join(names)))
    told = [
        part.rstrip(",.")
        for part in parts
        if part and not re.match("For full helptext|Argument helptext", part)
    ]
    return "; ".join(part[0].lower() + part[1:] if i else part for i, part in enumerate(told)) or _line(text)
