"""The settings of mining. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from neurorit.core.errors import BadInput
from neurorit.core.registry import Registry
from neurorit.core.settings import AtLeastOne, Settings, Within
from neurorit.core.units import Amount

_SCORES, _RULES = "neurorit.mining.integrated_gradients", "neurorit.mining.selection.rules"
# Their types stand beside the parts themselves, which read these tables.
ATTRIBUTIONS: Registry[Any] = Registry(
    "attribution",
    {
        "integrated-gradients": f"{_SCORES}:INTEGRATED_GRADIENTS",
        "gradient-activation": f"{_SCORES}:GRADIENT_ACTIVATION",
        "activation": f"{_SCORES}:ACTIVATION",
        "scaled-gradients": f"{_SCORES}:SCALED_GRADIENTS",
        "relevance": "neurorit.mining.relevance:RELEVANCE",
    },
    form=f"{_SCORES}:Method",
)
SELECTIONS: Registry[Any] = Registry(
    "selection",
    {
        "count": f"{_RULES}:by_count",
        "mean": f"{_RULES}:by_mean",
        "difference": f"{_RULES}:by_difference",
        "gradient": f"{_RULES}:by_gradient",
        "fisher": f"{_RULES}:by_fisher",
        "spared-gradient": f"{_RULES}:by_spared_gradient",
        "spared-fisher": f"{_RULES}:by_spared_fisher",
        "noise-gradient": f"{_RULES}:by_noise_gradient",
        "random": f"{_RULES}:at_random",
        "active": f"{_RULES}:by_activity",
        "file": f"{_RULES}:from_file",
    },
)
SITES: Registry[Any] = Registry(
    "site",
    {
        "feed-forward": "neurorit.model.feed_forward:feed_forward",
        "heads": "neurorit.model.feed_forward:attention_heads",
    },
)
# What is made of the records afterwards: changing it needs no attribution again.
AFTERWARDS = (
    "selection", "share", "neurons", "sizes", "measured", "general", "neuron_list", "resamples",
    "max_residual", "force",
)  # fmt: skip
# Rules that measure more of a model than its scores.
MEASURING = (
    "gradient", "fisher", "spared-gradient", "spared-fisher", "noise-gradient", "active",
)  # fmt: skip
# Settings of the choice alone: an atlas that differs in no other need not be mined anew.
OF_THE_CHOICE = ("selection", "neurons", "sizes", "measured", "general", "neuron_list")
# Settings that name a file which the atlas is made of.
FILES = ("general", "neuron_list")


@dataclass(frozen=True)
class MiningSettings(Settings):
    """How neurons are mined."""

    samples: AtLeastOne = 128
    """Contexts of each side at most."""
    noise_passages: AtLeastOne = 1
    """Passages in an irrelevant context."""
    layout: Literal["matched", "apart"] = "matched"
    """matched: as many passages on both sides, the gold ones' places taken by noise of like length,
    compared with the same wording without passages; apart: gold passages alone, compared with the
    template's own wording of a bare question [I]."""
    task: Literal["answer", "yes-no"] = "answer"
    """What is asked of a context: the question, or as in the released code whether a proposed
    answer, the gold one, can be derived from it: the target is YES on both sides [R]."""
    contexts: Literal["followed", "all"] = "followed"
    """followed: those that the model's own answer follows (relevant ones that it answers rightly,
    irrelevant ones whose noise it repeats), out of four times `samples`, attributed where its words
    do; all: as they come [I]."""
    asking: Literal["auto", "float32", "bfloat16"] = "auto"
    """What contexts are answered in; auto: bfloat16 for a large model where the processor is quick
    in it."""
    prefill: Literal["as-activations", "as-asking"] = "as-activations"
    """What prompts are read in before their rows: as `activations`, or as contexts are asked. In
    bfloat16 scores add up as exactly, and share 97 % of each context's twenty largest with
    float32's [I]."""
    least_gain: float = 0.01
    """A followed context votes only if F rises by so much with it, and falls by so much with all
    its neurons as without it; 0 counts all [I]."""
    method: str = "integrated-gradients"
    """How neurons are scored: integrated-gradients, gradient-activation, relevance (RelP: one
    backward pass by the rules of layer-wise relevance propagation), activation (a control),
    scaled-gradients (the predecessors' published code), or a registered one."""
    objective: Literal["first-token", "answer-span", "log-prob"] = "first-token"
    """What is attributed: the probability of the answer's first token or of the whole answer
    (answer-span), or its logarithm (log-prob)."""
    steps: AtLeastOne = 20
    """Steps of the path, m."""
    quadrature: Literal["midpoint", "gauss-legendre"] = "midpoint"
    """The rule that sums the path: midpoint, or gauss-legendre, of which six steps are as exact as
    twenty (docs/log.md) [I]."""
    rows: AtLeastOne = 512
    """Tokens in one pass at most, the bound on memory."""
    memory: Annotated[int, Amount()] | None = None
    """Budget for activations, such as 2GiB, which sets the rows."""
    irrelevant_target: Literal["own-answer", "gold"] = "own-answer"
    """What an irrelevant context is scored by: what the model says when misled, or gold [I]."""
    answer_tokens: AtLeastOne = 16
    """Tokens of the model's own answer at most."""
    threshold: Annotated[float, Within(0)] = 0.1
    """Scores under this share of the context's largest are dropped [P]."""
    top: AtLeastOne = 200
    """Neurons kept of a context at most."""
    stored: AtLeastOne = 1000
    """Scores of either sign that the atlas keeps of each context, for other selections."""
    site: str = "feed-forward"
    """Where the neurons are: feed-forward, heads (attention heads, whose columns of the output
    projection are tuned), or a registered site."""
    selection: str = "count"
    """The rule that chooses among them: count, mean, difference, gradient, fisher, spared-gradient,
    spared-fisher, noise-gradient, random, active, file, or a registered one."""
    share: Annotated[float, Within(above=0, most=1)] = 0.05
    """Neurons kept for a side, as a share of all neurons, the same for both sides [I]."""
    neurons: Annotated[float, Within(above=0)] | None = None
    """Neurons of all sets together over all layers, in place of `share`: below 1 a share of all
    neurons, from 1 on a count."""
    sizes: Mapping[Literal["rel", "irrel", "shared"], AtLeastOne] = field(default_factory=dict)
    """Neurons of each set over all layers, in place of a budget: P_shared by the worse of a
    neuron's two places, then the first that are left of either side [R, I]. For rules that rank
    the sides apart."""
    measured: AtLeastOne = 256
    """Examples, and texts, on which a selection measures gradients or activity."""
    general: str = ""
    """Text that the model is to keep, for the spared-... and noise-gradient selections: JSONL with
    a `text` a line, paragraphs, or lab."""
    neuron_list: str = ""
    """What the selection file reads: lines LAYER NEURON, then rel, irrel or shared."""
    resamples: AtLeastOne = 200
    """Resamples of the bootstrap."""
    max_residual: Annotated[float, Within(0)] = 0.05
    """An atlas whose median completeness residual is above is refused."""
    dtype: str = "auto"
    """Of the weights: auto (as stored), float32 or bfloat16."""
    activations: Literal["float32", "tf32", "bfloat16-inputs", "as-weights"] = "float32"
    """What is computed in. tf32, bfloat16-inputs: float32, but its products are of inputs with 10
    or 7 bits, which a GPU multiplies quickly (a CPU rounds them by hand, which is slower).
    as-weights: all as weights are stored. The lab's model has median residuals of 0.02 %, 0.4 %,
    2.6 % and (in bfloat16) 11 % so, SmolLM2-135M 0.1 %, 1 %, 6.8 % and 20 %."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    pipeline: AtLeastOne = 1
    """So many of the processes that torchrun started part the model's layers between them, each
    with a device of its own and no other layers' weights; lines of them share the contexts."""
    force: bool = False
    """Keep an atlas whose residual is above `max_residual`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ATTRIBUTIONS.check(self.method, "‹method›")
        SELECTIONS.check(self.selection, "‹selection›")
        SITES.check(self.site, "‹site›")
        if self.sizes and (self.neurons is not None or len(self.sizes) < 3):
            raise BadInput("‹sizes›: name rel, irrel and shared, and leave ‹neurons› out")
        if self.pipeline > 1 and self.selection in MEASURING:
            raise BadInput(
                f"‹selection={self.selection}› measures the whole model, and with "
                f"‹pipeline={self.pipeline}› no process has it; mine with ‹selection=count›, then "
                "choose with `atlas select` where the model fits"
            )
        if self.prefill == "as-asking" and self.asking == "auto":
            raise BadInput(
                "‹prefill=as-asking›: name ‹asking› too, float32 or bfloat16: scores must not "
                "depend on the machine that a run goes on with"
            )
        if self.task == "yes-no" and (self.contexts, self.irrelevant_target) != ("all", "gold"):
            raise BadInput(
                "‹task=yes-no› has one target, YES, on both sides: set ‹contexts=all› and "
                "‹irrelevant_target=gold›"
            )


def revisions(settings: MiningSettings) -> dict[str, str]:
    """Setting -> revision of the part that it names, of those that are not ours."""
    named = {
        "method": ATTRIBUTIONS.revision(settings.method),
        "site": SITES.revision(settings.site),
        "selection": SELECTIONS.revision(settings.selection),
    }
    return {name: revision for name, revision in named.items() if revision}


NEURON_CONTROLS = ("random-neurons", "active-neurons", "swapped-groups")
LAYER_CONTROLS = ("first3", "last3", "random3")
