"""Amounts of memory as people write them: 512MB, 1GB, 1.5GiB."""

from __future__ import annotations

import re

from neurorit.core.errors import BadInput

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def parse_bytes(text: str, option: str) -> int:
    """Bytes; raises BadInput naming the option for anything else, and for less than 64 MB."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise BadInput(f"{option} {text}: write an amount such as 512MB or 4GB")
    unit = found[2].lower()
    size = int(float(found[1]) * (_BINARY if found[3] and unit else _UNITS)[unit])
    if size < 64 * 10**6:
        raise BadInput(f"{option} {text}: at least 64MB are needed")
    return size
