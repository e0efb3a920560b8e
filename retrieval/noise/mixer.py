"""Noise mixing: questions and an index become examples of typed relevant and noisy passages.

Every example is drawn from its own seed, so one can be made again alone, and a *ledger* says of
each passage why it is there and of each rejected one which answer it held.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.data.answers import held_answer, is_yes_or_no, normalize_answer
from neurorit.data.examples import NOISE, Example, Passage
from neurorit.retrieval.index.index import Hit, Index
from neurorit.retrieval.index.meta_filters import NOTHING, values_at
from neurorit.retrieval.noise.kinds import Chosen, Draw, Reason, text_of
from neurorit.retrieval.noise.settings import MixSettings, PoolSettings
from neurorit.retrieval.retriever import load_cross_encoder

__all__ = ["MixSettings", "Mixer", "PoolSettings"]

_BATCH = 256
_WRITTEN = {"near-duplicate": "near_duplicate", "injected": "injected"}  # kind -> setting


class Mixer:
    """Draws examples from an index. `answers` are all questions' answers, by type."""

    def __init__(
        self, index: Index, questions: Sequence[Example], settings: MixSettings, seed: int
    ) -> None:
        self._cross = _cross_encoder(settings.cross_encoder)
        self.index = index
        self._settings = settings
        self._seed = seed
        self._answers: dict[str, list[str]] = {}
        for question in questions:
            if question.answers:
                answers = self._answers.setdefault(_answer_type(question), [])
                answers.append(question.answers[0])
        self._places: dict[str, list[int]] = {}
        for row, passage in enumerate(index.passages):
            for value in self._place(passage.meta):
                self._places.setdefault(value, []).append(row)

    def mix(self, questions: Sequence[Example]) -> Iterator[tuple[Example, dict[str, Any]]]:
        """An example and its ledger record for each question, in order."""
        for start in range(0, len(questions), _BATCH):
            batch = questions[start : start + _BATCH]
            found = self.index.search([q.question for q in batch], self._settings.depth)
            for question, hits in zip(batch, found, strict=True):
                yield self._one(question, hits)

    def _one(self, question: Example, hits: Sequence[Hit]) -> tuple[Example, dict[str, Any]]:
        settings = self._settings
        rng = random.Random(f"{self._seed}/{question.id}")
        golds = self._golds(question, hits)
        gold = _holder(question, [passage for passage, _ in golds])
        answerable = bool(golds) and rng.random() >= settings.without_gold
        wanted = {
            kind: rng.choice(getattr(settings, kind))
            for kind in ("distractor", "random", "counterfactual")
        }
        # Kinds that came later draw from seeds of their own: what was mixed before stays the same.
        more = {kind: getattr(settings, name) for kind, name in _WRITTEN.items()}
        more |= dict(settings.kinds)
        own = {kind: random.Random(f"{self._seed}/{question.id}/{kind}") for kind in more}
        for kind, counts in more.items():
            wanted[kind] = own[kind].choice(counts)
        if not answerable and not any(wanted[kind] for kind in ("distractor", "random")):
            wanted["distractor"] = 1
        barred = frozenset({str(g) for g in question.meta.get("gold") or ()})
        barred |= {p.id for p, _ in golds}
        rejected: list[dict[str, Any]] = []
        chosen: Chosen = list(golds) if answerable else []
        for kind, count in wanted.items():
            taken = barred | {passage.id for passage, _ in chosen}
            source = own.get(kind, rng)
            draw = Draw(self, question, hits, gold, count, source, barred, taken, rejected)
            drawn = NOISE.get(kind, "mix: kinds")(draw)
            if len(drawn) > count or any(passage.kind != kind for passage, _ in drawn):
                raise BadInput(f"mix: kinds: {kind} gave other passages than {count} of its kind")
            chosen += drawn
        if settings.order == "shuffle":
            rng.shuffle(chosen)
        if settings.position:
            chosen = _placed(chosen, settings.position, f"{self._seed}/{question.id}/position")
        example = replace(question, passages=tuple(passage for passage, _ in chosen))
        record = {
            "id": question.id,
            "answerable": example.has_evidence,
            "passages": [_given(reason) for _, reason in chosen],
            "rejected": rejected,
            "short": {
                kind: count - sum(r.kind == kind for _, r in chosen)
                for kind, count in wanted.items()
                if count > sum(r.kind == kind for _, r in chosen)
            },
        }
        return example, record

    def _golds(self, question: Example, hits: Sequence[Hit]) -> Chosen:
        """The passages that the question names, else the best-ranked one that holds an answer."""
        ranks = {hit.passage.id: hit for hit in hits}
        named = [str(identity) for identity in question.meta.get("gold") or ()]
        found: Chosen = []
        for identity in named[: self._settings.gold or None]:
            passage = replace(self._named(question, identity), kind="gold")
            hit = ranks.get(passage.id)
            rank, score = (hit.rank, hit.score) if hit else (None, None)
            found.append(
                (passage, Reason(passage.id, "gold", "named by the question", rank, score))
            )
        if named or question.unanswerable:
            return found
        if is_yes_or_no(question.answers):
            raise BadInput(
                f"question {question.id!r} is answered by yes or no, and by no passage's words: "
                "name its passages in 'gold', or leave it out"
            )
        for hit in hits:
            held = held_answer(text_of(hit.passage), question.answers)
            if held is not None and self.allowed(question, hit.passage):
                why = f"highest rank that holds {held!r}"
                reason = Reason(hit.passage.id, "gold", why, hit.rank, hit.score)
                return [(replace(hit.passage, kind="gold"), reason)]
        return []

    def _named(self, question: Example, identity: str) -> Passage:
        try:
            return self.index.passage(identity)
        except BadInput as error:
            raise BadInput(
                f"question {question.id!r}: its gold: {error} (a chunk of a document is named "
                f"{identity}#0 and so on); without `gold` the best-ranked passage that holds an "
                "answer is taken"
            ) from error

    def no_rivals(
        self,
        question: Example,
        gold: Passage | None,
        hits: Sequence[Hit],
        rejected: list[dict[str, Any]],
    ) -> Sequence[Hit]:
        """The hits that a cross-encoder finds worse than the gold passage, by the margin at least.

        One that does as well may answer the question in other words than the accepted ones.
        """
        if self._cross is None or gold is None or not hits:
            return hits
        texts = [text_of(gold), *(text_of(hit.passage) for hit in hits)]
        pairs = [(question.question, text) for text in texts]
        first, *scores = map(float, self._cross.predict(pairs, show_progress_bar=False))
        kept = []
        for hit, score in zip(hits, scores, strict=True):
            if score <= first - self._settings.margin or hit.passage.id == gold.id:
                kept.append(hit)
            else:
                told = {"id": hit.passage.id, "kind": "distractor", "rank": hit.rank}
                rejected.append(told | {"cross_encoder": round(score, 4), "gold": round(first, 4)})
        return kept

    def others(self, question: Example, rng: random.Random) -> list[str]:
        """Other questions' answers of this one's type, in the order of the seed."""
        own = {normalize_answer(answer) for answer in question.answers}
        values = sorted(set(self._answers.get(_answer_type(question), ())))
        values = [v for v in values if normalize_answer(v) not in own]
        rng.shuffle(values)
        return values

    def _place(self, meta: Mapping[str, Any]) -> frozenset[str]:
        """The values of the field that keeps passages apart; those without one are together."""
        within = self._settings.within
        return (values_at(meta, within) - NOTHING if within else None) or frozenset([""])

    def rows_beside(self, question: Example) -> list[int]:
        """Rows of the passages that may be noise to a question."""
        places = sorted(self._place(question.meta))
        rows = self._places.get(places[0], [])
        if len(places) > 1:  # a passage of two of them counts once
            rows = sorted({row for place in places for row in self._places.get(place, [])})
        return rows

    def allowed(self, question: Example, passage: Passage) -> bool:
        """Whether a passage may stand beside a question: `within` keeps them apart."""
        return not self._place(question.meta).isdisjoint(self._place(passage.meta))


def _placed(chosen: Sequence[tuple[Passage, Reason]], position: str, seed: str) -> Chosen:
    """The passages with the gold ones at their place, the others in the order they had."""
    golds = [one for one in chosen if one[1].kind == "gold"]
    made = [one for one in chosen if one[1].kind != "gold"]
    if position == "random":
        rng = random.Random(seed)
        for one in golds:
            made.insert(rng.randint(0, len(made)), one)
        return made
    at = {"first": 0, "middle": len(made) // 2, "last": len(made)}[position]
    return [*made[:at], *golds, *made[at:]]


def _cross_encoder(name: str) -> Any:
    return load_cross_encoder(name, "cross_encoder") if name else None


def _holder(question: Example, golds: Sequence[Passage]) -> Passage | None:
    """The gold passage that holds the answer: what states another one is made from it."""
    holding = (p for p in golds if held_answer(text_of(p), question.answers) is not None)
    return next(holding, golds[0] if golds else None)


def _answer_type(question: Example) -> str:
    """What kind of thing answers the question: its relation where given, else the answer's form."""
    named = question.meta.get("relation") or question.meta.get("answer_type")
    if named:
        return f"named {named}"
    answer = question.answers[0].strip() if question.answers else ""
    if answer.isdigit():
        return f"number of {len(answer)} digits"
    words = len(answer.split())
    form = "name" if answer[:1].isupper() else "digits" if answer[:1].isdigit() else "words"
    opening = (question.question.split() or [""])[0].lower()
    return f"{opening} {form} of {min(words, 3)}"


def _given(reason: Reason) -> dict[str, Any]:
    record = {key: value for key, value in asdict(reason).items() if value is not None}
    if reason.score is not None:
        # The last digits of a vector depend on what else was encoded in the same batch.
        record["score"] = round(reason.score, 4)
    return record
