"""The settings of tuning, and the methods there are. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from neurorit.core.errors import BadInput
from neurorit.core.registry import Registry
from neurorit.core.settings import AtLeastOne, Count, Positive, Settings, Share
from neurorit.mining.settings import LAYER_CONTROLS, NEURON_CONTROLS

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
MAX_LORA_RANK = 512  # the largest that vLLM serves
REPLICATION = "as-released"
RIVALS = ("sft", "lora", "retrobust")
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
    },
)
LOSSES: Registry[LossTerm] = Registry(
    "loss",
    {
        "cross-entropy": "neurorit.tuning.tuned_model:cross_entropy",
        "cross-entropy-by-sample": "neurorit.tuning.tuned_model:cross_entropy_by_sample",
    },
)


def needs_atlas(method: str) -> bool:
    """Whether a method tunes mined neurons; raises BadInput for one that there is not."""
    if method in METHODS:  # without importing what trains
        return method not in RIVALS
    return TUNINGS.get(method, "‹method›").needs_atlas


@dataclass(frozen=True)
class TuneSettings(Settings):
    """How a model is tuned. Trained weights learn in float32; there is no weight decay, since it
    would move what must stay."""

    method: str = "neuro-rit"
    """neuro-rit; neurons; sft, lora, retrobust; a control (docs/method.md), or a registered one."""
    stage1_steps: Count = 20
    """Optimizer steps of stage 1; a method of one stage takes both stages' on stage 2's data."""
    stage1_learning_rate: Positive = 1e-3
    """Of P_irrel in stage 1."""
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
    target: Literal["answer", "evidence"] = "answer"
    """What stage 2 teaches to say: the answer, or the evidence and then the answer."""
    teacher: str = ""
    """OpenAI-compatible address that states the evidence; without, a sentence is picked."""
    teacher_model: str = ""
    """Its model's name there."""
    teacher_request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request to the teacher; null leaves one out, such as temperature."""
    batch_size: AtLeastOne = 24
    """Samples in a forward pass on each process."""
    accumulation: AtLeastOne = 1
    """Forward passes of an optimizer step."""
    warmup: Share = 0.05
    """Share of steps with a rising rate, which then falls linearly to a tenth."""
    max_grad_norm: Positive = 1.0
    """Gradients are cut to this norm."""
    lora_rank: AtLeastOne = 16
    """Rank of LoRA's matrices."""
    lora_alpha: AtLeastOne = 32
    """LoRA's scale, over its rank."""
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
        if self.teacher and self.target != "evidence":
            raise BadInput(f"‹teacher={self.teacher}› states evidence; set ‹target=evidence›")
        if self.stage1_steps + self.steps == 0:
            raise BadInput("‹stage1_steps› and ‹steps› are both 0: nothing would be tuned")
        if self.dense_layers == 0 and self.method in ("dense-only", *LAYER_CONTROLS):
            raise BadInput(f"‹method={self.method}› trains layers: ‹dense_layers› is at least 1")

    def check(self, *, atlas: bool, adapter: bool) -> None:
        """Raise BadInput where the method lacks what it needs, or cannot give what is asked for.

        atlas, adapter: whether one is given, or asked for.
        """
        if needs_atlas(self.method) and not atlas:
            raise BadInput(
                f"‹method={self.method}› needs ‹atlas›; make one with `neurorit-rag mine`"
            )
        if adapter and self.method not in NEURON_METHODS:
            raise BadInput(f"‹adapter›: method {self.method} tunes no neurons, it has none")
