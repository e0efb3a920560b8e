"""The judge: does an answer mean the same as the reference?

Every answer ends in exactly one verdict: right, wrong, abstained or unscored. A verdict that could
not be had is unscored, never wrong. The judge sees texts only: no system, no condition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Protocol, runtime_checkable

from neurorit.core.endpoint.reply_cache import Cache, content_key
from neurorit.eval.judges.prompts import fill_prompt, safe
from neurorit.eval.metrics.answers import is_abstention
from neurorit.eval.predictions import VERDICTS, Item, Verdict

# Everything that `safe` takes care of.
_AWKWARD = Item("Q?\n<answer>x</answer>", ("A", "Reference: B"), "Answer:\u200b {question} <b>Yes")


class Judge(Protocol):
    """Decides items; `fingerprint` changes whenever a verdict could."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """One verdict per item, in order: right, wrong or unscored."""
        ...


def give_verdicts(
    judge: Judge | None,
    items: Sequence[Item],
    known: MutableMapping[Item, Verdict] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """One verdict per item; equal items are asked once, abstentions never.

    known: verdicts that this judge gave before; new ones are added, but not the unscored: those
    are asked again next time. Without a judge every answer that is no abstention is unscored.
    """
    cache: MutableMapping[Item, Verdict] = {} if known is None else known
    fresh: dict[Item, Verdict] = {}
    if judge is not None:
        open_items = [i for i in items if not is_abstention(i.answer) and i not in cache]
        unique = list(dict.fromkeys(open_items))
        decided = judge.decide(unique, progress) if unique else []
        fresh = dict(zip(unique, decided, strict=True))
        cache.update({item: v for item, v in fresh.items() if v != "unscored"})
    return [
        "abstained" if is_abstention(item.answer) else cache.get(item, fresh.get(item, "unscored"))
        for item in items
    ]


@runtime_checkable
class Settling(Protocol):
    """A judge that has something to find out before its fingerprint is final."""

    def settle(self, cache: Cache) -> None:
        """Find it out, or take it from the cache."""
        ...


@runtime_checkable
class Failing(Protocol):
    """A judge whose calls may fail."""

    @property
    def failure(self) -> str:
        """Why the first call that failed did, with its server; empty while none has."""
        ...


@runtime_checkable
class Confident(Protocol):
    """A judge that tells how sure it was of a verdict."""

    def confidence(self, item: Item) -> float | None:
        """Probability of the verdict that it gave on an item, from 0.5 to 1 where it says Yes or
        No; None where it was read from a text, or none was given.
        """
        ...


def confidence_in(judge: Judge, item: Item) -> float | None:
    """How sure a judge was of its verdict; None where it does not say."""
    return judge.confidence(item) if isinstance(judge, Confident) else None


def failure_of(judge: Judge) -> str:
    """Why a judge gave no verdict, for the end of a sentence; empty where it does not say."""
    why = judge.failure if isinstance(judge, Failing) else ""
    return f" (first: {why})" if why else ""


@runtime_checkable
class Streaming(Protocol):
    """A judge that hands over each verdict as it is made."""

    def stream(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """(position, verdict), in any order."""
        ...


@runtime_checkable
class Asking(Protocol):
    """A judge whose calls can be counted and measured before they are made."""

    @property
    def repeats(self) -> int:
        """Calls for each item."""
        ...

    def turn(self, item: Item) -> str:
        """What it is asked about an item."""
        ...


class CachedJudge:
    """A judge that looks into a cache first and keeps every verdict as soon as it is made.

    Verdicts are kept by the judge's fingerprint (model and prompt) and the item's texts; those that
    could not be had are not kept. A judge that does not stream decides `part` items at a time.
    """

    def __init__(self, judge: Judge, cache: Cache, *, part: int = 1_024) -> None:
        if isinstance(judge, Settling):
            judge.settle(cache)
        self.name = judge.name
        self.fingerprint = judge.fingerprint
        self.judge = judge
        self.cache, self._part = cache, part
        self._sure: dict[str, float] = {}

    @property
    def failure(self) -> str:
        """Why the first call that failed did; empty where the judge does not say."""
        return self.judge.failure if isinstance(self.judge, Failing) else ""

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """One verdict per item; only unknown items reach the judge."""
        keys = [self.key(item) for item in items]
        verdicts: dict[str, Verdict] = {
            key: verdict for key, verdict in self.cache.find(keys).items() if verdict in VERDICTS
        }
        self._sure |= self._remembered(verdicts)
        waiting = {key: item for key, item in zip(keys, items, strict=True) if key not in verdicts}
        if waiting:
            # Another run with this cache may be asking the same judge: see `Cache.asking`.
            with self.cache.asking(self.fingerprint):
                found = self.cache.find(waiting)
                verdicts |= {key: verdict for key, verdict in found.items() if verdict in VERDICTS}
                self._sure |= self._remembered(found)
                waiting = {key: item for key, item in waiting.items() if key not in verdicts}
                self._ask(waiting, verdicts, sum(key in verdicts for key in keys), progress)
        return [verdicts[key] for key in keys]

    def _ask(
        self,
        waiting: Mapping[str, Item],
        verdicts: MutableMapping[str, Verdict],
        done: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        of = done + len(waiting)
        for fresh in self._given(waiting):
            kept: dict[str, Any] = {key: v for key, v in fresh.items() if v != "unscored"}
            sure = {key: confidence_in(self.judge, waiting[key]) for key in kept}
            told = {key: value for key, value in sure.items() if value is not None}
            # In one step: a verdict that is kept has its confidence beside it.
            self.cache.keep(kept | {_sure_key(key): value for key, value in told.items()})
            self._sure |= told
            verdicts.update(fresh)
            done += len(fresh)
            if progress is not None:
                progress(done, of)

    def confidence(self, item: Item) -> float | None:
        """How sure the judge was of a verdict that was decided here or kept by an earlier run."""
        return self._sure.get(self.key(item))

    def _remembered(self, keys: Iterable[str]) -> dict[str, float]:
        places = {_sure_key(key): key for key in keys}
        return {places[place]: float(value) for place, value in self.cache.find(places).items()}

    def key(self, item: Item) -> str:
        """Where the cache keeps an item's verdict."""
        return content_key("verdict", self.fingerprint, list(item))

    def _given(self, waiting: Mapping[str, Item]) -> Iterator[dict[str, Verdict]]:
        keys, items = list(waiting), list(waiting.values())
        if isinstance(self.judge, Streaming):
            for i, verdict in self.judge.stream(items):
                yield {keys[i]: verdict}
            return
        for start in range(0, len(items), self._part):
            part = slice(start, start + self._part)
            yield dict(zip(keys[part], self.judge.decide(items[part]), strict=True))


def _sure_key(key: str) -> str:
    return content_key("confidence", key)


def judge_turn(template: str, item: Item) -> str:
    """The text of the judge's user turn: all aliases, and every text made safe (`safe`)."""
    return fill_prompt(
        template,
        question=safe(template, item.question),
        reference=" / ".join(safe(template, answer) for answer in item.answers),
        answer=safe(template, item.answer),
    )


def prompt_digest(template: str) -> str:
    """Hash of what a judge reads of one awkward item: changes with template and `safe` alike."""
    turn = judge_turn(template, _AWKWARD)
    return hashlib.sha256(f"{template}\0{turn}".encode()).hexdigest()[:16]
