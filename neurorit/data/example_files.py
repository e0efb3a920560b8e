"""Examples on disk: JSONL, one example a line, and the published forms that are read as well.

| form | what is read |
|---|---|
| ours | `id`, `question`, `answers`, `gold`, `passages`, `meta`; JSONL, JSON, CSV, Parquet |
| FlashRAG | `golden_answers`, numbers and booleans too; of `choices` their texts |
| AutoRAG's qa.parquet | `qid`, `query`, `generation_gt`, `retrieval_gt` |
| SQuAD, also 2.0 | its document; what is marked impossible is unanswerable |
| BEIR's folder | `queries.jsonl`, answers in `metadata`, qrels of BEIR's and TREC's form |
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, NoReturn

from neurorit.core.artifact import MANIFEST, hash_inputs, read_manifest
from neurorit.core.errors import BadInput
from neurorit.core.hashing import content_id
from neurorit.data.answers import answer_texts
from neurorit.data.examples import NOISE, Example, Passage, passage_kinds
from neurorit.data.formats.record_files import TABLES, read_rows
from neurorit.data.formats.squad_beir import (
    QUERIES,
    LeftOut,
    beir_records,
    is_squad_document,
    squad_records,
)

Unanswered = Literal["refused", "unanswerable", "all"]

_IDS = ("id", "_id", "qid", "question_id", "query_id", "questionid")
_QUESTIONS = ("question", "query", "text", "user_input")
_ANSWERS = (
    *("answers", "golden_answers", "answer", "generation_gt"),
    *("ground_truth", "ground_truths", "reference"),
)
_NO_ANSWER = "No Answer Present."  # as MS MARCO says it
_LISTS = ("questions", "examples", "queries", "data")
_GOLD = ("gold", "retrieval_gt")
_CELLS = ("choices", "passages", "meta", "metadata", "unanswerable", "is_impossible")
# Where other tools keep passages: what is read without them is no longer the same example.
_ELSEWHERE = (
    *("positive_ctxs", "ctxs", "contexts", "context", "documents", "docs", "gold_ids"),
    *("reference_contexts", "positives", "positive_passages", "relevant_docs"),
)
_READ = "read are id, question, answers, gold, passages and meta"
# Forms that hold more than questions: `data fetch` makes questions and a corpus of them.
_FETCHED = {
    "hotpotqa": {"supporting_facts", "context"},
    "kilt": {"input", "output"},
    "asqa": {"ambiguous_question", "qa_pairs"},
    "rgb": {"query", "positive", "negative"},
    "squad": {"context", "question", "answers"},
}

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


def read_examples(
    path: Path, *, unanswered: Unanswered = "refused", left_out: LeftOut | None = None
) -> Iterator[Example]:
    """Stream examples (or bare questions); raises BadInput with file:line.

    unanswered: what becomes of questions without an answer: all `refused` (of SQuAD's document
    those that are impossible are left out), `unanswerable` ones read, or `all` read, where answers
    are not looked at. left_out: counts, by their reason, the questions of SQuAD's document and of
    BEIR's folder that are not read.
    """
    path = Path(path)
    seen: set[str] = set()
    for where, record in _records(path, unanswered, {} if left_out is None else left_out):
        try:
            example = parse_example(record, unanswered)
        except ValueError as error:
            raise BadInput(f"{where}: not an example: {error}") from error
        if example.id in seen:
            raise BadInput(f"{where}: {_used(example)}")
        seen.add(example.id)
        yield example
    if not seen:
        raise BadInput(f"{path}: holds no example")


def load_examples(source: ExampleSource, *, left_out: LeftOut | None = None) -> list[Example]:
    """The examples of a file, of what `mix` wrote, or those in memory; also unanswerable ones.

    left_out: as in `read_examples`.
    Raises BadInput with file:line, or with the number of the one in memory (from 0), for a bad one.
    """
    if isinstance(source, (str, PathLike)):
        place = examples_file(Path(source))
        return list(read_examples(place, unanswered="unanswerable", left_out=left_out))
    if isinstance(source, Mapping):
        raise BadInput("examples: a single record was given; give a list of them")
    spent = ", or what gives them was read through before" if isinstance(source, Iterator) else ""
    loaded: dict[str, Example] = {}
    for number, given in enumerate(source):
        try:
            record = example_record(given) if isinstance(given, Example) else given
            example = parse_example(record, "unanswerable")
        except ValueError as error:
            raise BadInput(f"examples[{number}]: not an example: {error}") from error
        example = given if isinstance(given, Example) else example
        if example.id in loaded:
            raise BadInput(f"examples[{number}]: {_used(example)}")
        loaded[example.id] = example
    if not loaded:
        raise BadInput(f"examples: there are none{spent}")
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


def _records(path: Path, unanswered: Unanswered, left_out: LeftOut) -> Iterator[tuple[str, Any]]:
    """(file:line, decoded record) of a file or folder in any of the forms."""
    if (path / QUERIES).is_file():
        yield from beir_records(path, unanswered, left_out)
        return
    if not path.is_file():
        told = f"a folder without {QUERIES} or examples.jsonl" if path.is_dir() else "no such file"
        raise BadInput(f"{path}: {told}")
    is_table = path.name.lower().removesuffix(".gz").endswith(TABLES)
    needed = _QUESTIONS if is_table else ()
    for where, record in read_rows(path, _refuse, "an example", needed=needed):
        if is_squad_document(record):
            yield from squad_records(record, path, unanswered != "refused", left_out)
        elif listed := _listed(record):
            name, members = listed
            yield from ((f"{where}, {name}[{i}]", one) for i, one in enumerate(members))
        else:
            yield where, _read_cells(record) if is_table else record


def _listed(record: Any) -> tuple[str, list[Any]] | None:
    """The one list of questions that an object holds, as TriviaQA's and other files do."""
    if not isinstance(record, Mapping) or any(name in record for name in _QUESTIONS):
        return None
    lists = ((name, one) for name, one in record.items() if str(name).lower() in _LISTS)
    return next(((name, one) for name, one in lists if isinstance(one, list)), None)


def _used(example: Example) -> str:
    if example.id == content_id("", example.question):
        return "its question was asked before, and it has no id of its own"
    return f"the id {example.id!r} was used before"


def _read_cells(row: Mapping[str, str]) -> dict[str, Any]:
    """A row of texts with its lists and objects as such, and without what is empty."""
    record: dict[str, Any] = dict(row)
    for name in (*_ANSWERS, *_GOLD, *_CELLS):
        cell = row.get(name, "").strip()
        if not cell:
            record.pop(name, None)
        elif cell.lower() in ("true", "false") and name in ("unanswerable", "is_impossible"):
            record[name] = cell.lower() == "true"
        elif cell[0] in "[{":
            try:
                record[name] = json.loads(cell)
            except ValueError:  # as Python prints it, and so do many tables
                with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                    record[name] = ast.literal_eval(cell)
    return record


def _refuse(error: BadInput) -> NoReturn:
    raise error


def write_examples(path: Path, examples: Iterable[Example]) -> int:
    """Write JSONL to `path` (not atomic by itself: write inside an artifact); returns the count."""
    count = 0
    with open(path, "w", encoding="utf-8") as stream:
        for example in examples:
            stream.write(json.dumps(example_record(example), ensure_ascii=False) + "\n")
            count += 1
    return count


def parse_example(record: Any, unanswered: Unanswered = "refused") -> Example:
    """An Example from one decoded JSON record; raises ValueError saying which field is wrong."""
    if not isinstance(record, Mapping):
        raise ValueError("it is no JSON object")
    record = in_small_letters(record)
    question = _first(record, _QUESTIONS)
    if question is None or _form_of(record):
        raise ValueError(_unknown(record))
    if not isinstance(question, str) or not question.strip():
        raise ValueError("'question' must be a non-empty string")
    named = any(name in record for name in _IDS)
    identity = id_text(_first(record, _IDS), "'id'") if named else content_id("", question)
    meta = record.get("meta", record.get("metadata")) or {}
    if isinstance(meta, str):  # tables keep it as JSON
        with suppress(ValueError):
            meta = json.loads(meta)
    if not isinstance(meta, Mapping):
        raise ValueError("'meta' must be an object")
    answers = _answers(record)
    meta = {**meta, **_marked(record, meta, answers)}
    if not answers:
        _check_unanswered(record, bool(meta.get("unanswerable")), unanswered)
    for name in ("parts", "readings"):
        _check_parts(meta, name)
    facts = meta.get("nuggets", [])
    if not isinstance(facts, list) or not all(isinstance(f, str) and f.strip() for f in facts):
        raise ValueError("'meta.nuggets' must be a list of texts, a fact each")
    given = _first(record, _GOLD)
    if given is None:
        given = meta.get("gold")
    if given is not None:
        meta["gold"] = _gold_ids(given)
    passages = record.get("passages") or []
    if not isinstance(passages, list):
        raise ValueError("'passages' must be a list")
    elsewhere = next((name for name in _ELSEWHERE if record.get(name)), None)
    if elsewhere and not passages and "gold" not in meta:
        raise ValueError(
            f"its passages stand in {elsewhere!r}, which is not read: put them into 'passages' "
            "(id, title, text and kind), or the ids of the right ones into 'gold'"
        )
    return Example(
        id=identity,
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


def in_small_letters(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """A record whose names may be in capitals (ID, Text); a name as it stands goes first."""
    if all(str(name).islower() for name in record):
        return record
    return {str(name).lower(): value for name, value in record.items()} | dict(record)


def id_text(given: Any, what: str) -> str:
    """An id as text: of a text or a whole number; raises ValueError for any other."""
    if isinstance(given, float) and given.is_integer():
        given = int(given)  # tables with a gap make whole numbers fractions
    if isinstance(given, bool) or not isinstance(given, (str, int)) or given == "":
        raise ValueError(f"{what} must be a non-empty string or a whole number")
    return str(given)


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _answers(record: Mapping[str, Any]) -> list[str]:
    given = _first(record, _ANSWERS)
    if isinstance(given, Mapping):  # as `datasets` has SQuAD's
        given = given.get("text", given)
        small = in_small_letters(given) if isinstance(given, Mapping) else {}
        if isinstance(small.get("value"), str):  # TriviaQA's
            aliases = small.get("aliases")
            given = [small["value"], *(aliases if isinstance(aliases, list) else [])]
    if isinstance(given, Mapping):
        seen = ", ".join(map(repr, given))
        raise ValueError(f"'answers' must be a list, not an object of {seen}")
    choices = record.get("choices")
    texts = answer_texts(given, choices if isinstance(choices, list) else ())
    return [] if texts == [_NO_ANSWER] else texts


def _marked(
    record: Mapping[str, Any], meta: Mapping[str, Any], answers: list[str]
) -> dict[str, Any]:
    """What goes into `meta` of what stands beside it; a list of no answers says there is none."""
    kept: dict[str, Any] = {}
    if isinstance(record.get("choices"), list) and record["choices"]:
        kept["choices"] = record["choices"]
    told = record.get("unanswerable", record.get("is_impossible", meta.get("unanswerable")))
    if told is not None and not isinstance(told, bool):
        raise ValueError("'unanswerable' must be true or false")
    if told and answers:
        raise ValueError("it is said to be unanswerable and has answers")
    none = any(record.get(name) in ([], [_NO_ANSWER]) for name in _ANSWERS)
    if told or (told is None and none and not answers):
        kept["unanswerable"] = True
    return kept


def _check_unanswered(
    record: Mapping[str, Any], unanswerable: bool, unanswered: Unanswered
) -> None:
    if unanswered == "all" or (unanswerable and unanswered == "unanswerable"):
        return
    if unanswerable:
        raise ValueError("'answers' is empty: an unanswerable question is of no use here")
    raise ValueError(
        f"it has no 'answers' (its fields are {_seen(record)}); without them a search can be "
        'measured (`search --questions`), and an unanswerable question has "answers": []'
    )


def _unknown(record: Mapping[str, Any]) -> str:
    """What is said of a record in another form."""
    if form := _form_of(record):
        return (
            f"it is in the form of {form}: "
            f"`neurorit-rag data fetch {form} --source FILE --out DIR` makes questions of it"
        )
    return f"it has no 'question'; its fields are {_seen(record)}; {_READ}"


def _seen(record: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, record))[:12]) or "none"


def _form_of(record: Mapping[str, Any]) -> str:
    """The published form whose fields a record has, with passages that would be lost here."""
    for form, fields in _FETCHED.items():
        brought = fields <= record.keys() and "passages" not in record
        kind = {"squad": ("answers", Mapping), "kilt": ("output", list)}.get(form)
        if brought and (kind is None or isinstance(record[kind[0]], kind[1])):
            return form
    return ""


def _gold_ids(given: Any) -> list[str]:
    """Ids of gold passages: of one, a list, or AutoRAG's lists of lists."""
    listed = given if isinstance(given, (list, tuple)) else [given]
    if isinstance(given, Mapping) and all(isinstance(one, (int, float)) for one in given.values()):
        listed = [name for name, grade in given.items() if grade > 0]  # as qrels are kept
    flat = [x for one in listed for x in (one if isinstance(one, (list, tuple)) else [one])]
    return list(dict.fromkeys(id_text(one, "an id in 'gold'") for one in flat))


def _check_parts(meta: Mapping[str, Any], name: str) -> None:
    """Raise ValueError where a field of the user's own has the name of one that scores read."""
    given = meta.get(name)
    if given is None or given == []:
        return
    listed = isinstance(given, list) and all(isinstance(part, list) and part for part in given)
    if not listed or not all(isinstance(form, str) and form for part in given for form in part):
        raise ValueError(
            f"'meta.{name}' is read as the parts of an answer, each a list of its forms; call a "
            "field of your own otherwise"
        )


def _parse_passage(record: Any) -> Passage:
    if not isinstance(record, Mapping):
        raise ValueError("a passage is no JSON object")
    if not isinstance(record.get("text"), str):
        raise ValueError("a passage's 'text' must be a string")
    if not isinstance(record.get("meta") or {}, Mapping):
        raise ValueError("a passage's 'meta' must be an object")
    kind = record.get("kind")
    if kind is not None and kind != "gold" and kind not in NOISE:
        raise ValueError(f"passage kind {kind!r} is not one of {', '.join(passage_kinds())}")
    return Passage(
        id=id_text(record.get("id"), "a passage's 'id'"),
        title=str(record.get("title") or ""),
        text=record["text"],
        kind=kind,
        meta=record.get("meta") or {},
    )
