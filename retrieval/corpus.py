"""Corpora: a stream of passages from a file, a BEIR folder, or a folder of documents.

| source | passages |
|---|---|
| `.jsonl` (also `.gz`) | `id`, `title`, `text`; FlashRAG's `contents`; BEIR's `_id` |
| `.tsv` (also `.gz`) | DPR's and KILT's columns: id, text, title, under a header |
| `.parquet` | the same names as columns |
| a folder with `corpus.jsonl` | BEIR |
| `hf:NAME[:CONFIGURATION][@SPLIT]`, or a folder of `save_to_disk` | by `datasets`, the same names |
| another folder | its txt, Markdown, HTML and PDF files, in chunks |

Nothing is held in memory but eight bytes of every id. It knows nothing of vectors.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from retrieval.chunking import Chunking
from retrieval.documents import SUFFIXES, find_documents, read_document
from retrieval.errors import BadInput
from retrieval.examples import Passage
from retrieval.hub import is_named, named_rows, rows_digest
from retrieval.ids import SeenIds, content_id

_COLUMNS = ("id", "_id", "title", "text", "contents", "meta", "metadata")
DEFAULT = Chunking()
_LONGEST = 64 * 1024 * 1024  # bytes of a line; a longer one is no passage


def read_corpus(path: Path, *, chunking: Chunking = DEFAULT) -> Iterator[Passage]:
    """Stream passages; raises BadInput with file:line for a bad line, a used id, or no passage.

    chunking: of documents; records stay whole. A record without an id gets the hash of its content.
    """
    for passage, _ in placed_passages(path, chunking=chunking):
        yield passage


def placed_passages(path: Path, *, chunking: Chunking = DEFAULT) -> Iterator[tuple[Passage, str]]:
    """As `read_corpus`, with where each passage stands."""
    path = Path(path)
    chunking.check()
    if not is_named(path) and not path.exists():
        raise BadInput(f"{path}: no such file or folder; a data set of the hub is hf:NAME")
    source = partial(_source, path, chunking)
    seen = SeenIds()
    for passage, place in source():
        if not passage.id:
            yield _named(passage, seen), place
            continue
        if not seen.add(passage.id):
            first = next(at for other, at in source() if other.id == passage.id)
            first = first.removeprefix(f"{path}:")
            raise BadInput(f"{place}: the id {passage.id!r} was used in line {first}")
        yield passage, place
    if not len(seen):
        raise BadInput(f"{path}: holds no passage")


def corpus_files(path: Path) -> list[Path]:
    """The files that a corpus is made of, in their order: what its identity depends on."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    beir = path / "corpus.jsonl"
    return [beir] if beir.is_file() else find_documents(path)


def corpus_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of a corpus' files."""
    path = Path(path)
    if is_named(path):
        return rows_digest(named_rows(path))
    digest = hashlib.sha256()
    for file in corpus_files(path):
        if not file.is_file():
            return "absent"
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        if not path.is_dir():
            return content
        digest.update(f"{file.relative_to(path).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def parse_passage(record: Any) -> Passage:
    """A passage from one decoded record; raises ValueError saying which field is wrong."""
    if not isinstance(record, dict):
        raise ValueError("the line is no JSON object")
    identity = record.get("id", record.get("_id"))
    if identity is None and "id" not in record and "_id" not in record:
        identity = 0  # named by its content, in `placed_passages`
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


def _named(passage: Passage, seen: SeenIds) -> Passage:
    """With the hash of its content as id; one that says the same as an earlier one is numbered."""
    digest = content_id(passage.title, passage.text)
    turn, identity = 1, digest
    while not seen.add(identity):
        turn += 1
        identity = f"{digest}-{turn}"
    return replace(passage, id=identity)


def _source(path: Path, chunking: Chunking) -> Iterator[tuple[Passage, str]]:
    """Passages with where each stands."""
    if is_named(path):
        yield from _rows(path)
        return
    if path.is_dir():
        beir = path / "corpus.jsonl"
        yield from _jsonl(beir) if beir.is_file() else _folder(path, chunking)
        return
    suffix = Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()
    if suffix == ".tsv":
        yield from _tsv(path)
    elif suffix == ".parquet":
        yield from _parquet(path)
    elif suffix in SUFFIXES:
        yield from _document(path, path.parent, chunking)
    else:
        yield from _jsonl(path)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers; raises BadInput for one without end or a broken archive."""
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(_LONGEST + 1):
                number += 1
                if len(line) > _LONGEST:
                    raise BadInput(f"{path}:{number}: the line is longer than {_LONGEST} bytes")
                yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}:{number + 1}: cannot be read: {error}") from error


def _jsonl(path: Path) -> Iterator[tuple[Passage, str]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            passage = parse_passage(json.loads(line.decode("utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInput(f"{path}:{number}: not a passage: {error}") from error
        yield passage, f"{path}:{number}"


def _tsv(path: Path) -> Iterator[tuple[Passage, str]]:
    head: list[str] = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            # A field in quotes may hold quotes, doubled; none holds a line's end.
            row = next(csv.reader([line.decode("utf-8").rstrip("\r\n")], delimiter="\t"))
            if not head:
                head = [name.strip().lower() for name in row]
                if "id" not in head or "text" not in head:
                    raise ValueError("the header must name the columns id and text")
                continue
            if len(row) != len(head):
                raise ValueError(f"{len(row)} columns under a header of {len(head)}")
            passage = parse_passage(dict(zip(head, row, strict=True)))
        except (ValueError, csv.Error) as error:
            raise BadInput(f"{path}:{number}: not a passage: {error}") from error
        yield passage, f"{path}:{number}"


def _parquet(path: Path) -> Iterator[tuple[Passage, str]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            named = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for batch in file.iter_batches(1024, columns=named):
                for record in batch.to_pylist():
                    number += 1
                    yield parse_passage(_given(record)), f"{path}:{number}"
    except (ValueError, TypeError) as error:
        # pyarrow's own errors are ValueErrors too: before the first row they are about the file.
        where = f"{path}:{number}" if number else str(path)
        raise BadInput(f"{where}: not a passage: {str(error).splitlines()[0]}") from error
    except (OSError, pyarrow.ArrowException) as error:
        raise BadInput(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


def _rows(path: Path) -> Iterator[tuple[Passage, str]]:
    rows = named_rows(path)
    rows = rows.select_columns([name for name in _COLUMNS if name in rows.column_names])
    for number, record in enumerate(rows):
        try:
            yield parse_passage(_given(record)), f"{path}:{number}"
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}, row {number}: not a passage: {error}") from error


def _given(record: Mapping[str, Any]) -> dict[str, Any]:
    """Without the columns that hold nothing in this row."""
    return {name: value for name, value in record.items() if value is not None}


def _folder(folder: Path, chunking: Chunking) -> Iterator[tuple[Passage, str]]:
    files = find_documents(folder)
    if not files:
        raise BadInput(f"{folder}: holds no corpus.jsonl and no {', '.join(SUFFIXES)} file")
    for file in files:
        yield from _document(file, folder, chunking)


def _document(file: Path, folder: Path, chunking: Chunking) -> Iterator[tuple[Passage, str]]:
    name = file.relative_to(folder).as_posix()
    number = 0
    for part in read_document(file):
        for text in chunking.chunks(part.text):
            meta: dict[str, Any] = {"source": name}
            if part.page:
                meta["page"] = part.page
            yield Passage(f"{name}#{number}", part.title, text, meta=meta), str(file)
            number += 1
