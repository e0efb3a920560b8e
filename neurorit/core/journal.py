"""Append-only JSONL of a long run's records as they are made, so that a killed one goes on.

The last line may have been cut off by a kill: it is not read, and dropped by whoever appends next.
Where a journal has an identity, its first line, records of another identity are not used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from neurorit.core.locks import locked

Append = Callable[[Iterable[Mapping[str, Any]]], None]
"""Adds records; when it returns, a killed process no longer loses them."""
_BLOCK = 1 << 16


def read_journal(
    path: Path, identity: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, bytes]]:
    """(`path:number`, line) of every whole record; none without a file or of another identity."""
    if not path.is_file():
        return
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.endswith(b"\n"):
                return
            if number == 1 and identity is not None:
                if line != _line(identity):
                    return
                continue
            yield f"{path}:{number}", line


@contextmanager
def appending(
    path: Path, identity: Mapping[str, Any] | None = None, *, sync: bool = True
) -> Iterator[Append]:
    """What appends to a journal that is nobody else's for the block; of another identity, to none.

    sync: the records are on disk when the block ends; without, a lost machine may lose them.
    Raises BadInput where another process writes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path}: another process writes it; wait for it or name another ‹out›"
    with locked(path, busy), open(path, "r+b") as stream:
        if identity is not None and stream.readline() != _line(identity):
            stream.truncate(0)
            stream.seek(0)
            stream.write(_line(identity))
        else:
            stream.truncate(_whole(stream))
        stream.seek(0, os.SEEK_END)

        def append(records: Iterable[Mapping[str, Any]]) -> None:
            stream.writelines(map(_line, records))
            stream.flush()

        yield append
        if sync:
            os.fsync(stream.fileno())


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _whole(stream: BinaryIO) -> int:
    """Bytes up to the end of the last whole line."""
    end = stream.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - _BLOCK)
        stream.seek(start)
        at = stream.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
