"""Examples on disk: JSONL, one example a line, and the published forms that are read as well."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from neurorit.core.artifact import MANIFEST, hash_inputs, read_manifest
from neurorit.core.errors import BadInput
from neurorit.core.jsonl import decode_line
from neurorit.data.examples import KINDS, Example, Passage
from neurorit.data.squad_beir import QUERIES, beir_records, squad_document, squad_records

ExampleSource = str | PathLike[str] | Iterable[Example | Mapping[str, Any]]
"""A file or what `mix` wrote, or examples (or their records) in memory."""


def examples_file(place: Path) -> Path:
    """The JSONL of what `mix` wrote, or the file (or BEIR's folder) itself.

    Raises ArtifactError where what `mix` wrote was changed afterwards: all that is made of it would
    be taken for what was made of the former one.
    """
    place = Path(place)
    if (place / MANIFEST).is_file():
        read_manifest(place, "examples")
    beir = (place / QUERIES).is_file() and not (place / "examples.jsonl").is_file()
    return place / "examples.jsonl" if place.is_dir() and not beir else place


def read_examples(path: Path) -> Iterator[Example]:
    """Stream examples (or bare questions); raises BadInput with file:line."""
    path = Path(path)
    seen: set[str] = set()
    for where, record in _records(path):
        try:
            example = parse_example(record)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{where}: not an example: {_reason(error)}") from error
        if example.id in seen:
            raise BadInput(f"{where}: the id {example.id!r} was used before")
        seen.add(example.id)
        yield example
    if not seen:
        raise BadInput(f"{path}: holds no example")


def load_examples(source: ExampleSource) -> list[Example]:
    """The examples of a file, of what `mix` wrote, or those in memory.

    Raises BadInput with file:line, or with the number of the one in memory (from 0), for a bad one.
    """
    if isinstance(source, (str, PathLike)):
        return list(read_examples(examples_file(Path(source))))
    if isinstance(source, Mapping):
        raise BadInput("examples: a single record was given; give a list of them")
    loaded: dict[str, Example] = {}
    for number, given in enumerate(source):
        try:
            example = given if isinstance(given, Example) else parse_example(given)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"examples[{number}]: not an example: {_reason(error)}") from error
        if example.id in loaded:
            raise BadInput(f"examples[{number}]: the id {example.id!r} was used before")
        loaded[example.id] = example
    if not loaded:
        raise BadInput("examples: there are none")
    return list(loaded.values())


def examples_name(source: ExampleSource) -> str:
    """What messages call them: their place, or `examples` in memory."""
    return fspath(source) if isinstance(source, (str, PathLike)) else "examples"


def examples_digest(source: ExampleSource, loaded: Iterable[Example]) -> str:
    """SHA-256 that tells examples from others: of their place, or of their records in memory."""
    if isinstance(source, (str, PathLike)):
        return hash_inputs(examples=Path(source))["examples"]
    digest = hashlib.sha256()
    for example in loaded:
        digest.update(json.dumps(example_record(example), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, decoded record) of a file or folder in any of the forms."""
    if (path / QUERIES).is_file():
        yield from beir_records(path)
        return
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    document = squad_document(path)
    if document is not None:
        yield from squad_records(document, path)
        return
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                record = decode_line(line)
            except ValueError as error:
                raise BadInput(f"{where}: not an example: {error}") from error
            yield where, record


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write JSONL to `path` (not atomic by itself: write inside an artifact); returns the count."""
    count = 0
    with open(path, "w", encoding="utf-8") as stream:
        for example in examples:
            stream.write(json.dumps(example_record(example), ensure_ascii=False) + "\n")
            count += 1
    return count


def parse_example(record: Any) -> Example:
    """An Example from one decoded JSON record; raises ValueError saying which field is wrong."""
    if not isinstance(record, dict):
        raise ValueError("the line is no JSON object")
    answers = record.get("answers", record.get("golden_answers"))
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, list) or not all(isinstance(a, str) and a for a in answers):
        raise ValueError("'answers' must be a list of non-empty strings")
    if not answers:
        raise ValueError("'answers' is empty")
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("'question' must be a non-empty string")
    if isinstance(record.get("id"), bool) or not isinstance(record.get("id"), (str, int)):
        raise ValueError("'id' must be a string")
    meta = record.get("meta", record.get("metadata")) or {}
    if not isinstance(meta, dict):
        raise ValueError("'meta' must be an object")
    if "gold" in record:
        meta = {**meta, "gold": record["gold"]}
    if not _are_ids(meta.get("gold") or []):
        raise ValueError("'gold' must be a list of passage ids")
    passages = record.get("passages") or []
    if not isinstance(passages, list):
        raise ValueError("'passages' must be a list")
    return Example(
        id=str(record["id"]),
        question=question,
        answers=tuple(answers),
        passages=tuple(_parse_passage(p) for p in passages),
        meta=meta,
    )


def example_record(example: Example) -> dict[str, Any]:
    """The JSON record of an example, in the contract's field order."""
    passages = []
    for p in example.passages:
        record: dict[str, Any] = {"id": p.id, "title": p.title, "text": p.text, "kind": p.kind}
        if p.meta:
            record["meta"] = dict(p.meta)
        passages.append(record)
    return {
        "id": example.id,
        "question": example.question,
        "answers": list(example.answers),
        "passages": passages,
        "meta": dict(example.meta),
    }


def _parse_passage(record: Any) -> Passage:
    if not isinstance(record, dict):
        raise ValueError("a passage is no JSON object")
    for name in ("id", "text"):
        if not isinstance(record.get(name), str):
            raise ValueError(f"a passage's '{name}' must be a string")
    if not isinstance(record.get("meta") or {}, dict):
        raise ValueError("a passage's 'meta' must be an object")
    kind = record.get("kind")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"passage kind {kind!r} is not one of {', '.join(KINDS)}")
    return Passage(
        id=record["id"],
        title=str(record.get("title") or ""),
        text=record["text"],
        kind=kind,
        meta=record.get("meta") or {},
    )


def _are_ids(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and all(isinstance(one, (str, int)) for one in given)


def _reason(error: Exception) -> str:
    return f"field {error} is missing" if isinstance(error, KeyError) else str(error)
