"""The settings of tuning, and the methods there are. It imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from neurorit.core.errors import BadInput
from neurorit.core.registry import Registry
from neurorit.mining.settings import LAYER_CONTROLS, NEURON_CONTROLS

if TYPE_CHECKING:
    from neurorit.tuning.stages import Method
    from neurorit.tuning.tuned_model import LossTerm

NEURON_METHODS = (
    "neuro-rit",
    "stage1-only",
    "stage2-only",
    *NEURON_CONTROLS,
    *LAYER_CONTROLS,
)
RIVALS = ("sft", "lora", "retrobust")
METHODS = (*NEURON_METHODS, *RIVALS)
TUNINGS: Registry[Method] = Registry(
    "tuning",
    {
        # Controls are tuned like the method, with other neurons or layers (mining.controls).
        **dict.fromkeys(NEURON_METHODS, "neurorit.tuning.stages:BOTH_STAGES"),
        "stage1-only": "neurorit.tuning.stages:STAGE1",
        "stage2-only": "neurorit.tuning.stages:STAGE2",
        "sft": "neurorit.tuning.stages:SFT",
        "lora": "neurorit.tuning.stages:LORA",
        "retrobust": "neurorit.tuning.stages:RETROBUST",
    },
)
LOSSES: Registry[LossTerm] = Registry(
    "loss", {"cross-entropy": "neurorit.tuning.tuned_model:cross_entropy"}
)


def needs_atlas(method: str) -> bool:
    """Whether a method tunes mined neurons; raises BadInput for one that there is not."""
    if method in METHODS:  # without importing what trains
        return method in NEURON_METHODS
    return TUNINGS.get(method, "--method").needs_atlas


@dataclass(frozen=True)
class TuneSettings:
    """How a model is tuned.

    method: of TUNINGS. losses: terms of LOSSES and their weights, of which the loss is the sum.
    stage1_steps, steps: optimizer steps of the two stages; a rival takes
    their sum on stage 2's data. stage1_learning_rate: of P_irrel in stage 1; learning_rate: of the
    neurons in stage 2 and of a rival; dense_learning_rate: of the dense layers' blocks (None: the
    same). dense_layers: how many layers are trained fully.
    target: what stage 2 teaches to say, `answer`, or `evidence` and then the answer; teacher,
    teacher_model: an OpenAI-compatible address and model that state the evidence (else a sentence
    is picked).
    batch_size: samples in a forward pass on each process; accumulation: of these a step. warmup:
    share of steps with a rising rate, which then falls linearly to a tenth. Weight decay is none,
    since it would move what must stay. max_length: longer samples are left out.
    gradient_checkpointing: less memory, more time. shard: spread the weights over all processes
    (FSDP), for models that do not fit on one device. dtype: of frozen weights and of what is
    written; auto is the one that the checkpoint is stored in. Trained weights learn in float32.
    precision: of matrix products of float32 weights, bf16 or float32; auto is bf16 for large models
    on a CPU that is quick in it.
    device: auto, cpu, cuda or cuda:N. checkpoint_every: steps between saved states. report_to:
    names of the Trainer's loggers, such as tensorboard, parted by commas.
    """

    method: str = "neuro-rit"
    stage1_steps: int = 20
    stage1_learning_rate: float = 1e-3
    steps: int = 150
    learning_rate: float = 1e-3
    dense_learning_rate: float | None = None
    dense_layers: int = 3
    losses: Mapping[str, float] = field(default_factory=lambda: {"cross-entropy": 1.0})
    target: str = "answer"
    teacher: str = ""
    teacher_model: str = ""
    batch_size: int = 24
    accumulation: int = 1
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    lora_rank: int = 16
    lora_alpha: int = 32
    max_length: int = 2048
    gradient_checkpointing: bool = False
    shard: bool = False
    dtype: str = "auto"
    precision: str = "auto"
    device: str = "auto"
    checkpoint_every: int = 50
    report_to: str = "none"

    def check(self, *, atlas: bool, adapter: bool) -> None:
        """Raise BadInput, naming the setting, for one that is out of range.

        atlas, adapter: whether one is given, or asked for.
        """
        if self.method not in TUNINGS:
            raise BadInput(f"--method {self.method}: it is one of {', '.join(TUNINGS.names())}")
        if not self.losses:
            raise BadInput("tune: losses names no term: nothing would be learned")
        for name in self.losses:
            LOSSES.check(name, "tune: losses")
        if self.target not in ("answer", "evidence"):
            raise BadInput("tune: target must be answer or evidence")
        if self.precision not in ("auto", "float32", "bf16"):
            raise BadInput("tune: precision must be auto, float32 or bf16")
        if self.teacher and self.target != "evidence":
            raise BadInput("tune: a teacher states evidence; set target=evidence")
        if needs_atlas(self.method) and not atlas:
            raise BadInput(
                f"--method {self.method} needs --atlas; make one with `neurorit-rag mine`"
            )
        if adapter and self.method not in NEURON_METHODS:
            raise BadInput(f"--adapter: method {self.method} tunes no neurons, it has none")
        positive = ("batch_size", "accumulation", "max_length", "checkpoint_every", "lora_rank")
        for name in (*positive, "dense_layers"):
            if getattr(self, name) < 1:
                raise BadInput(f"tune: {name} must be at least 1")
        for name in ("stage1_steps", "steps"):
            if getattr(self, name) < 0:
                raise BadInput(f"tune: {name} must be 0 or more")
        if self.stage1_steps + self.steps == 0:
            raise BadInput("tune: stage1_steps and steps are both 0: nothing would be tuned")
        for name in ("stage1_learning_rate", "learning_rate", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise BadInput(f"tune: {name} must be above 0")
