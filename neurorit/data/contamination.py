"""Leakage between training and evaluation examples: the same question, or the same gold passage.

Questions are compared after normalisation, and as sets of words (Jaccard) for near duplicates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from neurorit.data.answers import answer_words, normalize_answer
from neurorit.data.examples import Example

_RARE = 400  # questions that share a word, above which the word says nothing


@dataclass(frozen=True)
class Leak:
    """An evaluation example that training has seen: how, by which example, and how alike (0-1)."""

    id: str
    kind: str
    train: str
    likeness: float


def find_leaks(
    train: Iterable[Example], evaluation: Iterable[Example], *, near: float = 0.8
) -> list[Leak]:
    """Leaks of the evaluation examples, in their order.

    kind: `question` (the same but for case, punctuation and articles), `near-question` (words of
    both overlap by at least `near`), `gold-id` and `gold-text` (a gold passage stood in a training
    example, whatever its kind there). One example may leak in several ways.
    """
    seen = Seen(train, near=near)
    return [leak for example in evaluation for leak in seen.leaks(example)]


def count_leaks(leaks: Sequence[Leak]) -> Mapping[str, int]:
    """Leaks by kind, and the number of examples that leak in any way."""
    counts: dict[str, int] = {"examples": len({leak.id for leak in leaks})}
    for kind in ("question", "near-question", "gold-id", "gold-text"):
        counts[kind] = sum(leak.kind == kind for leak in leaks)
    return counts


class Seen:
    """What the training examples hold, to look one example after the other up in it.

    near: overlap of the words of two questions from which on they are nearly the same.
    """

    def __init__(self, train: Iterable[Example], *, near: float = 0.8) -> None:
        self.near = near
        self.questions: dict[tuple[str, ...], str] = {}
        self.passage_ids: dict[str, str] = {}
        self.passage_texts: dict[str, str] = {}
        self._words: list[tuple[frozenset[str], str]] = []
        self._having: dict[str, list[int]] = defaultdict(list)
        for example in train:
            words = answer_words(example.question)
            if words not in self.questions:
                self.questions[words] = example.id
                for key in _keys(words):
                    self._having[key].append(len(self._words))
                self._words.append((frozenset(words), example.id))
            for identity in map(str, example.meta.get("gold") or ()):
                self.passage_ids.setdefault(identity, example.id)
            for passage in example.passages:
                self.passage_ids.setdefault(passage.id, example.id)
                self.passage_texts.setdefault(normalize_answer(passage.text), example.id)

    def leaks(self, example: Example) -> list[Leak]:
        """Every way in which this example was seen."""
        found: list[Leak] = []
        same = self.questions.get(answer_words(example.question))
        if same is not None:
            found.append(Leak(example.id, "question", same, 1.0))
        else:
            alike, likeness = self.nearest(example.question)
            if likeness >= self.near:
                found.append(Leak(example.id, "near-question", alike, likeness))
        for identity, text in _gold(example):
            if identity in self.passage_ids:
                found.append(Leak(example.id, "gold-id", self.passage_ids[identity], 1.0))
            elif text and text in self.passage_texts:
                found.append(Leak(example.id, "gold-text", self.passage_texts[text], 1.0))
        return found

    def nearest(self, question: str) -> tuple[str, float]:
        """The training question most alike, by the overlap of words; only rare words look it up."""
        asked = answer_words(question)
        words = frozenset(asked)
        rare = [self._having[key] for key in _keys(asked) if key in self._having]
        candidates = {row for rows in rare if len(rows) <= _RARE for row in rows}
        best, found = 0.0, ""
        for row in sorted(candidates):
            other, identity = self._words[row]
            likeness = len(words & other) / len(words | other)
            if likeness > best:
                best, found = likeness, identity
        return found, best


def _keys(words: Sequence[str]) -> set[str]:
    """What a question is looked up by: its words, and pairs of those that are one character.

    A text without spaces is parted into characters, of which most are in every question.
    """
    return {*words, *(f"{a} {b}" for a, b in pairwise(words) if len(a) == len(b) == 1)}


def _gold(example: Example) -> list[tuple[str, str]]:
    found = {str(identity): "" for identity in example.meta.get("gold") or ()}
    found |= {p.id: normalize_answer(p.text) for p in example.passages if p.kind == "gold"}
    return list(found.items())
