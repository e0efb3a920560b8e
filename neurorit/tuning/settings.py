"""The settings of tuning, and the methods there are. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from neurorit.core.errors import BadInput
from neurorit.core.registry import Registry
from neurorit.core.settings import AtLeastOne, Count, Positive, Settings, Share, Within
from neurorit.mining.settings import LAYER_CONTROLS, NEURON_CONTROLS
from neurorit.model.prompts import Wording

if TYPE_CHECKING:
    from neurorit.tuning.stages import Method
    from neurorit.tuning.tuned_model import LossTerm

NEURON_METHODS = (
    "neuro-rit",
    "stage1-only",
    "stage2-only",
    "neurons",
    "dense-only",
    *NEURON_CONTROLS,
    *LAYER_CONTROLS,
)
HOLD = "kl-to-base"
MAX_LORA_RANK = 512  # the largest that vLLM serves
REPLICATION = "as-released"
FIRST_STAGE = "stage1"
RIVALS = ("sft", "lora", "retrobust", "shira", "s2ft")
METHODS = (*NEURON_METHODS, REPLICATION, *RIVALS)
TUNINGS: Registry[Method] = Registry(
    "tuning",
    {
        # Controls are tuned like the method, with other neurons or layers (mining.controls).
        **dict.fromkeys(NEURON_METHODS, "neurorit.tuning.stages:BOTH_STAGES"),
        "stage1-only": "neurorit.tuning.stages:STAGE1",
        "stage2-only": "neurorit.tuning.stages:STAGE2",
        "neurons": "neurorit.tuning.stages:NEURONS",
        "dense-only": "neurorit.tuning.stages:DENSE_ONLY",
        REPLICATION: "neurorit.tuning.stages:AS_RELEASED",
        "sft": "neurorit.tuning.stages:SFT",
        "lora": "neurorit.tuning.stages:LORA",
        "retrobust": "neurorit.tuning.stages:RETROBUST",
        "shira": "neurorit.tuning.stages:SHIRA",
        "s2ft": "neurorit.tuning.stages:S2FT",
    },
    form="neurorit.tuning.stages:Method",
)
LOSSES: Registry[LossTerm] = Registry(
    "loss",
    {
        "cross-entropy": "neurorit.tuning.tuned_model:cross_entropy",
        "cross-entropy-by-sample": "neurorit.tuning.tuned_model:cross_entropy_by_sample",
        HOLD: "neurorit.tuning.tuned_model:kl_to_base",
    },
)


def needs_atlas(method: str) -> bool:
    """Whether a method tunes mined neurons; raises BadInput for one that there is not."""
    if method in METHODS:  # without importing what trains
        return method not in RIVALS
    return TUNINGS.get(method, "‹method›").needs_atlas


def has_adapter(method: str) -> bool:
    """Whether what a method changes can be written alone; raises BadInput for one there is not."""
    if method in METHODS:
        return method in NEURON_METHODS
    own = TUNINGS.get(method, "‹method›")
    return own.needs_atlas and (own.neurons or own.dense)


def settings_inputs(settings: TuneSettings) -> dict[str, str]:
    """Digests of what settings name: files, and parts that are not ours."""
    from neurorit.retrieval.corpus.reader import corpus_digest

    found = {"method": TUNINGS.revision(settings.method)}
    found |= {f"loss {name}": LOSSES.revision(name) for name in settings.losses}
    if settings.kl_text:
        found["kl_text"] = corpus_digest(Path(settings.kl_text))
    return {name: digest for name, digest in found.items() if digest}


@dataclass(frozen=True)
class TuneSettings(Settings):
    """How a model is tuned. Trained weights learn in float32; there is no weight decay, since it
    would move what must stay."""

    method: str = "neuro-rit"
    """neuro-rit; neurons; a rival (sft, lora, retrobust, s2ft, shira), a control (docs/method.md),
    or a registered one."""
    stage1_steps: Count = 20
    """Optimizer steps of stage 1; a method of one stage takes both stages' on stage 2's data."""
    stage1_learning_rate: Positive = 1e-3
    """Of the neurons in stage 1."""
    stage1_sets: tuple[Literal["rel", "irrel", "shared"], ...] = ("irrel",)
    """The sets of neurons that learn in stage 1: P_irrel [P], or others too [I]."""
    steps: Count = 150
    """Optimizer steps of stage 2."""
    learning_rate: Positive = 1e-3
    """Of the neurons in stage 2, and of a rival."""
    dense_learning_rate: Positive | None = None
    """Of the dense layers' blocks; without, the same."""
    dense_layers: Count = 3
    """How many layers are trained fully."""
    losses: Mapping[str, float] = field(default_factory=lambda: {"cross-entropy": 1.0})
    """Terms of the loss and their weights: cross-entropy (all tokens weigh alike),
    cross-entropy-by-sample (all samples do), or registered ones."""
    kl_weight: Annotated[float, Within(0)] = 0.0
    """Weight of KL(base || tuned) beside these terms, a mean over held tokens; 0 holds nothing."""
    stage1_kl_weight: Annotated[float, Within(0)] | None = None
    """The same in stage 1; without, as `kl_weight`."""
    kl_on: tuple[Literal["evidence", "text"], ...] = ("evidence",)
    """What is held: evidence (the responses to samples with evidence; stage 1 gets some beside
    every batch), text (pieces of general text beside every batch)."""
    kl_batch: AtLeastOne = 8
    """Held samples of each kind beside a batch."""
    kl_text: str = ""
    """General text, a corpus as `index` takes it; without, the examples' own passages."""
    kl_text_tokens: Annotated[int, Within(2)] = 64
    """Tokens of a piece of it; its second half is held."""
    selectivity_samples: Count = 32
    """Samples of each kind on which P(end at once) is measured while training; 0 measures none."""
    measure_every: AtLeastOne = 50
    """Steps between two measures, beside the first and the last."""
    held_out: bool = False
    """Nothing is learned from the samples that are measured on."""
    stage1_patience: Count = 0
    """Stage 1 ends after so many measures without better selectivity, in its best state; 0 takes
    every step."""
    noise_share: Share | None = None
    """Share of samples without evidence in the batches of a stage that learns from both kinds;
    without, as they come in the examples."""
    noise_order: Literal["mixed", "first", "last"] = "mixed"
    """When these come: in every batch, or all of them before or after those with evidence."""
    target: Literal["answer", "evidence", "evidence-only"] = "answer"
    """What stage 2 teaches to say: the answer, the evidence and then the answer, or the evidence
    without the answer."""
    wording: Wording = "as-it-is"
    """Prompts ask as the model's template does, or by a dual instruction: first for the relevant
    evidence, then for the answer; the tuned checkpoint keeps it."""
    refusal: str = ""
    """What stage 2 teaches to say where no evidence stands; empty is the end at once."""
    teacher: str = ""
    """OpenAI-compatible address that states the evidence, its key in NEURORIT_TEACHER_KEY; without,
    a sentence is picked."""
    teacher_model: str = ""
    """Its model's name there."""
    teacher_request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request to the teacher; null leaves one out, such as temperature."""
    batch_size: AtLeastOne = 24
    """Samples in a forward pass on each process."""
    accumulation: AtLeastOne = 1
    """Forward passes of an optimizer step."""
    warmup: Share = 0.05
    """Share of steps with a rising rate, which then falls linearly."""
    final_rate: Share = 0.1
    """What it falls to, as a share of the rate."""
    second_moment: Annotated[float, Within(0, 0.9999)] = 0.98
    """AdamW's decay of squared gradients."""
    max_grad_norm: Positive = 1.0
    """Gradients are cut to this norm."""
    lora_rank: AtLeastOne = 16
    """Rank of LoRA's matrices; shira and s2ft train as many parameters."""
    lora_alpha: AtLeastOne = 32
    """LoRA's scale, over its rank."""
    rival_parameters: Count = 0
    """Parameters that lora, retrobust, shira and s2ft train, as near as a rank or whole columns
    come, for comparison at equal budget; 0 leaves it to `lora_rank`."""
    max_length: AtLeastOne = 2048
    """Samples of more tokens are left out."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    shard: bool = False
    """Spread the weights over all processes (FSDP), for models that do not fit on one device; each
    reads and writes its part alone (but of LoRA and GPT-NeoX)."""
    dtype: str = "auto"
    """Of frozen weights and of what is written; auto: as the checkpoint is stored."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Of matrix products of float32 weights; auto: bf16 for large models on a CPU that is quick in
    it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    checkpoint_every: AtLeastOne = 50
    """Steps between saved states."""
    report_to: str = "none"
    """The Trainer's loggers, such as tensorboard, parted by commas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        TUNINGS.check(self.method, "‹method›")
        if not self.losses:
            raise BadInput("‹losses› names no term: nothing would be learned")
        for name in self.losses:
            LOSSES.check(name, "‹losses›")
        if HOLD in self.losses:
            raise BadInput(f"‹losses›: {HOLD} gets its weight by ‹kl_weight›")
        if self.holds and not self.kl_on:
            raise BadInput("‹kl_on› is empty: name what is held, or set ‹kl_weight=0›")
        if self.kl_text and not (self.holds and "text" in self.kl_on):
            raise BadInput("‹kl_text› is held where ‹kl_on› names text and ‹kl_weight› is above 0")
        if self.holds and self.shard:
            raise BadInput("‹kl_weight›: a model that is spread by ‹shard› keeps no base beside it")
        if self.stage1_patience and not (self.held_out and self.selectivity_samples):
            raise BadInput(
                "‹stage1_patience› needs samples that nothing learns from: set ‹held_out=True› and "
                "‹selectivity_samples› above 0"
            )
        if self.teacher and self.target == "answer":
            raise BadInput(f"‹teacher={self.teacher}› states evidence; set ‹target=evidence›")
        if not self.stage1_sets:
            raise BadInput("‹stage1_sets› is empty: no neuron would learn in stage 1")
        if self.stage1_steps + self.steps == 0:
            raise BadInput("‹stage1_steps› and ‹steps› are both 0: nothing would be tuned")
        if self.dense_layers == 0 and self.method in ("dense-only", *LAYER_CONTROLS):
            raise BadInput(f"‹method={self.method}› trains layers: ‹dense_layers› is at least 1")

    @property
    def holds(self) -> bool:
        """Whether a stage keeps the base in place."""
        return self.kl_weight > 0 or bool(self.stage1_kl_weight)

    def terms(self, stage: str) -> dict[str, float]:
        """Terms of a stage's loss and their weights."""
        weight = self.kl_weight
        if stage == FIRST_STAGE and self.stage1_kl_weight is not None:
            weight = self.stage1_kl_weight
        return {**self.losses, HOLD: weight} if weight > 0 else dict(self.losses)

    def check(self, *, atlas: bool, adapter: bool) -> None:
        """Raise BadInput where the method lacks what it needs, or cannot give what is asked for.

        atlas, adapter: whether one is given, or asked for.
        """
        if needs_atlas(self.method) and not atlas:
            raise BadInput(
                f"‹method={self.method}› needs ‹atlas›; make one with `neurorit-rag mine`"
            )
        if adapter and not has_adapter(self.method):
            raise BadInput(f"‹adapter›: method {self.method} tunes no neurons, it has none")
