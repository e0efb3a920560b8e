"""Corpora: a stream of passages from a file, a BEIR folder, or a folder of records and documents.

| source | passages |
|---|---|
| `.jsonl` (also `.gz`) | `id`, `title`, `text`; FlashRAG's `contents`; BEIR's `_id` |
| `.tsv` (also `.gz`) | DPR's and KILT's columns: id, text, title, under a header |
| `.parquet` | the same names as columns |
| a folder with `corpus.jsonl` | BEIR |
| `hf:NAME[:CONFIGURATION][@SPLIT]`, or a folder of `save_to_disk` | by `datasets`, the same names |
| another folder | its files of records, and its txt, Markdown, HTML and PDF files in chunks |
| passages in memory | `Passage`s, or mappings with the names of `.jsonl` |

Of a file nothing is held in memory but eight bytes of every id.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.hashing import SeenIds, content_id
from neurorit.data.examples import Passage
from neurorit.data.hf_datasets import is_named, named_rows, rows_digest
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.corpus.documents import SUFFIXES, is_document, read_document
from neurorit.retrieval.corpus.records import FIELDS, RECORDS, Bad, Placed, parse_row, read_records

DEFAULT = Chunking()
GivenCorpus = str | os.PathLike[str] | Iterable[Passage | Mapping[str, Any]]
"""Where a corpus is, or its passages in memory."""
Corpus = Path | Sequence[Passage]
"""The same, as it can be read more than once."""


class Skipped:
    """What a reading left out because it could not be read: each line or file once, in order."""

    def __init__(self) -> None:
        self._messages: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[str]:
        return iter(self._messages)

    def add(self, error: BadInput) -> None:
        """Note one; a second reading of the same corpus adds nothing."""
        self._messages.setdefault(str(error))


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

    chunking: of documents, and of records where it says so. skipped: takes note of what is bad, in
    place of raising it. A record without an id gets the hash of its content.
    """
    for passage, _ in placed_passages(path, chunking=chunking, skipped=skipped):
        yield passage


def placed_passages(
    path: Corpus, *, chunking: Chunking = DEFAULT, skipped: Skipped | None = None
) -> Placed:
    """As `read_corpus`, with where each passage stands."""
    chunking.check()
    if isinstance(path, (str, os.PathLike)):
        path = Path(path)
        if not is_named(path) and not path.exists():
            raise BadInput(f"{path}: no such file or folder; a data set of the hub is hf:NAME")
        named, source = str(path), partial(_source, path, chunking)
    else:
        named, source = "corpus", partial(_given, path, chunking)
    bad = _refuse if skipped is None else skipped.add
    seen = SeenIds()
    for passage, place in source(bad):
        if not passage.id:
            yield _named(passage, seen), place
        elif seen.add(passage.id):
            yield passage, place
        else:
            told = "before"
            if skipped is None:
                first = next(at for other, at in source(bad) if other.id == passage.id)
                line = first.removeprefix(f"{named}:")
                told = f"in {first}" if line == first else f"in line {line}"
            bad(BadInput(f"{place}: the id {passage.id!r} was used {told}"))
    if not len(seen):
        told = f"; {len(skipped)} bad, such as {next(iter(skipped))}" if skipped else ""
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
    return sorted(
        file
        for file in path.rglob("*")
        if (is_document(file) or file.name.lower().endswith(RECORDS))
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


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


def _refuse(error: BadInput) -> None:
    raise error


def _named(passage: Passage, seen: SeenIds) -> Passage:
    """With the hash of its content as id; one that says the same as an earlier one is numbered."""
    digest = content_id(passage.title, passage.text)
    turn, identity = 1, digest
    while not seen.add(identity):
        turn += 1
        identity = f"{digest}-{turn}"
    return replace(passage, id=identity)


def _source(path: Path, chunking: Chunking, bad: Bad) -> Placed:
    """Passages with where each stands."""
    if is_named(path):
        yield from _cut(_rows(path, bad), chunking)
        return
    files = corpus_files(path)
    if not files:
        known = ", ".join((*RECORDS, *SUFFIXES))
        raise BadInput(f"{path}: holds no corpus.jsonl, and no file of {known}")
    for file in files:
        if is_document(file):
            yield from _document(file, path if path.is_dir() else path.parent, chunking, bad)
        else:
            yield from _cut(read_records(file, bad), chunking)


def _given(passages: Sequence[Passage], chunking: Chunking, _bad: Bad) -> Placed:
    placed = ((passage, f"corpus[{i}]") for i, passage in enumerate(passages))
    return _cut(placed, chunking)


def _rows(path: Path, bad: Bad) -> Placed:
    rows = named_rows(path)
    rows = rows.select_columns([name for name in FIELDS if name in rows.column_names])
    for number, record in enumerate(rows):
        try:
            passage = parse_row(record)
        except ValueError as error:
            bad(BadInput(f"{path}, row {number}: not a passage: {error}"))
        else:
            yield passage, f"{path}:{number}"


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


def _document(file: Path, folder: Path, chunking: Chunking, bad: Bad) -> Placed:
    # A name may be no UTF-8, and then no id: its other bytes are written out.
    name = os.fsencode(file.relative_to(folder)).decode("utf-8", "backslashreplace")
    number = 0
    try:
        for part in read_document(file):
            for text in chunking.chunks(part.text):
                meta: dict[str, Any] = {"source": name}
                if part.page:
                    meta["page"] = part.page
                yield Passage(f"{name}#{number}", part.title, text, meta=meta), str(file)
                number += 1
    except BadInput as error:
        bad(error)
