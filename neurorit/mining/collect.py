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
from typing import TYPE_CHECKING, Any

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.mining.contexts import RELEVANT, SIDES, Context
from neurorit.mining.journal import Journal, Record
from neurorit.mining.reading import FOLLOWED
from neurorit.mining.settings import MiningSettings

if TYPE_CHECKING:
    from neurorit.mining.attributor import Miner
    from neurorit.model.source import ModelSource

ASKED = 4  # contexts asked at most for each one that is wanted
_EARLY = 24  # attributed contexts after which scores that do not add up end a run

# Contexts done, contexts in all, the median residual of those done; None while they are asked.
Progress = Callable[[int, int, float | None], None]


@dataclass(frozen=True)
class Collected:
    """What is mined, and what it was chosen from.

    contexts, records: those that count, in order; classes: side -> what each asked context's answer
    was (reading.CLASSES); tried: side -> records of all that were attributed. Both are empty where
    contexts are taken as they come.
    """

    contexts: list[Context]
    records: list[Record]
    classes: dict[str, list[str]]
    tried: dict[str, list[Record]]


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

    def collect(self) -> Collected:
        """The contexts that are mined, their records, and what became of those that were asked.

        Raises BadInput when the model follows no context of one side or gains from none,
        NeuroritError as soon as scores do not add up.
        """
        self._done = self.journal.read()
        if self.settings.contexts == "followed":
            return self._followed()
        self._attribute(self.candidates)
        return Collected(list(self.candidates), self._records(self.candidates), {}, {})

    def loaded(self) -> tuple[Any, Any]:
        """The model and its tokenizer. Raises BadInput where no process has the whole of it."""
        if self.settings.pipeline > 1:
            raise BadInput(
                f"‹selection={self.settings.selection}› measures the whole model, and with "
                f"‹pipeline={self.settings.pipeline}› no process has it; mine with "
                "‹selection=count› (what is attributed is kept), then choose with `atlas select` "
                "where the model fits"
            )
        return self._miner.model, self._miner.tokenizer

    @cached_property
    def _miner(self) -> Miner:
        from neurorit.mining.attributor import Miner

        return Miner.load(self.model, self.candidates, self.settings)

    def _followed(self) -> Collected:
        """Up to `samples` contexts of each side that the model follows and gains from.

        Sides are asked and attributed in rounds, until there are enough or no more to ask.
        """
        wanted = self.settings.samples
        sides = {side: [c for c in self.candidates if c.side == side] for side in SIDES}
        asked: dict[str, list[Context]] = {side: [] for side in SIDES}
        tried: dict[str, list[Context]] = {side: [] for side in SIDES}
        counted: dict[str, list[Context]] = {side: [] for side in SIDES}
        while True:
            self._ask_until(
                sides, asked, {s: wanted - len(counted[s]) + len(tried[s]) for s in SIDES}
            )
            part = []
            for side in SIDES:
                followed = [c for c in asked[side] if self._class(c) == FOLLOWED]
                if not followed:
                    raise BadInput(_nobody_followed(side, len(asked[side])))
                more = followed[len(tried[side]) :][: wanted - len(counted[side])]
                tried[side] += more
                part += more
            if not part:
                break
            self._attribute(part)
            for context in part:
                if self._counts(self._done[context.key]):
                    counted[context.side].append(context)
        for side in SIDES:
            if not counted[side]:
                raise BadInput(_nothing_gained(side, len(tried[side]), self.settings.least_gain))
        chosen = [context for side in SIDES for context in counted[side]]
        return Collected(
            chosen,
            self._records(chosen),
            {side: [self._class(c) for c in asked[side]] for side in SIDES},
            {side: self._records(tried[side]) for side in SIDES},
        )

    def _ask_until(
        self,
        sides: dict[str, list[Context]],
        asked: dict[str, list[Context]],
        wanted: dict[str, int],
    ) -> None:
        """Ask round by round until so many of each side are followed, or none are left."""
        while True:
            part = []
            for side in SIDES:
                followed = sum(self._class(c) == FOLLOWED for c in asked[side])
                if followed < wanted[side]:
                    first = len(asked[side])
                    part += sides[side][first : first + self.settings.samples]
            if not part:
                return
            if self._make(part, _answer_key, self._answered, self._asked):
                self._done = self.journal.wait_for_all()
            for context in part:
                asked[context.side].append(context)

    def _class(self, context: Context) -> str:
        named: str = self._done[_answer_key(context)]["class"]
        return named

    def _counts(self, record: Record) -> bool:
        """Whether the context, by the neurons too, adds enough to F for its scores to mean it."""
        least = self.settings.least_gain
        return least <= 0.0 or min(record["context_gain"], record["neuron_gain"]) >= least

    def _attribute(self, wanted: Sequence[Context]) -> None:
        if "_miner" in self.__dict__:
            self._miner.rest_from_asking()
        if self._make(wanted, lambda c: c.key, self._attributed, self._told):
            self._done = self.journal.wait_for_all()

    def _records(self, wanted: Sequence[Context]) -> list[Record]:
        # Records are read back from JSON either way, so a resumed run has the same numbers.
        return [json.loads(json.dumps(self._done[c.key])) for c in wanted]

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
            asking = work == self._answered
            batches = (self._miner.batches_to_ask if asking else self._miner.batches)(list(keys))
            for batch in batches[self.journal.rank :: self.journal.processes]:
                if all(keys[key] in self._done for key in batch):
                    continue
                records = work(batch)
                if not records:
                    continue  # another process of the line keeps them
                append(records)
                self._done.update({record["key"]: record for record in records})
                tell(keys.values())
        return True

    def _answered(self, keys: Sequence[str]) -> list[Record]:
        return self._miner.ask(keys)

    def _attributed(self, keys: Sequence[str]) -> list[Record]:
        answers = {
            key: self._done[f"answer/{key}"] for key in keys if f"answer/{key}" in self._done
        }
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
        "more `noise_passages`, or contexts as they come with ‹contexts=all›"
    )


def _nothing_gained(side: str, tried: int, least: float) -> str:
    what = "relevant" if side == RELEVANT else "irrelevant"
    return (
        f"mine: in none of {tried} followed {what} contexts do neurons add {least:g} to F: nothing "
        "to attribute; lower `least_gain` (0 counts all), or set `objective` to log-prob"
    )
