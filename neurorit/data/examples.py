"""Questions and examples: the JSONL records that mixing writes and every later stage reads.

What is read as such says `neurorit.data.example_files`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from neurorit.core.registry import Registry

_KINDS = "neurorit.retrieval.noise.kinds"
NOISE: Registry[Any] = Registry(
    "noise",
    {
        "distractor": f"{_KINDS}:distractors",
        "random": f"{_KINDS}:randoms",
        "counterfactual": f"{_KINDS}:counterfactuals",
        "near-duplicate": f"{_KINDS}:near_duplicates",
        "injected": f"{_KINDS}:injected",
    },
)


def passage_kinds() -> tuple[str, ...]:
    """What a passage of an example may be: gold, and every kind of noise that there is."""
    return ("gold", *NOISE.names())


@dataclass(frozen=True)
class Passage:
    """One passage. `kind` says why it stands in an example; None for a passage of a corpus."""

    id: str
    title: str
    text: str
    kind: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """A question with its accepted answers (first one canonical) and ordered, typed passages.

    Without answers it is `unanswerable`, or it is only good for measuring a search.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_evidence(self) -> bool:
        """True when a gold passage is among the passages."""
        return any(passage.kind == "gold" for passage in self.passages)

    @property
    def unanswerable(self) -> bool:
        """True when the right reply is to abstain: it is known that there is no answer."""
        return not self.answers and bool(self.meta.get("unanswerable"))

    @property
    def parts(self) -> list[Sequence[str]]:
        """What a right answer holds: of each part one of its forms. Most answers are one part."""
        given = self.meta.get("parts")
        return list(given) if given else [self.answers]
