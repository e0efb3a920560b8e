"""Records of a file, each with where it stands: JSON lines, JSON, CSV, TSV and Parquet.

What cannot be read goes to `bad`, which raises it or notes it; then the reading goes on with the
next record where there is one.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import decimal
import json
import math
import re
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.data.formats.text_files import (
    LONGEST,
    Bad,
    check_text,
    decode_line,
    numbered_lines,
    open_utf8,
    reason_of,
)

LINES, WHOLE = (".jsonl", ".ndjson"), (".json",)
TABLES = (".csv", ".tsv", ".tab")
PARQUET = (".parquet", ".pq")
RECORDS = tuple(f"{one}{gz}" for one in (*LINES, *WHOLE, *TABLES) for gz in ("", ".gz")) + PARQUET
_WHOLE_MOST = 2**30  # bytes of a JSON value that is not on a line of its own
_CHUNK = 1 << 20
_SEPARATOR = re.compile(rb"sep=([,;|\t])\s*")

Rows = Iterator[tuple[str, Any]]


def read_rows(
    path: Path,
    bad: Bad,
    what: str = "a record",
    *,
    columns: Callable[[Sequence[str]], Sequence[str]] = list,
    needed: Sequence[str] = (),
) -> Rows:
    """(file:line, decoded record) of one file, by its suffix; one of no known suffix is JSON.

    what: what a record should be, for messages. columns: which of a Parquet file's are read.
    needed: names of which the columns of a table have one.
    """
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(PARQUET):
        yield from _parquet(path, bad, columns, needed)
    elif name.endswith(TABLES):
        yield from _table(path, bad, what, "," if name.endswith(".csv") else "\t", needed)
    elif _is_whole(path):
        yield from _json_values(path, bad, what)
    else:
        yield from _json_lines(path, bad, what)


def _is_whole(path: Path) -> bool:
    """Whether JSON spreads over lines, or stands in an array: its first line alone is no record."""
    first = b""
    for _, line in numbered_lines(path, lambda error: None):
        first = line.strip()
        if first:
            break
    return first.startswith(b"[") or (first.startswith(b"{") and first.endswith((b"{", b"[", b",")))


def _json_lines(path: Path, bad: Bad, what: str) -> Rows:
    for number, line in numbered_lines(path, bad):
        if not line.strip():
            continue
        try:
            record = decode_line(line)
        except ValueError as error:
            bad(BadInput(f"{path}:{number}: not {what}: {_json_reason(error)}"))
        else:
            yield f"{path}:{number}", record


def _json_values(path: Path, bad: Bad, what: str) -> Rows:
    """The members of an array, or values one after the other, however many lines they take."""
    values = _Values(path)
    try:
        yield from values
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = _json_reason(error)
        elif isinstance(error, (OSError, UnicodeDecodeError)):
            reason = reason_of(error)
        place = f"{path}:{values.line}"
        bad(BadInput(f"{place}: not {what}: {reason}; what follows in this file is not read"))


class _Values:
    """JSON values of a stream, decoded one at a time; `line` is where the next one stands."""

    def __init__(self, path: Path) -> None:
        self.line = 1
        self._path = path
        self._text = ""
        self._at = 0
        self._ended = False

    def __iter__(self) -> Rows:
        decoder = json.JSONDecoder(parse_constant=lambda name: None)
        with open_utf8(self._path) as stream:
            reader = codecs.getreader("utf-8")(stream)
            array = self._next(reader) == "["
            first, item, last = True, 0, 0
            if array:
                self._at += 1
            while char := self._next(reader):
                if array and char == "]":
                    self._at += 1
                    if self._next(reader):
                        raise ValueError("something follows the end of the array")
                    return
                if array and not first:
                    if char != ",":
                        raise ValueError("a comma or the end of the array is missing")
                    self._at += 1
                    self._next(reader)
                value, end = self._value(decoder, reader)
                part = self._text[self._at : end]
                if "\\ud" in part.lower():
                    check_text(json.dumps(value, ensure_ascii=False))
                item += 1
                # Of an array that is written on one line, a line's number says little.
                place = f"{self._path}:{self.line}"
                yield (place if self.line != last else f"{place}, item {item}"), value
                last = self.line
                self.line += part.count("\n")
                self._at, first = end, False
            if array:
                raise ValueError("the end of the array is missing")

    def _value(self, decoder: json.JSONDecoder, reader: Any) -> tuple[Any, int]:
        while True:
            try:
                return decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Either it goes on, or it is none; in a long text each try reads twice as much.
                before = len(self._text) - self._at
                if self._ended or before > _WHOLE_MOST:
                    self.line += self._text.count("\n", self._at, error.pos)
                    raise
                while len(self._text) - self._at < 2 * before + 1 and not self._ended:
                    self._read(reader)

    def _next(self, reader: Any) -> str:
        """The next character that is no space; empty at the end."""
        while True:
            while self._at < len(self._text):
                char = self._text[self._at]
                if not char.isspace():
                    return char
                self.line += char == "\n"
                self._at += 1
            if self._ended:
                return ""
            self._read(reader)

    def _read(self, reader: Any) -> None:
        more = reader.read(_CHUNK)
        self._ended = not more
        self._text, self._at = self._text[self._at :] + more, 0


def _json_reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"no JSON: {error.msg[:1].lower()}{error.msg[1:]} at column {error.colno}"
    return str(error)


class _Lines:
    """Lines that can be given back."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self._back: list[tuple[int, bytes]] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> tuple[int, bytes]:
        return self._back.pop() if self._back else next(self._lines)

    def give_back(self, lines: Sequence[tuple[int, bytes]]) -> None:
        self._back += reversed(lines)


def _table(path: Path, bad: Bad, what: str, delimiter: str, needed: Sequence[str]) -> Rows:
    csv.field_size_limit(LONGEST)
    lines = _Lines(numbered_lines(path, bad))
    head: list[str] = []
    for number, line in lines:
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            if not head and (named := _SEPARATOR.fullmatch(line)):  # as Excel writes it
                delimiter = named[1].decode()
                continue
            if not head and delimiter == ",":
                delimiter = max(",;\t|", key=lambda one: line.count(one.encode()))
            lines.give_back([(number, line)])
            row = _cells(lines, delimiter, len(head))
            if not head:
                head = [name.strip().lower() for name in row]
                double = next((name for name in head if name and head.count(name) > 1), None)
                if double is not None:
                    bad(BadInput(f"{place}: the header names the column {double!r} twice"))
                    return
                if needed and not set(head) & set(needed):
                    bad(BadInput(f"{place}: the header {_told_columns(head, needed)}"))
                    return
                continue
            if len(row) != len(head):
                raise ValueError(f"{len(row)} columns under a header of {len(head)}")
        except (ValueError, csv.Error) as error:
            bad(BadInput(f"{place}: not {what}: {error}"))
        else:
            yield place, dict(zip(head, row, strict=True))


def _cells(lines: _Lines, delimiter: str, columns: int) -> list[str]:
    """The cells of the next row, whose quoted cells may hold ends of lines.

    Raises ValueError naming a quote that is never closed; its row is then the first line alone.
    """
    taken: list[tuple[int, bytes]] = []
    size = 0

    def text() -> Iterator[str]:
        nonlocal size
        for number, line in lines:
            taken.append((number, line))
            size += len(line)
            if size > LONGEST:
                return
            yield line.decode("utf-8")

    try:
        cells = next(csv.reader(text(), delimiter=delimiter, strict=True))
        if delimiter == "\t" and len(taken) > 1 and any("\t" in cell for cell in cells):
            raise csv.Error("a cell swallows others")  # up to a quote that closed another one
        return cells
    except UnicodeDecodeError as error:
        lines.give_back(taken[1:])
        raise ValueError(f"no UTF-8 text at byte {error.start}") from error
    except (csv.Error, StopIteration) as error:
        lines.give_back(taken[1:])
        line = taken[0][1].decode("utf-8").rstrip("\r\n")
        cells = line.split(delimiter)
        # A cell that begins with a quoted word is no quoted cell: it is taken as it stands.
        whole = all(cell[:1] != '"' or '"' in cell[1:] for cell in cells)
        if whole and len(cells) == columns and len(taken) == 1:
            return cells
        opened = next((i for i, cell in enumerate(cells, 1) if cell[:1] == '"'), None)
        if opened is None:
            told = "a line ends with \\r alone" if "\r" in line else "no row of a table"
            raise ValueError(told) from error
        raise ValueError(
            f'the quote that opens column {opened} is not closed; write "" for a quote in a cell '
            "that is in quotes"
        ) from error


def _told_columns(seen: Sequence[str], needed: Sequence[str]) -> str:
    return (
        f"must name the columns id and {needed[0]} (or {', '.join(needed[1:])}); it has "
        f"{', '.join(seen[:12])[:200]}"
    )


def _parquet(
    path: Path,
    bad: Bad,
    columns: Callable[[Sequence[str]], Sequence[str]],
    needed: Sequence[str],
) -> Rows:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if needed and not {name.lower() for name in names} & set(needed):
                bad(BadInput(f"{path}: the table {_told_columns(names, needed)}"))
                return
            wanted = columns(names)
            for batch in file.iter_batches(1024, columns=wanted):
                for row in batch.to_pylist(maps_as_pydicts="lossy"):
                    number += 1
                    try:
                        record = plain_row(row)
                    except ValueError as error:
                        bad(BadInput(f"{path}:{number}: not a record: {error}"))
                    else:
                        yield f"{path}:{number}", record
    # pyarrow's own errors are of many kinds, ValueErrors among them; they are about the file.
    except (ValueError, TypeError, OSError, KeyError, pyarrow.ArrowException) as error:
        bad(BadInput(f"{path}: cannot be read: {reason_of(error)}"))


def plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table as JSON has it, without what is empty; raises ValueError naming a column."""
    made = {}
    for name, value in row.items():
        if value is None:
            continue
        try:
            made[name] = _plain(value)
        except ValueError as error:
            raise ValueError(f"the column {name!r} {error}") from None
    return made


def _plain(value: Any) -> Any:
    """Dates as ISO 8601, amounts as numbers, no number as nothing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("holds bytes that are no text") from None
    if hasattr(value, "tolist"):  # of numpy, as `datasets` may give
        return _plain(value.tolist())
    raise ValueError("holds a kind of value that is not read")
