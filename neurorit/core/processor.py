"""What the processor multiplies quickly: bfloat16 in units of its own, where it has them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

# Linux's names of the units, best first, and ours.
_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}
_INFO = Path("/proc/cpuinfo")


@cache
def fast_bfloat16() -> str | None:
    """The unit that multiplies bfloat16 matrices here; None where float32 is quicker."""
    return bfloat16_unit(_INFO)


def bfloat16_unit(info: Path) -> str | None:
    """As `fast_bfloat16`, of what the system says in a file like /proc/cpuinfo."""
    try:
        lines = info.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    flags: set[str] = set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return next((ours for flag, ours in _UNITS.items() if flag in flags), None)
