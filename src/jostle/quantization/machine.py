"""The processor that engines run on, and what it lacks."""

import platform
from functools import lru_cache
from pathlib import Path

_FAST = ("avx512_vnni", "avx_vnni", "asimddp")


@lru_cache(maxsize=1)
def _described() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return {}
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def machine() -> str:
    """The processor, and whether it has 8-bit dot products; without them x86 kernels may saturate sums of pairs."""
    lines = _described()
    if not lines:
        return platform.processor() or platform.machine()
    name = lines.get("model name", platform.machine())
    return f"{name}, {'with' if _dots(lines) else 'without'} 8-bit dot products"


def saturates() -> bool:
    """Whether x86 kernels here add pairs of products in 16 bits, which 8-bit weights can exceed.

    Without VNNI they use `vpmaddubsw`: `255 * 127 * 2 > 2^15 - 1`. Weights of 7 bits always fit: `255 * 64 * 2` is
    below.
    """
    lines = _described()
    return "flags" in lines and not _dots(lines)


def _dots(lines: dict[str, str]) -> bool:
    flags = (lines.get("flags", "") + " " + lines.get("Features", "")).split()
    return any(word in flags for word in _FAST)
