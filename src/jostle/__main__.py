"""`python -m jostle`."""

from jostle.cli import entry

entry()
