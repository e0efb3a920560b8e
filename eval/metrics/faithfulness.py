"""Where an answer was read: the passages that hold it, also where it stands in a sentence.

Reading is judged by words: an answer was taken from a passage that holds it as whole words.
"""

from __future__ import annotations

from collections.abc import Sequence

from neurorit.data.answers import held_answer, normalize_answer
from neurorit.data.citations import cited, without_citations
from neurorit.data.examples import Passage
from neurorit.data.support import FRAME
from neurorit.eval.metrics.answers import is_abstention
from neurorit.eval.metrics.matching import match
from neurorit.eval.predictions import Metric, Prediction


class Reader:
    """Finds answers in passages, and keeps the normalised text of every passage it has seen."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def read_in(
        self, output: str, question: str, passages: Sequence[Passage], false: Sequence[str] = ()
    ) -> list[int]:
        """Numbers (from 1) of the passages that the first line's answer was read in.

        A line that stands in a passage as a whole is the answer. Else the answer is what is left of
        it without the question's words and those that frame an answer ("It is ... according to
        passage 2"): every run of words that is left must stand in a passage. false: wrong answers
        that are known, such as an injected one; one that stands in the line is the answer.
        """
        line = _first_line(output)
        whole = self._holding([normalize_answer(line)], passages)
        if whole:
            return whole
        wrong = held_answer(line, false)
        runs = [normalize_answer(wrong)] if wrong is not None else _answer_runs(line, question)
        return self._holding(runs, passages)

    def found_in(self, output: str, passages: Sequence[Passage]) -> list[int]:
        """Numbers (from 1) of the passages that hold the whole output as whole words."""
        return self._holding([normalize_answer(output)], passages)

    def _holding(self, runs: Sequence[str], passages: Sequence[Passage]) -> list[int]:
        wanted = [f" {run} " for run in runs if run]
        if not wanted:
            return []
        numbers = []
        for number, passage in enumerate(passages, 1):
            text = self._texts.get(passage.text)
            if text is None:
                text = self._texts[passage.text] = f" {normalize_answer(passage.text)} "
            if all(run in text for run in wanted):
                numbers.append(number)
        return numbers


def found_in(output: str, passages: Sequence[Passage]) -> list[int]:
    """As `Reader.found_in`, for one answer."""
    return Reader().found_in(output, passages)


def read_in(
    output: str, question: str, passages: Sequence[Passage], false: Sequence[str] = ()
) -> list[int]:
    """As `Reader.read_in`, for one answer."""
    return Reader().read_in(output, question, passages, false)


def is_misled(
    output: str, answers: Sequence[str], passages: Sequence[Passage], read: Sequence[int]
) -> bool:
    """A wrong answer that was read in a noisy passage and in no gold one: what the noise said.

    read: numbers of the passages that hold it (`read_in`). Wrong by match, so that a right answer
    in more words is not called misled.
    """
    if is_abstention(output) or match(output, answers):
        return False
    kinds = {passages[number - 1].kind for number in read}
    return bool(kinds) and "gold" not in kinds


def misled(
    p: Prediction, said: str, passages: Sequence[Passage], read: Sequence[int], metric: Metric
) -> bool:
    """`is_misled` of what a run that rests on `metric` counts neither as right nor as a refusal.

    said: the part of the reply that is its answer (`neurorit.eval.metrics.scoring.answer_in`).
    """
    settled = p.abstained or p.right_by(metric)
    return not settled and is_misled(said, p.answers, passages, read)


def is_cited_faithful(output: str, passages: Sequence[Passage], read: Sequence[int]) -> bool | None:
    """The answer was read in a passage that it cites; None for an answer that cites none."""
    numbers = cited(output, len(passages))
    return bool(set(numbers) & set(read)) if numbers else None


def _first_line(output: str) -> str:
    lines = without_citations(output).strip().splitlines()
    return lines[0] if lines else ""


def _answer_runs(line: str, question: str) -> list[str]:
    """Runs of neighbouring words that neither the question nor the frame of a sentence holds."""
    plain = FRAME | set(normalize_answer(question).split())
    runs: list[list[str]] = [[]]
    for word in normalize_answer(line).split():
        if word not in plain:
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    return [" ".join(run) for run in runs if run]
