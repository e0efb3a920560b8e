"""HotpotQA as a corpus and questions, read with `datasets`: the paper's data for mining and tuning.

Every paragraph that comes with a question becomes a passage once; a question's gold passages are
those its supporting facts name. It knows nothing of indexes or noise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from retrieval.artifact import Manifest, writing
from retrieval.errors import BadInput

NAME, CONFIGURATION = "hotpotqa/hotpot_qa", "distractor"
SPLITS = ("train", "validation")


def load_rows(source: str, split: str) -> Any:
    """Rows of a split: from the hub by name, or from a folder that `save_to_disk` wrote.

    Raises BadInput when neither can be loaded.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        if Path(source).is_dir():
            found = load_from_disk(source)
            return found[split] if isinstance(found, DatasetDict) else found
        return load_dataset(source, CONFIGURATION, split=split)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"--source {source}: no HotpotQA there: {reason}") from error


def write_hotpotqa(
    out: Path,
    source: str = NAME,
    *,
    split: str = "train",
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write corpus.jsonl and questions.jsonl into `out`; returns what they hold.

    limit: only the first questions. Yes-or-no questions are left out and counted, since no passage
    holds their answers. Raises BadInput for an unknown split or rows of another form.
    """
    if split not in SPLITS:
        raise BadInput(f"--split {split}: it is one of {', '.join(SPLITS)}")
    rows = load_rows(source, split)
    made: dict[str, Any] = {"questions": 0, "passages": 0, "left_out_yes_or_no": 0}
    total = min(len(rows), limit) if limit is not None else len(rows)
    manifest = Manifest(
        kind="questions",
        command="neurorit-rag data hotpotqa",
        settings={"source": Path(source).name, "split": split, "limit": limit},
        made=made,
    )
    with writing(out, manifest, overwrite=overwrite) as folder:
        seen: set[str] = set()
        with (
            open(folder / "corpus.jsonl", "w", encoding="utf-8") as corpus,
            open(folder / "questions.jsonl", "w", encoding="utf-8") as questions,
        ):
            for number, row in enumerate(rows):
                if number == total:
                    break
                try:
                    passages, question = _convert(row)
                except (KeyError, TypeError, IndexError) as error:
                    raise BadInput(f"{source}, row {number}: not HotpotQA: {error!r}") from error
                for passage in passages:
                    if passage["id"] not in seen:
                        seen.add(passage["id"])
                        corpus.write(json.dumps(passage, ensure_ascii=False) + "\n")
                if question is None:
                    made["left_out_yes_or_no"] += 1
                else:
                    made["questions"] += 1
                    questions.write(json.dumps(question, ensure_ascii=False) + "\n")
                if progress is not None and (number % 100 == 99 or number + 1 == total):
                    progress(number + 1, total)
        made["passages"] = len(seen)
    return made


def _convert(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """A row's passages, and its question unless the answer is yes or no."""
    context = row["context"]
    passages = [
        _passage(title, sentences)
        for title, sentences in zip(context["title"], context["sentences"], strict=True)
    ]
    wanted = set(_titles(row["supporting_facts"]))
    if str(row["answer"]).strip().lower() in ("yes", "no"):
        return passages, None
    return passages, {
        "id": str(row["id"]),
        "question": str(row["question"]),
        "answers": [str(row["answer"])],
        "gold": [p["id"] for p in passages if p["title"] in wanted],
        "meta": {"type": row.get("type"), "level": row.get("level")},
    }


def _titles(facts: Mapping[str, Any]) -> Iterable[str]:
    titles: Iterable[str] = facts["title"]
    return titles


def _passage(title: str, sentences: Iterable[str]) -> dict[str, Any]:
    text = " ".join(sentence.strip() for sentence in sentences)
    digest = hashlib.sha256(f"{title}\n{text}".encode()).hexdigest()[:16]
    return {"id": digest, "title": title, "text": text}
