"""How large the demonstration on a real model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Count, Settings, Within
from neurorit.eval.conditions import CONDITIONS, parse_condition
from neurorit.eval.metrics.settings import METHOD
from neurorit.tuning.settings import RIVALS

# Some answers of real text have no other of their kind to take their place.
_CONDITIONS = tuple(name for name in CONDITIONS if not name.startswith("counterfactual"))


@dataclass(frozen=True)
class DemoSettings(Settings):
    """How large the demonstration on a real model is (`demo --model`)."""

    questions: AtLeastOne = 300
    """Test questions of each set."""
    rivals: tuple[str, ...] = ("sft", "lora")
    """Methods that learn from the same samples as neuro-rit and are asked beside it."""
    served: str = ""
    """The tuned model that is served: neuro-rit or one of `rivals`; without, the one that the
    evidence supports best (docs/results.md): retrobust, else lora."""
    conditions: tuple[str, ...] = _CONDITIONS
    """Conditions of the evaluation."""
    max_tokens: AtLeastOne = 24
    """Tokens of an answer at most."""
    least_words: Count = 0
    """Passages of fewer words are left out, with the questions whose gold passages they are."""
    most_words: Count = 0
    """The same for passages of more words; 0: any number."""
    test_share: float = 0.2
    """Share of the questions that become the test, where the data does not part them itself."""
    people: AtLeastOne = 800
    """Without data: invented people to tune on."""
    causal_contexts: AtLeastOne = 24
    """Contexts of each side in which mined neurons are silenced."""
    causal_draws: AtLeastOne = 1
    """Sets of random neurons that are silenced beside them."""
    retained: Annotated[int, Within(2)] = 60
    """Texts and questions of another domain, of which retention is measured."""
    instructions: Count = 24
    """Instructions to follow, of which it is measured too."""
    encoder: str = "minilm+int8"
    """What encodes the passages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.most_words and self.most_words < self.least_words:
            raise BadInput(f"‹most_words› must be {self.least_words} or more, or 0")
        if not 0 < self.test_share < 1:
            raise BadInput("‹test_share› must be above 0 and below 1")
        for condition in self.conditions:
            parse_condition(condition)
        for rival in self.rivals:
            if rival not in RIVALS:
                raise BadInput(f"‹rivals›: {rival!r} is none of {', '.join(RIVALS)}")
            if self.rivals.count(rival) > 1:
                raise BadInput(f"‹rivals›: {rival!r} stands there twice")
        if self.served and self.served not in (METHOD, *self.rivals):
            told = ", ".join((METHOD, *self.rivals))
            raise BadInput(f"‹served={self.served}›: what is tuned is {told}")

    @property
    def to_serve(self) -> str:
        """The name of the tuned model that is served."""
        best = [name for name in ("retrobust", "lora") if name in self.rivals]
        return self.served or next(iter(best), METHOD)
