"""Files that hold questions in other forms than lines of JSON: SQuAD's document, BEIR's folder.

They become the records that `neurorit.data.examples` parses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.jsonl import decode_line
from neurorit.data.dataset_formats import squad

QUERIES = "queries.jsonl"


def squad_document(path: Path) -> Mapping[str, Any] | None:
    """The document, where a file is SQuAD's own JSON (`data`, `paragraphs`, `qas`), else None.

    Lines of JSON are told from it by their first line alone, so that a large file is not read.
    """
    with open(path, encoding="utf-8-sig", errors="replace") as stream:
        first = stream.readline().strip()
        if not first.startswith("{"):
            return None
        try:
            document = json.loads(first)
        except (ValueError, RecursionError):
            # Written over many lines, as editors leave it; a broken line of JSON ends here too.
            try:
                document = json.loads(first + stream.read())
            except (ValueError, RecursionError):
                return None
    listed = document.get("data") if isinstance(document, dict) else None
    return document if isinstance(listed, list) and "question" not in document else None


def squad_records(document: Mapping[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each question that has an answer; its paragraph is the gold passage."""
    for number, article in enumerate(document["data"], start=1):
        where = f"{path}: article {number}"
        try:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    where = f"{path}: article {number}, question {asked['id']}"
                    row = {
                        "id": asked["id"],
                        "title": article.get("title"),
                        "context": paragraph["context"],
                        "question": asked["question"],
                        "answers": {"text": [a["text"] for a in asked["answers"]]},
                    }
                    found = squad(row, number)
                    if found.question is None:
                        continue
                    gold = [{**passage, "kind": "gold"} for passage in found.passages]
                    record = {k: v for k, v in found.question.items() if k != "gold"}
                    yield where, record | {"passages": gold}
        except (KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{where}: not in SQuAD's form: {error!r} is missing") from error


def beir_records(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of BEIR's queries; passages that `qrels` calls relevant are gold.

    BEIR is made for retrieval: only queries whose `metadata` holds an `answer` can be asked of a
    language model. Raises BadInput where none does, naming the file.
    """
    path = folder / QUERIES
    relevant = _relevant(folder)
    held = 0
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                row = decode_line(line)
                about = row.get("metadata") or {}
                answers = about.get("answers", about.get("answer"))
                record = {"id": row["_id"], "question": row["text"], "answers": answers}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f"{where}: no query of BEIR: {error!r}") from error
            if relevant and record["id"] not in relevant:
                continue
            if answers:
                held += 1
                yield where, record | {"meta": {"gold": relevant.get(record["id"], [])}}
    if not held:
        raise BadInput(
            f"{path}: its queries have no answers (`metadata.answer`); as a corpus the folder can "
            "be indexed, but to ask a model take a set with answers, such as `data fetch nq`"
        )


def _relevant(folder: Path) -> dict[str, list[str]]:
    """Query -> relevant passages, of the test split where there is one, else of any."""
    tables = sorted((folder / "qrels").glob("*.tsv"))
    chosen = [t for t in tables if t.stem == "test"] or tables[:1]
    found: dict[str, list[str]] = {}
    for path in chosen:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            parts = line.split("\t")
            if number == 1 and not parts[-1].strip().lstrip("-").isdigit():
                continue
            try:
                query, passage, grade = parts[0], parts[-2], int(parts[-1])
            except (IndexError, ValueError) as error:
                raise BadInput(f"{path}:{number}: no line of qrels: {error}") from error
            if grade > 0:
                found.setdefault(query, []).append(passage)
    return found
