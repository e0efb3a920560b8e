"""What mining journals of every context: what the model answers from it, and its kept scores.

First contexts are asked, in rounds, until enough of each side are followed by the model's own
answer; then those are attributed. Which contexts share a batch depends on nothing that was done
before, so a resumed run, or one of several processes, makes the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.mining.contexts import RELEVANT, SIDES, Context
from neurorit.mining.journal import Journal, Record
from neurorit.mining.settings import MiningSettings

if TYPE_CHECKING:
    from neurorit.mining.attributor import Miner
    from neurorit.model.source import ModelSource

ASKED = 4  # contexts asked at most for each one that is wanted
_EARLY = 24  # attributed contexts after which scores that do not add up end a run

# Contexts done, contexts in all, the median residual of those done; None while they are asked.
Progress = Callable[[int, int, float | None], None]


@dataclass
class Records:
    """The records of the candidates' contexts, kept in a journal.

    candidates: contexts of both sides, in the order in which they are to be taken.
    """

    model: ModelSource
    candidates: Sequence[Context]
    settings: MiningSettings
    journal: Journal
    progress: Progress | None = None
    _done: dict[str, Record] = field(default_factory=dict)

    def collect(self) -> tuple[list[Context], list[Record], dict[str, int]]:
        """The contexts that are mined, their records, and how many of each side were asked.

        Raises BadInput when the model follows no context of one side, NeuroritError as soon as
        scores do not add up.
        """
        self._done = self.journal.read()
        asked: dict[str, int] = {}
        chosen = list(self.candidates)
        if self.settings.contexts == "followed":
            chosen, asked = self._followed()
        if self._make(chosen, lambda c: c.key, self._attributed, self._told):
            self._done = self.journal.wait_for_all()
        # Records are read back from JSON either way, so a resumed run has the same numbers.
        return chosen, [json.loads(json.dumps(self._done[c.key])) for c in chosen], asked

    @cached_property
    def _miner(self) -> Miner:
        from neurorit.mining.attributor import Miner

        return Miner.load(self.model, self.candidates, self.settings)

    def _followed(self) -> tuple[list[Context], dict[str, int]]:
        """Up to `samples` contexts of each side that the model follows; asks round by round."""
        wanted = self.settings.samples
        sides = {side: [c for c in self.candidates if c.side == side] for side in SIDES}
        asked = dict.fromkeys(SIDES, 0)
        found: dict[str, list[Context]] = {side: [] for side in SIDES}
        for first in range(0, max(map(len, sides.values())), wanted):
            part = [
                context
                for side, every in sides.items()
                if len(found[side]) < wanted
                for context in every[first : first + wanted]
            ]
            if not part:
                break
            if self._make(part, _answer_key, self._answered, self._asked):
                self._done = self.journal.wait_for_all()
            for context in part:
                asked[context.side] += 1
                if self._done[_answer_key(context)]["followed"]:
                    found[context.side].append(context)
        for side in SIDES:
            if not found[side]:
                raise BadInput(_nobody_followed(side, asked[side]))
        return [context for side in SIDES for context in found[side][:wanted]], asked

    def _make(
        self,
        wanted: Sequence[Context],
        name: Callable[[Context], str],
        work: Callable[[Sequence[str]], list[Record]],
        tell: Callable[[Iterable[str]], None],
    ) -> bool:
        """Make the records that are missing, this process's share; False if none are."""
        keys = {context.key: name(context) for context in wanted}
        if all(key in self._done for key in keys.values()):
            return False
        with self.journal.appending() as append:
            batches = self._miner.batches(list(keys))
            for batch in batches[self.journal.rank :: self.journal.processes]:
                if all(keys[key] in self._done for key in batch):
                    continue
                records = work(batch)
                append(records)
                self._done.update({record["key"]: record for record in records})
                tell(keys.values())
        return True

    def _answered(self, keys: Sequence[str]) -> list[Record]:
        return self._miner.ask(keys)

    def _attributed(self, keys: Sequence[str]) -> list[Record]:
        answers = {key: self._done.get(f"answer/{key}", {}).get("answer") for key in keys}
        return self._miner.attribute(keys, answers)

    def _asked(self, keys: Iterable[str]) -> None:
        if self.progress is not None:
            every = list(keys)
            self.progress(sum(key in self._done for key in every), len(every), None)

    def _told(self, keys: Iterable[str]) -> None:
        every = list(keys)
        residuals = [self._done[key]["residual"] for key in every if key in self._done]
        if len(residuals) >= _EARLY:
            check_residual(median(residuals), self.settings, len(residuals))
        if self.progress is not None:
            self.progress(len(residuals), len(every), median(residuals))


def check_residual(found: float, settings: MiningSettings, contexts: int) -> None:
    """Raise NeuroritError when a median residual is above what the settings allow."""
    if found <= settings.max_residual or settings.force:
        return
    remedy = "raise `steps`"
    if settings.activations != "float32":
        remedy = "set `activations` to float32"
    raise NeuroritError(
        f"the median completeness residual of {contexts} contexts is {found:.1%}, above "
        f"{settings.max_residual:.0%}: the scores do not add up; {remedy}, or keep the atlas "
        "with `force` (what was attributed is kept)"
    )


def _answer_key(context: Context) -> str:
    return f"answer/{context.key}"


def _nobody_followed(side: str, asked: int) -> str:
    what = (
        "answers none of the relevant contexts rightly"
        if side == RELEVANT
        else "is misled by none of the irrelevant contexts"
    )
    return (
        f"mine: of {asked} asked, the model {what}: nothing to attribute; take other examples, "
        "more `noise_passages`, or contexts as they come with --set contexts=all"
    )
