"""Records of a file as passages: JSON lines, TSV and Parquet, each with where it stands.

What cannot be read goes to `bad`, which raises it or notes it; then the reading goes on with the
next line where there is one.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from neurorit.core.errors import BadInput
from neurorit.core.jsonl import decode_line
from neurorit.data.examples import Passage

RECORDS = (".jsonl", ".jsonl.gz", ".tsv", ".tsv.gz", ".parquet")
FIELDS = ("id", "_id", "title", "text", "contents", "meta", "metadata")
_LONGEST = 64 * 1024 * 1024  # bytes of a line; a longer one is no passage

Bad = Callable[[BadInput], None]
Placed = Iterator[tuple[Passage, str]]


def read_records(path: Path, bad: Bad) -> Placed:
    """The passages of one file, by its suffix; one of no known suffix is JSON lines."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet(path, bad)
    elif name.endswith((".tsv", ".tsv.gz")):
        yield from _tsv(path, bad)
    else:
        yield from _jsonl(path, bad)


def parse_passage(record: Any) -> Passage:
    """A passage from one decoded record; raises ValueError saying which field is wrong."""
    if not isinstance(record, dict):
        raise ValueError("the line is no JSON object")
    identity = record.get("id", record.get("_id"))
    if identity is None and "id" not in record and "_id" not in record:
        identity = 0  # named by its content, in `neurorit.retrieval.corpus.reader`
    elif isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise ValueError("'id' must be a non-empty string")
    title, text = record.get("title"), record.get("text")
    if text is None and isinstance(record.get("contents"), str):
        first, _, rest = record["contents"].partition("\n")
        title, text = (first.strip().strip('"'), rest) if rest.strip() else ("", first)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("'text' must be a non-empty string")
    if title is not None and not isinstance(title, str):
        raise ValueError("'title' must be a string")
    meta = record.get("meta") or record.get("metadata") or {}
    if not isinstance(meta, dict):
        raise ValueError("'meta' must be an object")
    named = "id" in record or "_id" in record
    return Passage(str(identity) if named else "", title or "", text, meta=meta)


def parse_row(record: Mapping[str, Any]) -> Passage:
    """A passage from a row of columns, of which some may hold nothing; raises ValueError."""
    passage = parse_passage({name: value for name, value in record.items() if value is not None})
    try:
        json.dumps(passage.meta)
    except (TypeError, ValueError) as error:
        raise ValueError(f"'meta' holds what JSON has no form for: {error}") from error
    return passage


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _lines(path: Path, bad: Bad) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; one without end is bad, and so is a broken archive."""
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(_LONGEST + 1):
                number += 1
                if len(line) <= _LONGEST:
                    yield number, line
                    continue
                bad(BadInput(f"{path}:{number}: the line is longer than {_LONGEST} bytes"))
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_LONGEST)
    except (OSError, EOFError, zlib.error) as error:
        bad(BadInput(f"{path}:{number + 1}: cannot be read: {error}"))


def _jsonl(path: Path, bad: Bad) -> Placed:
    for number, line in _lines(path, bad):
        if not line.strip():
            continue
        try:
            passage = parse_passage(decode_line(line))
        except ValueError as error:
            bad(BadInput(f"{path}:{number}: not a passage: {error}"))
        else:
            yield passage, f"{path}:{number}"


def _tsv(path: Path, bad: Bad) -> Placed:
    head: list[str] = []
    for number, line in _lines(path, bad):
        if not line.strip():
            continue
        try:
            # A field in quotes may hold quotes, doubled; none holds a line's end.
            row = next(csv.reader([line.decode("utf-8").rstrip("\r\n")], delimiter="\t"))
            if not head:
                head = [name.strip().lower() for name in row]
                if "id" in head and "text" in head:
                    continue
                bad(BadInput(f"{path}:{number}: the header must name the columns id and text"))
                return
            if len(row) != len(head):
                raise ValueError(f"{len(row)} columns under a header of {len(head)}")
            passage = parse_passage(dict(zip(head, row, strict=True)))
        except (ValueError, csv.Error) as error:
            bad(BadInput(f"{path}:{number}: not a passage: {error}"))
        else:
            yield passage, f"{path}:{number}"


def _parquet(path: Path, bad: Bad) -> Placed:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            named = [name for name in FIELDS if name in file.schema_arrow.names]
            for batch in file.iter_batches(1024, columns=named):
                for record in batch.to_pylist():
                    number += 1
                    try:
                        passage = parse_row(record)
                    except ValueError as error:
                        bad(BadInput(f"{path}:{number}: not a passage: {error}"))
                    else:
                        yield passage, f"{path}:{number}"
    # pyarrow's own errors are of many kinds, ValueErrors among them; they are about the file.
    except (ValueError, TypeError, OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        bad(BadInput(f"{path}: cannot be read: {reason}"))
