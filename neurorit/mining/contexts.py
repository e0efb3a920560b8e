"""The two contexts of an example, one with its gold passages and one of noise alone.

Mining compares neurons between them, and the causal check asks what a model answers from each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from neurorit.core.errors import BadInput
from neurorit.data.answers import held_answer
from neurorit.data.examples import Example, Passage
from neurorit.data.text import words

RELEVANT, IRRELEVANT = "rel", "irrel"
SIDES = (RELEVANT, IRRELEVANT)
_NOISE = ("distractor", "random", "near-duplicate")
_DERIVED = (
    "{}\nProposed answer: {}\n"
    "Can the proposed answer be derived from the passages? Reply with YES or NO."
)
_ALIKE = 1.5  # times as long as the gold passage is of like length


@dataclass(frozen=True)
class Context:
    """A question with one side's passages. key: side and example, unique."""

    key: str
    side: str
    question: str
    passages: tuple[Passage, ...]
    answers: tuple[str, ...]


def contexts(
    pool: Sequence[Example],
    most: int,
    noise_passages: int,
    seed: int,
    named: str = "examples",
    layout: str = "apart",
    task: str = "answer",
) -> Iterator[Context]:
    """Up to `most` contexts of each side, one per example and side, in an order from the seed.

    layout: "apart" shows the gold passages alone, or `noise_passages` of noise; "matched" shows as
    many passages on both sides (`noise_passages`, or as many as there are gold ones, where these
    are more): the same noise, with the gold passages in it or with noise of like length in their
    place. task: "yes-no" asks of every context whether the gold answer can be derived from it, and
    accepts YES. named: what the examples are called in messages. Raises BadInput when there is none
    of one side.
    """
    # Where nothing is the answer, there is none to attribute.
    pool = [example for example in pool if example.answers]
    matcher = _Matcher(pool, noise_passages) if layout == "matched" else None
    order = sorted(pool, key=lambda e: hashlib.sha256(f"{seed}/{e.id}".encode()).digest())
    for side in SIDES:
        found = 0
        for example in order:
            if found == most:
                break
            passages = (
                matcher.passages(example, side)
                if matcher is not None
                else _apart(example, side, noise_passages)
            )
            if passages:
                found += 1
                key = f"{side}/{example.id}"
                question, answers = example.question, example.answers
                if task == "yes-no":
                    question, answers = _DERIVED.format(question, answers[0]), ("YES",)
                yield Context(key, side, question, passages, answers)
        if not found:
            wanted = "a gold passage" if side == RELEVANT else "a distractor or random passage"
            raise BadInput(f"{named}: no example holds {wanted}; mix some with `neurorit-rag mix`")


def _apart(example: Example, side: str, noise: int) -> tuple[Passage, ...]:
    return _gold(example) if side == RELEVANT else _noise(example)[:noise]


def _gold(example: Example) -> tuple[Passage, ...]:
    return tuple(p for p in example.passages if p.kind == "gold")


def _noise(example: Example) -> tuple[Passage, ...]:
    return tuple(p for p in example.passages if p.kind in _NOISE)


class _Matcher:
    """Passages of both sides in equal number, order and length, from a pool of examples.

    An example with too little noise of its own borrows other examples', which holds no answer.
    """

    def __init__(self, pool: Sequence[Example], noise_passages: int) -> None:
        golds = [len(_gold(example)) for example in pool]
        usual = median(count for count in golds if count) if any(golds) else 1
        self._count = max(noise_passages, round(usual))
        others = {(p.title, p.text): p for example in pool for p in _noise(example)}
        self._pool = sorted(others.values(), key=lambda p: (_length(p), p.id))

    def passages(self, example: Example, side: str) -> tuple[Passage, ...]:
        """The passages of one side; none where the example lacks what the side is made of."""
        gold, noise = _gold(example), list(_noise(example))
        if not (gold if side == RELEVANT else noise):
            return ()
        count = max(self._count, len(gold))
        lengths = [_length(p) for p in gold] or [_length(noise[0])]
        beside = noise[: count - len(gold)]
        left = noise[len(beside) :]
        while len(beside) < count - len(gold):
            beside.append(self._borrowed(example, beside, lengths[0]))
        if not gold:
            return tuple(beside)
        shown = list(gold)
        if side == IRRELEVANT:
            shown = []
            for length in lengths:
                near = [p for p in left if _alike(_length(p), length)]
                taken = (
                    min(near, key=lambda p: abs(_length(p) - length))
                    if near
                    else self._borrowed(example, [*beside, *shown], length)
                )
                left = [p for p in left if p is not taken]
                shown.append(taken)
        # The gold passages' place among the others is the example's own.
        first = next(i for i, p in enumerate(example.passages) if p.kind == "gold")
        before = min(len(beside), sum(p in beside for p in example.passages[:first]))
        return (*beside[:before], *shown, *beside[before:])

    def _borrowed(self, example: Example, shown: Sequence[Passage], length: int) -> Passage:
        """The noise of the pool whose length is nearest, and which neither answers nor is shown.

        Raises BadInput where there is none.
        """
        texts = {(p.title, p.text) for p in (*shown, *example.passages)}
        near = sorted(self._pool, key=lambda p: abs(_length(p) - length))
        for passage in near:
            if (passage.title, passage.text) in texts:
                continue
            if held_answer(f"{passage.title} {passage.text}", example.answers) is None:
                return Passage(passage.id, passage.title, passage.text, "random")
        raise BadInput(
            f"mine: the examples hold too little noise for {self._count} passages in a context; "
            "mix more, lower `noise_passages`, or set `layout` to apart"
        )


def _length(passage: Passage) -> int:
    return len(words(passage.text))


def _alike(one: int, other: int) -> bool:
    return max(one, other) <= _ALIKE * max(1, min(one, other))
