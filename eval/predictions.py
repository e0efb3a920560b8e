"""The journal of a run: one scored answer a line, in `predictions.jsonl`.

Lines are appended as answers come, so a killed run loses nothing that was written; the key of a
line says exactly which model got which prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from neurorit.core.atomic_files import write_text
from neurorit.core.endpoint.replies import Unread
from neurorit.core.errors import BadInput
from neurorit.core.journal import appending, read_journal
from neurorit.core.locks import locked
from neurorit.data.examples import Example
from neurorit.data.refusals import Refusal

_LOCK = ".predictions.lock"


@dataclass(frozen=True)
class Prediction:
    """One answer with its scores.

    passages: id and kind of each, in the prompt's order; key: hash of the place in the run and of
    what was asked; judged_by: the judge's fingerprint, None until it was judged; call: hash of what
    was asked alone (model, settings, prompt), shared by all places that ask the same.
    refusal: how it refuses (`data.refusals`); parts: share of the answer's parts that it holds,
    None where there are no parts; gold: how many gold passages the question has, 0 where none is
    known; cluster: what the question is resampled with; unread: why the reply cannot be scored;
    confidence: how probable the verdict was to the judge, None where it does not say; nuggets: the
    share of the facts asked for that it states, None where there are none.
    """

    system: str
    condition: str
    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[dict[str, str | None], ...]
    output: str
    em: bool
    match: bool
    f1: float
    abstained: bool
    verdict: Verdict
    judged_by: str | None
    key: str
    call: str = ""
    refusal: Refusal = ""
    parts: float | None = None
    gold: int = 0
    cluster: str = ""
    unread: Unread = ""
    match_substring: bool = False
    confidence: float | None = None
    nuggets: float | None = None

    @property
    def item(self) -> Item:
        """What a judge gets to see of it."""
        return Item(self.question, self.answers, self.output)

    def right_by(self, metric: Metric) -> bool:
        """Whether it counts as right in a run that rests on `metric`."""
        return counts_as_right(metric, self.em, self.match, self.match_substring, self.parts)

    def unread_as(self, unread: Unread) -> Prediction:
        """The same where its reply did not end: wrong, no refusal, and not to be judged."""
        if not unread:
            return self
        return replace(
            self,
            unread=unread,
            em=False,
            match=False,
            match_substring=False,
            f1=0.0,
            parts=None if self.parts is None else 0.0,
            abstained=False,
            refusal="",
        )

    def judged(
        self, verdict: Verdict, judged_by: str | None, confidence: float | None = None
    ) -> Prediction:
        """The same prediction with its verdict."""
        return replace(self, verdict=verdict, judged_by=judged_by, confidence=confidence)


def counts_as_right(
    metric: Metric, em: bool, matched: bool, substring: bool, parts: float | None
) -> bool:
    """F1 draws no line between right and wrong: there it is exact match. Of parts all count."""
    if metric == "parts" and parts is not None:
        return parts == 1.0
    if metric == "match-substring":
        return substring
    return em if metric in ("em", "f1") else matched


def gold_ids(example: Example) -> set[str]:
    """Ids of the passages that hold the answer, as far as the example names them."""
    named = example.meta.get("gold", ())
    listed = [named] if isinstance(named, str) else named
    return {str(g) for g in listed} | {p.id for p in example.passages if p.kind == "gold"}


class Journal:
    """`predictions.jsonl` of one run, open for adding; `answered` maps key to prediction.

    For reading alone there is `read_predictions`: it changes nothing under a run that is going on.
    """

    def __init__(self, path: Path) -> None:
        """Read what an earlier run left; raises BadInput as `read_predictions` does."""
        self.path = Path(path)
        self.answered = read_predictions(self.path)

    def append(self, predictions: Iterable[Prediction], *, sync: bool = True) -> None:
        """Add answers. sync: force them to disk; without it a lost machine, but not a killed
        process, may lose them.
        """
        added = list(predictions)
        with appending(self.path, sync=sync) as append:
            append(map(asdict, added))
        self.answered |= {prediction.key: prediction for prediction in added}

    def replace_all(self, predictions: Sequence[Prediction]) -> None:
        """Replace the file, whole or not at all: final verdicts, final order, no stale lines."""
        lines = (json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in predictions)
        write_text(self.path, "".join(lines))
        self.answered = {prediction.key: prediction for prediction in predictions}


@contextmanager
def writing_alone(out: Path) -> Iterator[None]:
    """Hold the run in `out` for the time of the block, so that two do not mix their lines.

    Raises BadInput where another process holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another run is writing there; wait for it or name another ‹out›"
    with locked(out / _LOCK, busy):
        yield


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Key -> prediction, as a journal holds them now; nothing is written, none without a file.

    A last line that is not whole (yet) is left out. Raises BadInput with file:line for any other
    line that is no prediction.
    """
    predictions = (_parse(line, where) for where, line in read_journal(Path(path)))
    return {prediction.key: prediction for prediction in predictions}


def _parse(line: bytes, where: str) -> Prediction:
    try:
        record: Any = {"confidence": None, "nuggets": None} | json.loads(line.decode("utf-8"))
        values = {field.name: record[field.name] for field in fields(Prediction)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{where}: no line of an evaluation journal ({error!r}); remove it or choose "
            "another ‹out›"
        ) from error
    values["answers"] = tuple(values["answers"])
    values["passages"] = tuple(values["passages"])
    return Prediction(**values)


Verdict = Literal["right", "wrong", "abstained", "unscored"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "abstained", "unscored")


class Item(NamedTuple):
    """What a judge sees: a question, every accepted answer, and the answer to judge."""

    question: str
    answers: tuple[str, ...]
    answer: str


Metric = Literal["em", "match", "match-substring", "f1", "parts"]
METRICS: tuple[Metric, ...] = get_args(Metric)
