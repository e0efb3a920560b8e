"""Questions in other forms than records: SQuAD's document, BEIR's folder, tables of relevance.

They become the records that `neurorit.data.example_files` parses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NoReturn

from neurorit.core.errors import BadInput
from neurorit.data.formats.converters import squad
from neurorit.data.formats.record_files import read_rows
from neurorit.data.formats.text_files import numbered_lines

QUERIES = "queries.jsonl"
NOT_JUDGED, NOT_ANSWERED, IMPOSSIBLE = "not in the qrels", "no answer", "unanswerable"

LeftOut = MutableMapping[str, int]
"""Reason -> how many questions were not read for it."""


def is_squad_document(record: Any) -> bool:
    """Whether a decoded value is SQuAD's own document (`data`, `paragraphs`, `qas`)."""
    listed = record.get("data") if isinstance(record, Mapping) else None
    if not isinstance(listed, list) or "question" in record:
        return False
    flat = any(isinstance(one, Mapping) and "question" in one for one in listed)
    return not flat


def squad_rows(document: Mapping[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row as `datasets` has it) of each question of SQuAD's document."""
    for number, article in enumerate(document["data"], start=1):
        where = f"{path}: article {number}"
        try:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    where = f"{path}: article {number}, question {asked['id']}"
                    yield (
                        where,
                        {
                            "id": asked["id"],
                            "title": article.get("title"),
                            "context": paragraph["context"],
                            "question": asked["question"],
                            "answers": {"text": [a["text"] for a in asked["answers"]]},
                            "is_impossible": asked.get("is_impossible"),
                        },
                    )
        except KeyError as error:
            raise BadInput(f"{where}: not in SQuAD's form: {error} is missing") from error
        except (TypeError, AttributeError) as error:
            raise BadInput(
                f"{where}: not in SQuAD's form: articles hold `paragraphs` with `context` and "
                "`qas`, and these an id, a question and answers with a text"
            ) from error


def squad_records(
    document: Mapping[str, Any], path: Path, unanswerable: bool, left_out: LeftOut
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of each question; its paragraph is the gold passage.

    unanswerable: also those without an answer, whose paragraph is a distractor; else they are
    counted in left_out.
    """
    for number, (where, row) in enumerate(squad_rows(document, path)):
        try:
            converted = squad(row, number)
        except (ValueError, TypeError, AttributeError) as error:
            raise BadInput(f"{where}: not in SQuAD's form: an answer is no text") from error
        if converted.question is None or (
            converted.question.get("unanswerable") and not unanswerable
        ):
            _count(left_out, IMPOSSIBLE)
            continue
        kind = "distractor" if converted.question.get("unanswerable") else "gold"
        shown = [{**passage, "kind": kind} for passage in converted.passages]
        record = {k: v for k, v in converted.question.items() if k != "gold"}
        yield where, record | {"passages": shown}


def beir_records(
    folder: Path, unanswered: str, left_out: LeftOut
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, record) of BEIR's queries; passages that `qrels` calls relevant are gold.

    BEIR is made for retrieval: only queries whose `metadata` holds an `answer` can be asked of a
    language model; the others are counted in left_out. Raises BadInput where none does, naming the
    file, unless `unanswered` is `all`.
    """
    path = folder / QUERIES
    relevant = _relevant(folder)
    answered = 0
    for where, row in read_rows(path, _refuse, "a query"):
        if not isinstance(row, Mapping) or row.get("_id", row.get("id")) is None:
            raise BadInput(f"{where}: no query of BEIR: it has no '_id'")
        about = row.get("metadata") or {}
        if not isinstance(about, Mapping):
            raise BadInput(f"{where}: no query of BEIR: 'metadata' must be an object")
        answers = about.get("answers", about.get("answer"))
        identity = row.get("_id", row.get("id"))
        gold = relevant.get(str(identity), [])
        record: dict[str, Any] = {"id": identity, "question": row.get("text"), "meta": {}}
        if relevant and not gold:
            _count(left_out, NOT_JUDGED)
            continue
        if gold:
            record["meta"]["gold"] = gold
        if answers:
            record["answers"] = answers
        if answers or unanswered == "all":
            answered += 1
            yield where, record
        else:
            _count(left_out, NOT_ANSWERED)
    if not answered:
        told = "none of its queries is in the qrels"
        if unanswered != "all":
            told = (
                "its queries have no answers (`metadata.answer`); the folder can be indexed and "
                "its search measured; to ask a model take a set with answers: `data fetch nq`"
            )
        raise BadInput(f"{path}: {told}")


def read_qrels(path: Path) -> dict[str, list[str]]:
    """Query -> relevant passages of a table of relevance; raises BadInput with file:line.

    BEIR's form has three columns under a header (query, passage, grade), TREC's four (query,
    iteration, passage, grade), parted by tabs or spaces.
    """
    relevant: dict[str, list[str]] = {}
    first = True
    for number, line in numbered_lines(path, _refuse):
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise BadInput(f"{path}:{number}: no UTF-8 text at byte {error.start}") from error
        if not text.strip():
            continue
        parts = text.split("\t") if "\t" in text else text.split()
        header, first = first, False
        try:
            grade = float(parts[-1])
        except ValueError:
            if header:
                continue
            grade = None
        if grade is None or len(parts) not in (3, 4):
            raise BadInput(
                f"{path}:{number}: no line of qrels: {len(parts)} columns, of which the last is "
                f"{parts[-1]!r}; read are query, passage, grade, and TREC's query, 0, passage, "
                "grade"
            )
        if grade > 0:
            relevant.setdefault(parts[0].strip(), []).append(parts[-2].strip())
    return relevant


def _relevant(folder: Path) -> dict[str, list[str]]:
    """Of the test split where there is one, else of any."""
    places = [folder / "qrels", folder]
    tables = [
        table
        for place in places
        for suffix in ("tsv", "txt", "qrels", "qrel", "trec")
        for table in sorted(
            place.glob(f"*.{suffix}" if place.name == "qrels" else f"qrels*.{suffix}")
        )
    ]
    chosen = [table for table in tables if table.stem.endswith("test")] or tables
    return read_qrels(chosen[0]) if chosen else {}


def _count(left_out: LeftOut, reason: str) -> None:
    left_out[reason] = left_out.get(reason, 0) + 1


def _refuse(error: BadInput) -> NoReturn:
    raise error
