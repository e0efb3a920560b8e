"""Sentences that no passage supports: what their words leave in doubt, a judge is asked about.

The words are compared by `neurorit.data.support`. Where there is no judge, or it gives no verdict,
a sentence stays marked as the words say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from neurorit.data.citations import without_citations
from neurorit.data.examples import Passage
from neurorit.data.support import Support, support_of
from neurorit.eval.judges.judge import CachedJudge, Judge
from neurorit.eval.predictions import Item


@runtime_checkable
class SupportJudge(Protocol):
    """A judge that can be asked whether passages say what a sentence says."""

    def of_support(self) -> Judge:
        """The same judge; of an item it is shown the passages as references, and a sentence."""
        ...


class Answered(NamedTuple):
    """An answer with the passages that its system was shown."""

    question: str
    answer: str
    passages: Sequence[Passage]


def support_judge(judge: CachedJudge | None) -> CachedJudge | None:
    """A judge that is asked about sentences, its verdicts cached; None where it cannot be."""
    if judge is None or not isinstance(judge.judge, SupportJudge):
        return None
    return CachedJudge(judge.judge.of_support(), judge.cache)


def judge_support(
    judge: Judge | None,
    answers: Sequence[Answered],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[list[tuple[int, int]]], dict[str, Any]]:
    """(for each answer where its unsupported sentences begin and end, counts of sentences).

    judge: from `support_judge` or `SupportJudge.of_support`. The counts: `sentences`,
    `unsupported`, `doubtful` by their words, of these `judged` and `unscored`, and the `judge`.
    Equal sentences over the same passages are asked about once.
    """
    found = [support_of(one.answer, one.passages, one.question) for one in answers]
    items = [
        [_item(one, sentence) if sentence.doubtful else None for sentence in sentences]
        for one, sentences in zip(answers, found, strict=True)
    ]
    asked = list(dict.fromkeys(item for of_one in items for item in of_one if item is not None))
    said: dict[Item, str] = {}
    if judge is not None and asked:
        said = dict(zip(asked, judge.decide(asked, progress), strict=True))
    spans, verdicts = [], []
    for sentences, of_one in zip(found, items, strict=True):
        marked = []
        for sentence, item in zip(sentences, of_one, strict=True):
            supported = sentence.supported
            if item is not None:
                verdicts.append(said.get(item, ""))
                supported = {"right": True, "wrong": False}.get(verdicts[-1], supported)
            if not supported:
                marked.append((sentence.start, sentence.end))
        spans.append(marked)
    counts = {
        "sentences": sum(map(len, found)),
        "unsupported": sum(map(len, spans)),
        "doubtful": len(verdicts),
        "judged": sum(verdict in ("right", "wrong") for verdict in verdicts),
        "unscored": verdicts.count("unscored"),
        "judge": judge.name if judge is not None else None,
    }
    return spans, counts


def _item(one: Answered, sentence: Support) -> Item:
    shown = tuple(f"{p.title}: {p.text}" if p.title else p.text for p in one.passages)
    text = without_citations(one.answer[sentence.start : sentence.end])
    return Item(one.question, shown, text)
