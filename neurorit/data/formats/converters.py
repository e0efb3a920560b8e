"""Rows of published question-answering data in their own forms, as passages and questions.

Each converter takes one decoded row and says what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from neurorit.core.hashing import content_id
from neurorit.data.answers import answer_texts

_MOST_JOINED = 64


@dataclass(frozen=True)
class Converted:
    """What a row holds: passages for the corpus, and the question (None: left out, `why` says so).

    A passage is a record `id`, `title`, `text`; a question one of `neurorit.data.examples`.
    """

    passages: list[dict[str, Any]] = field(default_factory=list)
    question: dict[str, Any] | None = None
    why: str = ""


Convert = Callable[[Mapping[str, Any], int], Converted]


def hotpotqa(row: Mapping[str, Any], number: int) -> Converted:
    """HotpotQA: every paragraph is a passage; gold ones are named by the supporting facts."""
    context, facts = row["context"], row["supporting_facts"]
    # The hub has columns, the file of its makers pairs.
    if isinstance(context, Mapping):
        context = list(zip(context["title"], context["sentences"], strict=True))
    titles = facts["title"] if isinstance(facts, Mapping) else [title for title, _ in facts]
    passages = [
        passage(title, " ".join(sentence.strip() for sentence in sentences))
        for title, sentences in context
    ]
    if str(row["answer"]).strip().lower() in ("yes", "no"):
        # No passage holds such an answer, so no noise could be told from evidence.
        return Converted(passages, why="yes or no")
    wanted = set(titles)
    return Converted(
        passages,
        _question(
            row.get("id", row.get("_id")),
            row["question"],
            [row["answer"]],
            gold=[p["id"] for p in passages if p["title"] in wanted],
            meta={"type": row.get("type"), "level": row.get("level")},
        ),
    )


def squad(row: Mapping[str, Any], number: int) -> Converted:
    """SQuAD 1.1 and 2.0: the context is the gold passage; without answer, it is unanswerable."""
    found = passage(str(row.get("title") or "").replace("_", " "), row["context"])
    answers = _unique(row["answers"]["text"])
    if not answers:
        asked = _question(row["id"], row["question"], [], meta={"title": found["title"] or None})
        return Converted([found], asked | {"unanswerable": True})
    return Converted(
        [found],
        _question(
            row["id"],
            row["question"],
            answers,
            gold=[found["id"]],
            # Questions of one article stand together: what intervals are clustered by.
            meta={"title": found["title"] or None},
        ),
    )


def flashrag(row: Mapping[str, Any], number: int) -> Converted:
    """FlashRAG's form of any set: `question` and `golden_answers`; no passages of its own."""
    choices = _listed(row.get("choices"))
    answers = answer_texts(row["golden_answers"], choices)
    if not answers:
        return Converted(why="no answer")
    meta = {"choices": choices or None}
    return Converted([], _question(row.get("id", number), row["question"], answers, meta=meta))


def kilt(row: Mapping[str, Any], number: int) -> Converted:
    """KILT and BERGEN: `input`, and `output` with answers and the Wikipedia pages they stand on."""
    outputs = row["output"]
    answers = _unique(str(one.get("answer") or "") for one in outputs)
    if not answers:
        return Converted(why="no answer")
    pages = _unique(
        str(place.get("wikipedia_id") or "")
        for one in outputs
        for place in one.get("provenance") or ()
    )
    meta = {"wikipedia": pages} if pages else {}
    return Converted([], _question(row["id"], row["input"], answers, meta=meta))


def asqa(row: Mapping[str, Any], number: int) -> Converted:
    """ASQA: an ambiguous question; the short answer of any of its readings is accepted.

    The readings stay in `meta`, for the share of them that an answer recalls.
    """
    pairs = row["qa_pairs"]
    answers = _unique(answer for pair in pairs for answer in pair["short_answers"])
    if not answers:
        return Converted(why="no answer")
    parts = [_unique(pair["short_answers"]) for pair in pairs if pair["short_answers"]]
    meta = {"readings": parts}
    return Converted(
        [], _question(row.get("sample_id", number), row["ambiguous_question"], answers, meta=meta)
    )


def rgb(row: Mapping[str, Any], number: int) -> Converted:
    """RGB (Chen et al. 2024): questions that bring their own passages.

    `positive` ones are gold, `negative` ones distractors, `positive_wrong` ones counterfactual.
    Several answers are parts, all of which a right answer holds; each part may have other forms.
    """
    parts = [_unique([one] if isinstance(one, str) else one) for one in _listed(row["answer"])]
    parts = [part for part in parts if part]
    if not parts:
        return Converted(why="no answer")
    wrong = _listed(row.get("positive_wrong"))
    shown = [
        *_typed(_each_first(row["positive"], len(parts)), "gold"),
        *_typed(_listed(row.get("negative")), "distractor"),
        *_typed(wrong, "counterfactual"),
    ]
    joined = [" and ".join(chosen) for chosen in islice(product(*parts), _MOST_JOINED)]
    question = _question(row.get("id", number), row["query"], _unique(joined))
    if len(parts) > 1:
        question["meta"]["parts"] = parts
    if row.get("fakeanswer"):
        question["meta"]["false_answer"] = row["fakeanswer"]
    return Converted([], question | {"passages": shown})


FORMATS: dict[str, Convert] = {
    one.__name__: one for one in (hotpotqa, squad, flashrag, kilt, asqa, rgb)
}


def passage(title: str, text: str) -> dict[str, Any]:
    """A passage whose id is the hash of its content."""
    return {"id": content_id(title, text), "title": title, "text": text}


def _question(
    identity: Any,
    question: str,
    answers: Sequence[str],
    *,
    gold: Sequence[str] = (),
    meta: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    if not isinstance(question, str) or not question.strip():
        raise ValueError("the question is empty")
    record: dict[str, Any] = {
        "id": str(identity),
        "question": question.strip(),
        "answers": [str(answer) for answer in answers],
    }
    if gold:
        record["gold"] = list(gold)
    kept = {key: value for key, value in (meta or {}).items() if value is not None}
    return record | {"meta": kept}


def _typed(texts: Iterable[str], kind: str) -> list[dict[str, Any]]:
    found = [passage("", text) | {"kind": kind} for text in texts if text.strip()]
    return list({one["id"]: one for one in found}.values())


def _each_first(positive: Any, parts: int) -> list[str]:
    """The gold texts: all that are given, or for an answer of several parts one for each."""
    given = _listed(positive)
    if parts > 1 and all(isinstance(one, list) for one in given):
        return [one[0] for one in given if one]
    return [text for one in given for text in ([one] if isinstance(one, str) else one)]


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _unique(texts: Iterable[str]) -> list[str]:
    """Without empty ones and repeats, in order."""
    return list(dict.fromkeys(text.strip() for text in texts if text.strip()))
