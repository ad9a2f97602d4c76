"""What the zoo's error sentences share: names that look like the one that was typed."""

import difflib
from collections.abc import Iterable


def hint(name: str, known: Iterable[str]) -> str:
    """The tail of a sentence that says which known names look like `name`; empty if none does.

    >>> hint("digts", ["digits", "mnist5k"])
    "; did you mean 'digits'?"
    >>> hint("zebra", ["digits"])
    ''
    """
    known = list(known)
    if name in known:  # nothing to say, and comparing with a thousand names takes its time
        return ""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def reason(error: BaseException) -> str:
    """The first line of what an exception of somebody else's code says, or its kind.

    >>> reason(OSError("no luck\\nand more"))
    'no luck'
    """
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
