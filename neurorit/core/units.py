"""Amounts of memory as people write them: everywhere GB is 10^9 bytes and GiB is 2^30."""

from __future__ import annotations

import re

from neurorit.core.errors import BadInput

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)


def parse_bytes(text: str, name: str, *, least: int = 1) -> int:
    """Bytes of an amount: 512MB, 4G (decimal, as SI has it), 1.5GiB, 4Gi (binary).

    Raises BadInput naming the parameter `name` for anything else, and for less than `least` bytes.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"{name} {text}: write an amount such as 512MB or 4GB")
    base = 1024 if match[3] else 1000
    size = int(float(match[1]) * base ** _POWERS[(match[2] or "").lower()])
    if size < least:
        raise BadInput(f"{name} {text}: at least {least // 10**6}MB are needed")
    return size
