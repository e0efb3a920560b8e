"""Amounts of memory as people write them: everywhere GB is 10^9 bytes and GiB is 2^30."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from neurorit.core.errors import BadInput

_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])(i?))?b?", re.IGNORECASE)


def parse_bytes(text: str, name: str, *, least: int = 1) -> int:
    """Bytes of an amount: 512MB, 4G (decimal, as SI has it), 1.5GiB, 4Gi (binary).

    Raises BadInput naming the parameter `name` for anything else, and for less than `least` bytes.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"‹{name}={text}›: write an amount such as 512MB or 4GB")
    base = 1024 if match[3] else 1000
    size = int(float(match[1]) * base ** _POWERS[(match[2] or "").lower()])
    if size < least:
        raise BadInput(f"‹{name}={text}›: at least {least // 10**6}MB are needed")
    return size


def write_bytes(size: int) -> str:
    """The shortest amount that `parse_bytes` reads as so many bytes: 4GB, 2GiB, 1234."""
    for base, ending in ((1000, "B"), (1024, "iB")):
        for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
            if size and size % base**power == 0:
                return f"{size // base**power}{unit}{ending}"
    return str(size)


@dataclass(frozen=True)
class Amount:
    """Beside int in Annotated: bytes, that may be written as an amount."""

    least: int = 1

    def takes(self, kind: str) -> str:
        """What such a setting takes, in words."""
        least = f", at least {self.least // 10**6}MB" if self.least >= 10**6 else ""
        return f"an amount such as 512MB or 2GiB{least}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def read(value: Any) -> Any:
            return parse_bytes(value, "memory") if isinstance(value, str) else value

        bounded = {**handler(source), "ge": self.least}
        return core_schema.no_info_before_validator_function(read, bounded)
