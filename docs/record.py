"""Put the claims of a finished run into its method's page: `python docs/record.py runs/KEY/FOLDER ...`."""

import re
import sys
from pathlib import Path

from jostle.files import read_json, write_text
from jostle.lab.report import VERDICTS, changes, day, duration

DOCS = Path(__file__).resolve().parent
LIMITS = re.compile(r"\n## (?:Honest limits|Limits)\n")
BLOCK = re.compile(r"\n## What a recorded run found\n.*?(?=\n## |\Z)", re.DOTALL)


def table(folder: Path) -> str:
    """The claims of a run as Markdown, with what somebody needs to repeat it."""
    config, environment = read_json(folder / "config.json"), read_json(folder / "environment.json")
    seconds = read_json(folder / "result.json")["seconds"]
    key, preset = config["study"], config["preset"]
    note = f" ({changes(config)})" if changes(config) else ""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    hardware = ", ".join([*environment["gpus"], f"{environment['cores']} cores ({environment['processor']})"])
    rows = [
        f"| {claim['id']} | {cell(claim['text'])} | {cell(claim['paper'])} | {cell(claim['measured']) or '—'} | "
        f"{VERDICTS[claim['verdict']]} |"
        for claim in read_json(folder / "claims.json")
    ]
    return "\n".join(
        [
            "",
            "## What a recorded run found",
            "",
            f"`jostle run {key} --preset {preset}`{note}, {day(environment['time'])}, {duration(seconds)} "
            f"on {hardware}; {packages}.",
            "",
            "| claim | what it says | paper | here | verdict |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def cell(text: str) -> str:
    """A text that does not break its table."""
    return text.replace("|", "\\|").replace("\n", " ")


def record(folder: Path) -> Path:
    """Replace the block in the method's page, or add it: before the limits, or at the end."""
    page = DOCS / f"{read_json(folder / 'config.json')['study']}.md"
    text, block = page.read_text(encoding="utf-8"), table(folder)
    if found := BLOCK.search(text):
        text = text[: found.start()] + block + text[found.end() :]
    elif limits := LIMITS.search(text):
        text = text[: limits.start()] + block + text[limits.start() :]
    else:
        text = text.rstrip("\n") + "\n" + block
    write_text(page, text)
    return page


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(record(Path(name)))
