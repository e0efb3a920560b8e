"""Checkpoints, and where each architecture keeps its feed-forward neurons.

One small table says, per model type, where the layers are and what their projections are called.
It knows nothing of attribution or training.
"""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurorit.core.artifact import hash_file
from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import checkpoint_dir


@dataclass(frozen=True)
class _Names:
    """Where a layer keeps its feed-forward block. A fused block holds gate and up in one matrix."""

    layers: str = "model.layers"
    attention: str = "self_attn"
    block: str = "mlp"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    fused: bool = False


_GATED = _Names()
_ARCHITECTURES = {
    "llama": _GATED,
    "mistral": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "gemma2": _GATED,
    "gemma3_text": _GATED,
    "olmo": _GATED,
    "olmo2": _GATED,
    "phi3": _Names(gate=None, up="gate_up_proj", fused=True),
    "gpt_neox": _Names(
        layers="gpt_neox.layers",
        attention="attention",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    ),
}
# Models that also see, by type: where their language model's weights stand, and where they stand in
# a model of text alone, which is what is loaded, tuned and written.
_TEXT_INSIDE = {
    "gemma3": {
        r"^language_model\.model\.": "model.",
        r"^language_model\.lm_head\.": "lm_head.",
        r"^model\.language_model\.": "model.",
    }
}


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward blocks of a model: L layers of F neurons each.

    Neuron (l, j) is coordinate j of the input to layer l's down-projection.
    """

    blocks: Sequence[nn.Module]
    names: _Names

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """F, the neurons of one layer."""
        return self.down(0).in_features

    @property
    def fused(self) -> bool:
        """True where gate and up stand in one matrix (gate first)."""
        return self.names.fused

    def down(self, layer: int) -> nn.Linear:
        """The down-projection, weight [d, F]."""
        return self._linear(layer, self.names.down)

    def up(self, layer: int) -> nn.Linear:
        """The up-projection, weight [F, d] (or [2 F, d] where fused)."""
        return self._linear(layer, self.names.up)

    def gate(self, layer: int) -> nn.Linear | None:
        """The gate, weight [F, d]; None for blocks without one and for fused blocks."""
        return None if self.names.gate is None else self._linear(layer, self.names.gate)

    def _linear(self, layer: int, name: str) -> nn.Linear:
        module = getattr(self.blocks[layer], name)
        if not isinstance(module, nn.Linear):
            raise BadInput(f"layer {layer}: {name} is no plain linear layer (quantised?)")
        return module


def load_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    path: a checkpoint directory or a hub name. dtype: auto is the type that it is stored in.
    device: auto takes a GPU where there is one; weights are read straight to it. Raises BadInput
    when it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # commands show their own
    told = logging.get_verbosity()
    folder = checkpoint_dir(path)
    # A lone name may be a hub's; longer ones are paths.
    if len(folder.parts) > 1 and not folder.is_dir():
        raise BadInput(f"--model {path}: no such folder")
    place = device_named(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        inside = _TEXT_INSIDE.get(config.model_type)
        if inside is not None:
            config = config.text_config
            logging.set_verbosity_error()  # the weights of the other parts are not missed
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            key_mapping=inside,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map={"": place},
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"--model {path}: no checkpoint could be loaded there: {reason}") from error
    finally:
        logging.set_verbosity(told)
    if inside is not None:
        model._weight_conversions = None  # else it would be written under the names it was read by
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the fused kernel leaves the soft cap out
    return model.eval(), tokenizer


def release() -> None:
    """Give the GPU memory of models that nothing holds any more back, for another process."""
    gc.collect()  # a Trainer and its model hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_savable(model: Any) -> None:
    """Mend what would make `save_pretrained` refuse the model, before time is spent on it.

    Some checkpoints name a temperature and do not say that they sample. Raises BadInput where a
    generation config stays at odds with itself.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
        return
    except ValueError:
        config.do_sample = True
    try:
        config.validate(strict=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"the model's generation_config.json cannot be saved again: {reason}"
        ) from error


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint; raises BadInput when it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        folder = checkpoint_dir(path)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"--model {path}: no tokenizer could be loaded there: {reason}") from error


def feed_forward(model: Any) -> FeedForward:
    """Where a loaded model keeps its neurons.

    Raises BadInput for a model type that is not in the table, mixtures of experts among them.
    """
    kind = str(model.config.model_type)
    names = _ARCHITECTURES.get(kind)
    if names is None:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise BadInput(
            f"models of type {kind!r} are not supported (mixtures of experts are not yet); "
            f"supported: {known}"
        )
    layers = decoder_layers(model)
    return FeedForward([getattr(layer, names.block) for layer in layers], names)


def decoder_layers(model: Any) -> Sequence[nn.Module]:
    """The model's layers, lowest first; of a type that `feed_forward` knows."""
    layers: Any = model
    for part in _ARCHITECTURES[str(model.config.model_type)].layers.split("."):
        layers = getattr(layers, part)
    return list(layers)


def attention_of(model: Any, layer: nn.Module) -> nn.Module:
    """The attention of one of the model's layers."""
    found: nn.Module = getattr(layer, _ARCHITECTURES[str(model.config.model_type)].attention)
    return found


def weights_digest(model: str | Path) -> str:
    """SHA-256 over a checkpoint's weight files."""
    files = sorted(checkpoint_dir(model).glob("*.safetensors"))
    parts = [f"{path.name} {hash_file(path)}" for path in files] or [str(model)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def device_named(name: str) -> torch.device:
    """The device by its setting; torchrun and accelerate give every process a GPU of its own."""
    own = os.environ.get("LOCAL_RANK", "0")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{own}" if name == "cuda" else name)
    except RuntimeError as error:
        raise BadInput(f"device {name}: write auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise BadInput(f"device {device}: this process sees {torch.cuda.device_count()} GPUs")
    return device
