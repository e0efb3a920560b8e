"""The two contexts of an example: its gold passages alone, and noise alone.

Mining compares neurons between them, and the causal check asks what a model answers from each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from neurorit.core.errors import BadInput
from neurorit.data.answers import held_answer
from neurorit.data.examples import Example, Passage

RELEVANT, IRRELEVANT = "rel", "irrel"
SIDES = (RELEVANT, IRRELEVANT)
_NOISE = ("distractor", "random", "near-duplicate")


@dataclass(frozen=True)
class Context:
    """A question with one side's passages. key: side and example, unique."""

    key: str
    side: str
    question: str
    passages: tuple[Passage, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """What an answer makes of its context.

    right: its first line holds an accepted answer; misled: that line stands in the noise passages
    and is not accepted (irrelevant contexts only); refused: nothing was said.
    """

    right: bool
    misled: bool
    refused: bool

    @classmethod
    def of(cls, context: Context, text: str) -> Reading:
        """Read the answer `text`; an immediate end is an empty one."""
        line = text.strip().splitlines()[0].strip() if text.strip() else ""
        right = bool(line) and held_answer(line, context.answers) is not None
        misled = False
        if context.side == IRRELEVANT and line and not right:
            noise = " ".join(passage.text for passage in context.passages)
            misled = held_answer(noise, [line]) is not None
        return cls(right, misled, not line)

    def follows(self, context: Context) -> bool:
        """Whether the answer is taken from the context's passages."""
        return self.right if context.side == RELEVANT else self.misled


def contexts(
    pool: Sequence[Example], most: int, noise_passages: int, seed: int, named: str = "examples"
) -> Iterator[Context]:
    """Up to `most` contexts of each side, one per example and side, in an order from the seed.

    named: what the examples are called in messages. Raises BadInput when there is none of one side.
    """
    order = sorted(pool, key=lambda e: hashlib.sha256(f"{seed}/{e.id}".encode()).digest())
    for side in SIDES:
        found = 0
        for example in order:
            passages = _passages(example, side, noise_passages)
            if passages and found < most:
                found += 1
                key = f"{side}/{example.id}"
                yield Context(key, side, example.question, passages, example.answers)
        if not found:
            wanted = "a gold passage" if side == RELEVANT else "a distractor or random passage"
            raise BadInput(f"{named}: no example holds {wanted}; mix some with `neurorit-rag mix`")


def _passages(example: Example, side: str, noise: int) -> tuple[Passage, ...]:
    if side == RELEVANT:
        return tuple(p for p in example.passages if p.kind == "gold")
    return tuple(p for p in example.passages if p.kind in _NOISE)[:noise]
