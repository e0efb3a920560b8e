"""Corpora: a stream of passages from a file, a BEIR folder, or a folder of records and documents.

| source | passages |
|---|---|
| `.jsonl`, `.ndjson`, `.json` | records: `id`, `title`, `text`, `meta`, one a line or in an array |
| `.csv`, `.tsv`, `.tab` | the same names in a header |
| `.parquet`, `.pq` | the same names as columns; dates and nested values in `meta` |
| `.json` of LlamaIndex, LangChain, Chroma, Elasticsearch, SQuAD | each document that it holds |
| `.txt`, `.md`, `.markdown`, `.html`, `.htm`, `.xhtml`, `.pdf`, `.docx`, `.mbox`, `.eml` | chunks |
| a folder with `corpus.jsonl` | BEIR |
| another folder | all of these below it |
| `hf:NAME[:CONFIGURATION][@SPLIT]`, or a folder of `save_to_disk` | by `datasets`, the same names |
| passages in memory | `Passage`s, or mappings with these names |

Files of records may be packed (`.gz`), and text is UTF-8 or UTF-16, with a mark or without.
Of a file nothing is held in memory but eight bytes of every id.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.hashing import SeenIds, content_id
from neurorit.data.examples import Passage
from neurorit.data.formats.hf_datasets import is_named, named_rows, rows_digest
from neurorit.data.formats.record_files import RECORDS, plain_row
from neurorit.data.formats.text_files import open_utf8
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.corpus.documents import SUFFIXES, is_document, read_document
from neurorit.retrieval.corpus.records import (
    NoText,
    Placed,
    Rows,
    UnknownForm,
    known_columns,
    parse_passage,
    parse_row,
    read_records,
)

DEFAULT = Chunking()
GivenCorpus = str | os.PathLike[str] | Iterable[Passage | Mapping[str, Any]]
"""Where a corpus is, or its passages in memory."""
Corpus = Path | Sequence[Passage]
"""The same, as it can be read more than once."""


class Skipped:
    """What gave no passage: each record, page or file once, in order, with its reason.

    lenient: what is bad is noted too, in place of raised. way_out: of what is raised, where the
    caller has one. `used` counts the records, pages and files of the latest reading that gave
    passages.
    """

    def __init__(self, lenient: bool = True, way_out: str = "") -> None:
        self.lenient = lenient
        self._way_out = way_out
        self.used = 0
        self._messages: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    @property
    def share(self) -> float:
        """Of all that was there, how much became passages, in [0, 1]."""
        return self.used / (self.used + len(self)) if self.used or len(self) else 0.0

    def bad(self, error: BadInput) -> None:
        """Raise what cannot be read, or note it; a second reading of the same adds nothing."""
        if not self.lenient:
            raise BadInput(f"{error}; {self._way_out}") if self._way_out else error
        self._messages.setdefault(_writable(str(error)))

    def left_out(self, place: str, reason: str) -> None:
        """Note what can be read and makes no passage."""
        self._messages.setdefault(_writable(f"{place}: {reason}"))


def _writable(text: str) -> str:
    """With what is no text in a file's name spelled out, as `caf\\xe9.png`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def rereadable(given: GivenCorpus) -> Corpus:
    """The place, or a list of what is in memory; raises BadInput for what is no passage."""
    if isinstance(given, (str, os.PathLike)):
        return Path(given)
    passages = []
    for number, record in enumerate(given):
        try:
            passages.append(record if isinstance(record, Passage) else parse_row(record))
        except (ValueError, AttributeError) as error:
            raise BadInput(f"corpus[{number}]: not a passage: {error}") from error
    return passages


def read_corpus(
    path: Corpus, *, chunking: Chunking = DEFAULT, skipped: Skipped | None = None
) -> Iterator[Passage]:
    """Stream passages; raises BadInput with file:line for a bad line, a used id, or no passage.

    chunking: of documents, and of records where it says so. skipped: takes note of what gives no
    passage, and if it is lenient of what is bad, in place of raising it. A record without an id
    gets the hash of its content.
    """
    for passage, _ in placed_passages(path, chunking=chunking, skipped=skipped):
        yield passage


def placed_passages(
    path: Corpus, *, chunking: Chunking = DEFAULT, skipped: Skipped | None = None
) -> Placed:
    """As `read_corpus`, with where each passage stands."""
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
        if not is_named(path) and not path.exists():
            raise BadInput(f"{path}: no such file or folder; a data set of the hub is hf:NAME")
        named, source = str(path), partial(_source, path, chunking)
    else:
        named, source = "corpus", partial(_given, path, chunking)
    skipped = Skipped(lenient=False) if skipped is None else skipped
    skipped.used, last = 0, ""
    seen = SeenIds()
    for passage, place in source(skipped):
        if not passage.id:
            passage = _named(passage, seen)
        elif not seen.add(passage.id):
            told = "before"
            if not skipped.lenient:
                again = source(Skipped(lenient=True))
                first = next(at for other, at in again if other.id == passage.id)
                line = first.removeprefix(f"{named}:")
                told = f"in {first}" if line == first else f"in line {line}"
            skipped.bad(BadInput(f"{place}: the id {passage.id!r} was used {told}"))
            continue
        skipped.used += place != last
        last = place
        yield passage, place
    if not len(seen):
        told = f"; {len(skipped)} left out, such as {next(iter(skipped))}" if len(skipped) else ""
        raise BadInput(f"{named}: holds no passage{told}")


def corpus_files(path: Path) -> list[Path]:
    """The files that a corpus is made of, in their order: what its identity depends on.

    Of a folder without a `corpus.jsonl`, those below it that are read; hidden ones are left out.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    beir = path / "corpus.jsonl"
    if beir.is_file():
        return [beir]
    files = [file for file in _seen_files(path) if _is_read(file) and file.exists()]
    return [file for file in files if not _leads_out(file, path)]


def _seen_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if (file.is_file() or not file.exists())
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _leads_out(file: Path, folder: Path) -> bool:
    """Whether a file of a folder lies elsewhere: who fills the folder is to show nothing else."""
    return not file.resolve().is_relative_to(folder.resolve())


def _is_read(file: Path) -> bool:
    return is_document(file) or file.name.lower().endswith(RECORDS)


def corpus_digest(path: Corpus) -> str:
    """SHA-256 over the names and bytes of a corpus' files, or over passages in memory."""
    digest = hashlib.sha256()
    if not isinstance(path, (str, os.PathLike)):
        for passage in path:
            digest.update(json.dumps(astuple(passage), sort_keys=True).encode() + b"\n")
        return digest.hexdigest()
    path = Path(path)
    if is_named(path):
        return rows_digest(named_rows(path))
    for file in corpus_files(path):
        if not file.is_file():
            return "absent"
        with open(file, "rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        if not path.is_dir():
            return content
        digest.update(os.fsencode(file.relative_to(path)) + f"\0{content}\n".encode())
    return digest.hexdigest()


def _named(passage: Passage, seen: SeenIds) -> Passage:
    """With the hash of its content as id; one that says the same as an earlier one is numbered."""
    digest = content_id(passage.title, passage.text)
    turn, identity = 1, digest
    while not seen.add(identity):
        turn += 1
        identity = f"{digest}-{turn}"
    return replace(passage, id=identity)


def _source(path: Path, chunking: Chunking, skipped: Skipped) -> Placed:
    """Passages with where each stands."""
    if is_named(path):
        yield from _cut(_passages(_rows(path, skipped), skipped), chunking)
        return
    files = corpus_files(path)
    if path.is_dir() and not (path / "corpus.jsonl").is_file():
        for file in _seen_files(path):
            if not file.exists():
                skipped.left_out(str(file), "it points to no file")
            elif not _is_read(file):
                kind = f"files of the kind {file.suffix} are" if file.suffix else "its kind is"
                skipped.left_out(str(file), f"{kind} not read")
            elif _leads_out(file, path):
                skipped.left_out(str(file), "a link that leads out of the folder is not followed")
        for linked in (place for place in path.rglob("*") if place.is_symlink() and place.is_dir()):
            skipped.left_out(str(linked), "a link to a folder is not followed")
    if not files:
        known = ", ".join((*RECORDS, *SUFFIXES))
        raise BadInput(f"{path}: holds no corpus.jsonl, and no file of {known}")
    for file in files:
        if is_document(file):
            yield from _document(file, path if path.is_dir() else path.parent, chunking, skipped)
        else:
            if not _is_read(file):
                _check_is_text(file)
            # A folder may hold JSON that is about something else.
            other = path.is_dir() and file.suffix.lower() == ".json"
            records = _told_if_none(read_records(file, skipped.bad), file, skipped)
            yield from _cut(_passages(records, skipped, other), chunking)


def _told_if_none(records: Rows, file: Path, skipped: Skipped) -> Rows:
    """The records; a file that holds none is named, as one without text is."""
    before, empty = len(skipped), True
    for placed in records:
        empty = False
        yield placed
    if empty and len(skipped) == before:
        skipped.left_out(str(file), "it holds no record")


def _check_is_text(file: Path) -> None:
    """Raise BadInput for a file of an unknown kind that does not begin as JSON does."""
    begin = b"PK"  # as what is no text may begin
    with suppress(ValueError, EOFError, zlib.error), open_utf8(file) as stream:
        begin = stream.read(64).lstrip()
    if begin and begin[:1] not in b"{[":
        known = ", ".join((*RECORDS, *SUFFIXES))
        raise BadInput(f"{file}: files of this kind are not read; read are {known}")


def _given(passages: Sequence[Passage], chunking: Chunking, _skipped: Skipped) -> Placed:
    placed = ((passage, f"corpus[{i}]") for i, passage in enumerate(passages))
    return _cut(placed, chunking)


def _rows(path: Path, skipped: Skipped) -> Rows:
    rows = named_rows(path)
    rows = rows.select_columns(known_columns(rows.column_names))
    for number, record in enumerate(rows):
        try:
            yield f"{path}, row {number}", plain_row(record)
        except ValueError as error:
            skipped.bad(BadInput(f"{path}, row {number}: not a passage: {error}"))


def _passages(rows: Rows, skipped: Skipped, other: bool = False) -> Placed:
    for place, record in rows:
        try:
            passage = parse_passage(record)
        except NoText as error:
            skipped.left_out(place, str(error))
        except UnknownForm as error:
            if other:
                skipped.left_out(place, f"not a passage: {error}")
            else:
                skipped.bad(BadInput(f"{place}: not a passage: {error}"))
        except ValueError as error:
            skipped.bad(BadInput(f"{place}: not a passage: {error}"))
        else:
            yield passage, place


def _cut(placed: Placed, chunking: Chunking) -> Placed:
    """Records as they are, or the longer ones in chunks that name theirs in `source`."""
    for passage, place in placed:
        pieces = list(chunking.chunks(passage.text)) if chunking.records else []
        if len(pieces) < 2:
            yield passage, place
            continue
        named: dict[str, Any] = {"source": passage.id} if passage.id else {}
        for number, text in enumerate(pieces):
            identity = f"{passage.id}#{number}" if passage.id else ""
            yield replace(passage, id=identity, text=text, meta={**named, **passage.meta}), place


def _document(file: Path, folder: Path, chunking: Chunking, skipped: Skipped) -> Placed:
    # A name may be no UTF-8, and then no id: its other bytes are written out.
    name = os.fsencode(file.relative_to(folder)).decode("utf-8", "backslashreplace")
    number = 0
    try:
        for part in read_document(file, skipped.left_out):
            for text in chunking.chunks(part.text):
                meta: dict[str, Any] = {"source": name, **part.meta}
                if part.page:
                    meta["page"] = part.page
                yield Passage(f"{name}#{number}", part.title, text, meta=meta), part.place
                number += 1
    except BadInput as error:
        skipped.bad(error)
