"""One line of JSON, decoded strictly: what it gives can be written again as UTF-8."""

from __future__ import annotations

import json
from typing import Any


def decode_line(line: bytes) -> Any:
    """The value of a line; raises ValueError, saying what is wrong, for any that is none.

    Half of a surrogate pair (`"\\ud800"`) is none: no encoder and no file takes it.
    """
    try:
        value = json.loads(line.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text at byte {error.start}") from error
    # Only an escape can bring one in.
    if b"\\ud" in line.lower():
        check_text(json.dumps(value, ensure_ascii=False))
    return value


def check_text(text: str) -> None:
    """Raise ValueError for a text that holds half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        raise ValueError(f"it holds \\u{half:04x}, half of a surrogate pair") from error
