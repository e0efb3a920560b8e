"""The kinds of noise: which passages each finds or makes for one example, and why.

A kind of one's own is registered as `noise` (`neurorit.core.registry`), and `MixSettings.kinds`
says how many of it are mixed in.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neurorit.data.answers import held_answer, is_yes_or_no, replace_answers
from neurorit.data.examples import Example, Passage
from neurorit.retrieval.index.index import Hit, Index
from neurorit.retrieval.noise.synthetic import with_instruction, without_answer

if TYPE_CHECKING:
    from neurorit.retrieval.noise.mixer import Mixer

_TRIES = 200


@dataclass(frozen=True)
class Reason:
    """A line of the ledger: why a passage stands in an example."""

    id: str
    kind: str
    why: str
    rank: int | None = None
    score: float | None = None


Chosen = list[tuple[Passage, Reason]]


@dataclass(frozen=True)
class Draw:
    """What a kind draws for: one example of a mixer.

    hits: what was found for the question, best first; gold: the passage that holds its answer, None
    where there is none; count: how many are wanted; rng: seeded by the example (and, but for random
    and counterfactual, by the kind); barred: ids of all gold passages; taken: those, and what was
    chosen before; rejected: lines for the ledger, of passages that were left out.
    """

    mixer: Mixer
    question: Example
    hits: Sequence[Hit]
    gold: Passage | None
    count: int
    rng: random.Random
    barred: frozenset[str]
    taken: frozenset[str]
    rejected: list[dict[str, Any]] = field(default_factory=list)

    @property
    def index(self) -> Index:
        """Where passages are found."""
        return self.mixer.index

    @property
    def other_answers(self) -> list[str]:
        """Other questions' answers of this one's type, shuffled by the seed."""
        return self.mixer.others(self.question, self.rng)

    def rejects(self, passage: Passage, kind: str, rank: int | None = None) -> bool:
        """True, and noted, if it holds an answer: as noise it would be a false negative."""
        # A passage with the word "no" does not say no.
        yes_or_no = is_yes_or_no(self.question.answers)
        held = None if yes_or_no else held_answer(text_of(passage), self.question.answers)
        if held is None:
            return False
        self.rejected.append({"id": passage.id, "kind": kind, "rank": rank, "held": held})
        return True


Noise = Callable[[Draw], Chosen]


def distractors(draw: Draw) -> Chosen:
    """The highest-ranked passages that hold no answer."""
    mixer, question, hits = draw.mixer, draw.question, draw.hits
    chosen: Chosen = []
    seen: set[str] = set()
    depth = len(hits)
    while True:
        fresh = [hit for hit in hits if hit.passage.id not in seen]
        seen |= {hit.passage.id for hit in fresh}
        for hit in mixer.no_rivals(question, draw.gold, fresh, draw.rejected):
            passage = hit.passage
            if len(chosen) == draw.count:
                return chosen
            if passage.id in draw.barred or not mixer.allowed(question, passage):
                continue
            if draw.rejects(passage, "distractor", hit.rank):
                continue
            why = "ranked high, holds no answer"
            reason = Reason(passage.id, "distractor", why, hit.rank, hit.score)
            chosen.append((replace(passage, kind="distractor"), reason))
        if depth >= len(draw.index):
            return chosen
        # Too many were barred: look deeper for this question alone.
        depth = min(4 * depth, len(draw.index))
        hits = draw.index.search([question.question], depth)[0]


def randoms(draw: Draw) -> Chosen:
    """Passages drawn from the corpus that hold no answer."""
    rows = draw.mixer.rows_beside(draw.question)
    taken = set(draw.taken)
    chosen: Chosen = []
    for _ in range(_TRIES):
        if len(chosen) == draw.count or not rows:
            break
        passage = draw.index.passages[draw.rng.choice(rows)]
        if passage.id in taken:
            continue
        taken.add(passage.id)
        if draw.rejects(passage, "random"):
            continue
        reason = Reason(passage.id, "random", "drawn from the corpus, holds no answer")
        chosen.append((replace(passage, kind="random"), reason))
    return chosen


def counterfactuals(draw: Draw) -> Chosen:
    """Copies of the gold passage that state another answer of the same type."""
    gold, answers = draw.gold, draw.question.answers
    if gold is None or is_yes_or_no(answers):
        return []
    chosen: Chosen = []
    for value in draw.other_answers:
        if len(chosen) == draw.count:
            break
        title = replace_answers(gold.title, answers, value)
        text = replace_answers(gold.text, answers, value)
        if text == gold.text or held_answer(f"{title} {text}", answers):
            continue
        identity = f"{gold.id}#counterfactual-{len(chosen)}"
        why = f"{gold.id} with its answer replaced by {value!r}"
        passage = Passage(identity, title, text, "counterfactual")
        chosen.append((passage, Reason(identity, "counterfactual", why)))
    return chosen


def near_duplicates(draw: Draw) -> Chosen:
    """Copies of the gold passage without the sentences that hold an answer."""
    if draw.gold is None or is_yes_or_no(draw.question.answers):
        return []
    chosen: Chosen = []
    for variant in range(draw.count):
        passage = without_answer(draw.gold, draw.question.answers, variant)
        if passage is None:
            break
        why = f"{draw.gold.id} without the sentences that hold an answer"
        chosen.append((passage, Reason(passage.id, "near-duplicate", why)))
    return chosen


def injected(draw: Draw) -> Chosen:
    """Distractors with an instruction in their text to say something else."""
    if not draw.count:
        return []
    values = draw.other_answers or ["nothing"]
    chosen: Chosen = []
    for base, reason in distractors(replace(draw, rejected=[])):
        value = values[len(chosen) % len(values)]
        passage = with_instruction(base, value, draw.question.answers, draw.rng, len(chosen))
        if passage is not None:
            why = f"{base.id} with an instruction to say {value!r}"
            chosen.append((passage, Reason(passage.id, "injected", why, reason.rank, reason.score)))
    return chosen


def text_of(passage: Passage) -> str:
    """Title and text, as answers are looked for in them."""
    return f"{passage.title} {passage.text}"
