"""Amounts of memory: one meaning, whichever parameter they are of."""

from __future__ import annotations

import pytest

from neurorit.core.errors import BadInput
from neurorit.core.units import parse_bytes, write_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GB", 10**9),
        ("2 gb", 2 * 10**9),
        ("2G", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("4Gi", 2**32),
        ("512 MiB", 2**29),
        ("1.5kB", 1500),
        ("800", 800),
        ("800B", 800),
    ],
)
def test_decimal_and_binary_units(text: str, size: int) -> None:
    assert parse_bytes(text, "memory") == size
    assert parse_bytes(write_bytes(size), "memory") == size


@pytest.mark.parametrize("text", ["much", "-1GB", "3MB", "", "iB", "1GBit", "1e9", "0"])
def test_what_is_no_amount_names_the_parameter(text: str) -> None:
    with pytest.raises(BadInput, match="memory="):
        parse_bytes(text, "memory", least=64 * 10**6)
