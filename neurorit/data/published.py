"""Published question-answering data as a corpus and questions, read with `datasets` or from a file.

A data set is known by its name, or given as a source in one of the known forms.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from neurorit.core.artifact import Manifest, writing
from neurorit.core.errors import BadInput
from neurorit.data.formats.converters import FORMATS
from neurorit.data.formats.hf_datasets import load_rows
from neurorit.data.formats.record_files import read_rows
from neurorit.data.formats.squad_beir import is_squad_document, squad_rows

CORPUS, QUESTIONS = "corpus.jsonl", "questions.jsonl"


@dataclass(frozen=True)
class Published:
    """Where a data set is on the hub, its configuration and usual split, and the rows' form."""

    source: str
    configuration: str | None
    split: str
    form: str


_FLASHRAG, _KILT = "RUC-NLPIR/FlashRAG_datasets", "facebook/kilt_tasks"
KNOWN: dict[str, Published] = {
    "hotpotqa": Published("hotpotqa/hotpot_qa", "distractor", "train", "hotpotqa"),
    "squad": Published("rajpurkar/squad", None, "train", "squad"),
    "nq": Published(_FLASHRAG, "nq", "test", "flashrag"),
    "triviaqa": Published(_FLASHRAG, "triviaqa", "test", "flashrag"),
    "popqa": Published(_FLASHRAG, "popqa", "test", "flashrag"),
    "asqa": Published("din0s/asqa", None, "dev", "asqa"),
    "kilt-nq": Published(_KILT, "nq", "validation", "kilt"),
    "kilt-hotpotqa": Published(_KILT, "hotpotqa", "validation", "kilt"),
}


def write_published(
    name: str,
    out: Path,
    *,
    source: str | None = None,
    configuration: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write questions.jsonl, and corpus.jsonl where the set has passages; returns what they hold.

    name: one of `KNOWN`, or a form of `FORMATS` with a source: a hub name, a folder that
    `save_to_disk` wrote, or a file of JSON lines. limit: only the first rows. Questions of the kind
    that no passage can answer are left out and counted. Raises BadInput, naming the row.
    """
    known = KNOWN.get(name)
    form = known.form if known else name
    if form not in FORMATS:
        raise BadInput(
            f"no data set or form {name!r}: known sets are {', '.join(KNOWN)}; forms for ‹source› "
            f"are {', '.join(FORMATS)}"
        )
    if known is None and source is None:
        raise BadInput(f"{name} is a form of rows: name where they are with ‹source›")
    place = source or (known.source if known else "")
    if configuration is None and known and source is None:
        configuration = known.configuration
    split = split or (known.split if known else "train")
    rows, total = _rows(place, configuration, split)
    total = min(total, limit) if limit is not None else total
    made: dict[str, Any] = {"questions": 0, "passages": 0}
    manifest = Manifest(
        kind="questions",
        command="neurorit-rag data fetch",
        settings={
            "name": name,
            "source": Path(place).name if Path(place).exists() else place,
            "configuration": configuration,
            "split": split,
            "limit": limit,
        },
        made=made,
    )
    convert = FORMATS[form]
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    asked: set[str] = set()
    with writing(out, manifest, overwrite=overwrite) as folder:
        with (
            open(folder / CORPUS, "w", encoding="utf-8") as corpus,
            open(folder / QUESTIONS, "w", encoding="utf-8") as questions,
        ):
            for number, (where, row) in enumerate(rows):
                if number == total:
                    break
                try:
                    found = convert(row, number)
                except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
                    reason = _form_reason(error, row)
                    raise BadInput(f"{where}: not in the form {form}: {reason}") from error
                for passage in found.passages:
                    if passage["id"] not in seen:
                        seen.add(passage["id"])
                        corpus.write(json.dumps(passage, ensure_ascii=False) + "\n")
                if found.question is None:
                    left_out[found.why] += 1
                elif found.question["id"] in asked:
                    left_out["id used before"] += 1
                else:
                    asked.add(found.question["id"])
                    questions.write(json.dumps(found.question, ensure_ascii=False) + "\n")
                if progress is not None and (number % 100 == 99 or number + 1 == total):
                    progress(number + 1, total)
        if not asked:
            raise BadInput(f"{place}: holds no question that can be asked")
        if not seen:
            (folder / CORPUS).unlink()
        made["questions"], made["passages"] = len(asked), len(seen)
        made["left_out"] = dict(sorted(left_out.items()))
    return dict(made)


def _rows(
    source: str, configuration: str | None, split: str
) -> tuple[Iterator[tuple[str, Mapping[str, Any]]], int]:
    """Rows with where each stands, and how many there are."""
    path = Path(source)
    if path.is_file():
        return _file_rows(path), sum(1 for _ in _file_rows(path))
    rows = load_rows(source, configuration, split)
    return ((f"{source}, row {number}", row) for number, row in enumerate(rows)), len(rows)


def _file_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a file of records, of an array, and of SQuAD's document."""
    for where, row in read_rows(path, _refuse, "a row"):
        if is_squad_document(row):
            yield from squad_rows(row, path)
        elif isinstance(row, dict):
            yield where, row
        else:
            raise BadInput(f"{where}: no row: it is no JSON object")


def _refuse(error: BadInput) -> NoReturn:
    raise error


def _form_reason(error: Exception, row: Mapping[str, Any]) -> str:
    """What is wrong with a row, in words of the data's makers."""
    if isinstance(error, KeyError):
        seen = ", ".join(map(str, list(row)[:12])) or "none"
        return f"the field {error} is missing; it has {seen}"
    if isinstance(error, ValueError):
        return str(error)
    return "a field is of another kind than in that form"
