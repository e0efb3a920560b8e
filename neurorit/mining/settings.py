"""The settings of mining. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from neurorit.core.errors import BadInput
from neurorit.core.registry import Registry

if TYPE_CHECKING:
    from neurorit.mining.integrated_gradients import Method
    from neurorit.mining.selection import Rule
    from neurorit.model.feed_forward import FeedForward

_SCORES, _RULES = "neurorit.mining.integrated_gradients", "neurorit.mining.selection"
ATTRIBUTIONS: Registry[Method] = Registry(
    "attribution",
    {
        "integrated-gradients": f"{_SCORES}:INTEGRATED_GRADIENTS",
        "gradient-activation": f"{_SCORES}:GRADIENT_ACTIVATION",
        "activation": f"{_SCORES}:ACTIVATION",
        "scaled-gradients": f"{_SCORES}:SCALED_GRADIENTS",
    },
)
SELECTIONS: Registry[Rule] = Registry(
    "selection",
    {
        "count": f"{_RULES}:_by_count",
        "mean": f"{_RULES}:_by_mean",
        "difference": f"{_RULES}:_by_difference",
        "gradient": f"{_RULES}:_by_gradient",
        "spared-gradient": f"{_RULES}:_by_spared_gradient",
        "random": f"{_RULES}:_at_random",
        "active": f"{_RULES}:_by_activity",
        "file": f"{_RULES}:_from_file",
    },
)
SITES: Registry[Callable[[Any], FeedForward]] = Registry(
    "site", {"feed-forward": "neurorit.model.feed_forward:feed_forward"}
)
OBJECTIVES = ("first-token", "answer-span", "log-prob")
CONTEXTS = ("followed", "all")
LAYOUTS = ("matched", "apart")
ASKING = ("auto", "float32", "bfloat16")
ACTIVATIONS = ("float32", "as-weights")
# What is made of the records afterwards: changing it needs no attribution again.
AFTERWARDS = ("selection", "share", "resamples", "max_residual", "force")


@dataclass(frozen=True)
class MiningSettings:
    """How neurons are mined.

    samples: most contexts of each side. noise_passages: passages in an irrelevant context.
    layout: "matched" shows as many passages on both sides, the gold ones' places taken by noise of
    like length, and compares with the same wording without passages; "apart" shows gold passages
    alone, and compares with the template's own wording of a bare question [I].
    contexts: "followed" takes those that the model's own answer follows (relevant ones that it
    answers rightly, irrelevant ones whose noise it repeats), out of at most four times `samples`,
    and attributes where its words do; "all" takes them as they come [I]. asking: what contexts are
    answered in; auto is bfloat16 for a large model where the processor is quick in it.
    least_gain: a followed context votes only if F rises by so much with it, and falls by so much
    with all its neurons as without it; 0 counts all [I]. method, objective, steps, rows: see
    integrated_gradients.Settings.
    memory: a budget for activations such as 2GiB, which sets the rows. irrelevant_target: what the
    irrelevant side's F is of, "own-answer" (what the model says when misled) or "gold" [I];
    answer_tokens: the longest own answer. dtype: of the weights, auto as stored; activations: what
    is computed in, "float32" or "as-weights" (quicker on a GPU in bfloat16, and its scores add up
    to some 10 %).
    threshold: scores under this share of the context's largest are dropped [K]; top: most neurons
    kept per context; stored: scores of either sign that the atlas keeps of each context, for other
    selections. site: where the neurons are; selection: the rule that chooses K of them from what
    was kept, see `neurorit.mining.selection`. share: K as a share of all neurons, the same for both
    sides [I]. resamples: of the bootstrap. max_residual: an atlas whose median completeness
    residual is above is refused; force keeps it.
    """

    samples: int = 128
    noise_passages: int = 1
    layout: str = "matched"
    contexts: str = "followed"
    asking: str = "auto"
    least_gain: float = 0.01
    method: str = "integrated-gradients"
    objective: str = "first-token"
    steps: int = 20
    rows: int = 512
    memory: str = ""
    irrelevant_target: str = "own-answer"
    answer_tokens: int = 16
    threshold: float = 0.1
    top: int = 200
    stored: int = 1000
    site: str = "feed-forward"
    selection: str = "count"
    share: float = 0.05
    resamples: int = 200
    max_residual: float = 0.05
    dtype: str = "auto"
    activations: str = "float32"
    device: str = "auto"
    force: bool = False

    def check(self) -> None:
        """Raise BadInput, naming the setting, for one that is out of range."""
        ATTRIBUTIONS.check(self.method, "mine: method")
        SELECTIONS.check(self.selection, "mine: selection")
        SITES.check(self.site, "mine: site")
        allowed = {
            "objective": OBJECTIVES,
            "irrelevant_target": ("own-answer", "gold"),
            "contexts": CONTEXTS,
            "layout": LAYOUTS,
            "asking": ASKING,
            "activations": ACTIVATIONS,
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise BadInput(f"mine: {name} must be one of {', '.join(values)}")
        for name in (
            "samples",
            "noise_passages",
            "steps",
            "rows",
            "top",
            "stored",
            "resamples",
            "answer_tokens",
        ):
            if getattr(self, name) < 1:
                raise BadInput(f"mine: {name} must be at least 1")
        if not 0.0 < self.share <= 1.0:
            raise BadInput("mine: share must be above 0 and at most 1")


NEURON_CONTROLS = ("random-neurons", "active-neurons", "swapped-groups")
LAYER_CONTROLS = ("first3", "last3", "random3")
