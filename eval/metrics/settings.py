"""How answers are scored and compared: what a run's settings say of it, and nothing else.

None of it changes what is asked, so a finished run can be summed up in another way for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neurorit.core.errors import BadInput
from neurorit.core.settings import Settings
from neurorit.data.examples import Example
from neurorit.data.refusals import PATTERNS, refusal_of
from neurorit.eval.predictions import Metric

NAMES: Mapping[str, str] = {
    "em": "exact match",
    "match": "match on the first line",
    "match-substring": "match-substring on the first line",
    "f1": "token F1",
    "parts": "recall of parts",
    "abstain_rate": "refusals",
    "abstain_rate_answerable": "refusals of what has an answer",
    "judge": "judge",
    "judge_confidence": "confidence of the judge",
    "nuggets": "recall of nuggets",
    "misled_rate": "misled answers",
    "faithfulness": "faithfulness",
    "cited_faithfulness": "faithfulness to cited passages",
    "recall": "retrieval recall",
    "ndcg": "nDCG",
}
BASE, METHOD = "base", "neuro-rit"


@dataclass(frozen=True)
class Analysis(Settings):
    """How answers are scored and compared."""

    metric: Metric = "em"
    """What comparisons and robustness rest on: em, match, match-substring, f1 or parts."""
    compare: tuple[str | tuple[str, str], ...] | str = ()
    """Systems that all others are compared with, or pairs [a, b], each a minus b; empty: the first
    (or `base`), and the method with its rivals."""
    refusals: tuple[str, ...] = PATTERNS
    """Regular expressions of a refusal in words; without it, those of
    `neurorit.data.refusals`."""
    cluster: str = ""
    """Field of the examples' meta, or of their gold passage, by which questions are resampled
    together; empty: every question for itself."""
    answer_after: str = ""
    """What stands before the answer in a reply, such as `Answer:`: what comes before its last
    occurrence, such as evidence, is not scored; a reply without it is scored whole."""

    def check(self, systems: Sequence[str]) -> None:
        """Raise BadInput for a pattern or system that there is not."""
        refusal_of("a", self.refusals)
        for entry in self._compared:
            for name in (entry,) if isinstance(entry, str) else entry:
                if name not in systems:
                    known = ", ".join(systems)
                    raise BadInput(f"compare names {name!r}, but the systems are {known}")

    @property
    def _compared(self) -> tuple[str | tuple[str, str], ...]:
        return (self.compare,) if isinstance(self.compare, str) else self.compare

    def pairs(self, systems: Sequence[str]) -> list[tuple[str, str]]:
        """The comparisons (a, b) to make, a minus b; the first one is the headline."""
        if not self.compare:
            reference = BASE if BASE in systems else systems[0]
            found = [(s, reference) for s in systems if s != reference]
            if METHOD in systems and reference != METHOD:
                found.sort(key=lambda pair: pair[0] != METHOD)
                found += [(METHOD, s) for s in systems if s not in (reference, METHOD)]
        else:
            found = []
            for entry in self._compared:
                if isinstance(entry, str):
                    found += [(s, entry) for s in systems if s != entry]
                else:
                    found.append(entry)
        return [pair for pair in dict.fromkeys(found) if pair[0] != pair[1]]

    def check_clusters(self, examples: Sequence[Example]) -> None:
        """Raise BadInput where an example has no such field, or all examples are one cluster."""
        labels = {self.cluster_of(example) for example in examples}
        if self.cluster and len(labels) == 1 and len({e.id for e in examples}) > 1:
            raise BadInput(
                f"cluster {self.cluster!r}: all questions have the same, {labels.pop()!r}; one "
                "cluster has no interval: choose another field, or none"
            )

    def cluster_of(self, example: Example) -> str:
        """What the example is resampled with; raises BadInput where the field is nowhere."""
        if not self.cluster:
            return example.id
        gold = next((p for p in example.passages if p.kind == "gold"), None)
        for place in (example.meta, {"title": gold.title, **gold.meta} if gold else {}):
            value = place.get(self.cluster)
            if isinstance(value, (str, int)) and str(value).strip():
                return str(value)
        raise BadInput(
            f"cluster {self.cluster!r}: example {example.id!r} has no such field in its meta nor "
            "in its first gold passage"
        )


def title_of(metric: str) -> str:
    """A metric's name at the beginning of a heading."""
    name = NAMES[metric]
    return name if metric == "ndcg" else name[0].upper() + name[1:]
