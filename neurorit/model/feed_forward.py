"""Checkpoints, and where each architecture keeps its feed-forward neurons and attention heads.

One small table says, per model type, where the layers are and what their projections are called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from neurorit.core.errors import BadInput


@dataclass(frozen=True)
class _Names:
    """Where a layer keeps its feed-forward block. A fused block holds gate and up in one matrix."""

    layers: str = "model.layers"
    attention: str = "self_attn"
    output: str = "o_proj"
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
        output="dense",
        gate=None,
        up="dense_h_to_4h",
        down="dense_4h_to_h",
    ),
}
SUPPORTED = tuple(sorted(_ARCHITECTURES))


@dataclass(frozen=True)
class Lines:
    """Rows (dim 0) or columns (dim 1) of a projection's weight that belong to n chosen neurons.

    index [n * k]: the places of the k lines of each neuron, in the neurons' order.
    """

    name: str
    linear: nn.Linear
    index: torch.Tensor
    dim: int


class Site(Protocol):
    """Where neurons are: L layers of F, each `unit` coordinates of what enters a projection.

    early: by how many layers a value that is changed there must be in a pass of its own before the
    feed-forward block of its layer (see `shared_prefix.Rows`).
    """

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """What is trained where a layer learns whole."""

    @property
    def depth(self) -> int:
        """L, the number of layers."""

    @property
    def width(self) -> int:
        """F, the neurons of one layer."""

    @property
    def unit(self) -> int:
        """Coordinates of one neuron; those of neuron j begin at j * unit."""

    @property
    def early(self) -> int:
        """0 where the projection is behind the layer's attention, 1 where it is a part of it."""

    def down(self, layer: int) -> nn.Linear:
        """The projection that reads a layer's neurons."""

    def lines(self, layer: int, neurons: torch.Tensor) -> list[Lines]:
        """All weights that are the own ones of chosen neurons [n] of a layer."""


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward blocks of a model: L layers of F neurons each.

    Neuron (l, j) is coordinate j of the input to layer l's down-projection.
    """

    unit = 1
    early = 0
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

    def lines(self, layer: int, neurons: torch.Tensor) -> list[Lines]:
        """Rows of the up-projection and the gate, columns of the down-projection, of [n]."""
        up, gate = self.up(layer), self.gate(layer)
        # A fused block holds the gate's rows first and the up-projection's after them.
        up_rows = neurons + self.width if self.fused else neurons
        found = [Lines("up", up, up_rows, 0), Lines("down", self.down(layer), neurons, 1)]
        if gate is not None or self.fused:
            found.append(Lines("gate", gate or up, neurons, 0))
        return found

    def _linear(self, layer: int, name: str) -> nn.Linear:
        return _plain_linear(self.blocks[layer], name, layer)


@dataclass(frozen=True)
class Heads:
    """The attention heads of a model: L layers of H heads each.

    Head (l, h) is a run of `unit` coordinates of the input to layer l's output projection.
    """

    early = 1
    blocks: Sequence[nn.Module]
    output: str
    width: int

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self.blocks)

    @property
    def unit(self) -> int:
        """Coordinates of one head."""
        return self.down(0).in_features // self.width

    def down(self, layer: int) -> nn.Linear:
        """The output projection, weight [d, H * unit]."""
        return _plain_linear(self.blocks[layer], self.output, layer)

    def lines(self, layer: int, neurons: torch.Tensor) -> list[Lines]:
        """Columns of the output projection: those of the heads [n]."""
        columns = torch.arange(self.unit, device=neurons.device)
        index = (neurons[:, None] * self.unit + columns).flatten()
        return [Lines("output", self.down(layer), index, 1)]


def _plain_linear(module: nn.Module, name: str, layer: int) -> nn.Linear:
    linear = getattr(module, name)
    if not isinstance(linear, nn.Linear):
        raise BadInput(f"layer {layer}: {name} is no plain linear layer (quantised?)")
    return linear


def attention_heads(model: Any) -> Heads:
    """Where a loaded model keeps its heads; raises BadInput as `feed_forward` does."""
    kind = str(model.config.model_type)
    check_type(kind)
    attentions = [attention_of(model, layer) for layer in decoder_layers(model)]
    return Heads(attentions, _ARCHITECTURES[kind].output, int(model.config.num_attention_heads))


def feed_forward(model: Any) -> FeedForward:
    """Where a loaded model keeps its neurons.

    Raises BadInput for a model type that is not in the table, mixtures of experts among them.
    """
    kind = str(model.config.model_type)
    check_type(kind)
    names = _ARCHITECTURES[kind]
    layers = decoder_layers(model)
    return FeedForward([getattr(layer, names.block) for layer in layers], names)


def check_type(kind: str, named: str = "") -> None:
    """Raise BadInput for a model type that is not in the table. named: the model, for the error."""
    if kind not in _ARCHITECTURES:
        raise BadInput(
            f"{named + ': ' if named else ''}models of type {kind!r} are not supported (mixtures "
            f"of experts are not yet); supported: {', '.join(SUPPORTED)}"
        )


def check_tunable(checkpoint: Path) -> None:
    """Raise BadInput for a checkpoint that cannot be mined or tuned, by its config.json alone.

    Those are model types outside the table, and linear layers that are quantised (FP8,
    bitsandbytes, GPTQ, AWQ): gradients do not go through them, and they have no columns to train.
    So are models with dropout (`check_no_dropout`).
    """
    path = checkpoint / "config.json"
    if not path.is_file():
        return  # loading says what is missing
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        quantised = config.get("quantization_config")
        # Of a model that also sees, the language model is what is tuned.
        inside = config.get("text_config") if config.get("model_type") == "gemma3" else config
        kind = str(inside.get("model_type"))
    except (ValueError, AttributeError) as error:
        raise BadInput(f"{path}: no configuration of a model: {error}") from error
    if quantised:
        how = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise BadInput(
            f"{checkpoint}: its linear layers are quantised ({how}), which can be served and "
            "evaluated but neither mined nor tuned; take the unquantised model"
        )
    check_type(kind, str(checkpoint))
    check_no_dropout(inside, str(checkpoint))


def check_no_dropout(config: Mapping[str, Any], named: str) -> None:
    """Raise BadInput for a configuration that drops activations at random while it is trained.

    A run that was killed would not go on to the same weights, nor several processes to those of
    one.
    """
    for name, value in config.items():
        if (
            "drop" in name
            and "classifier" not in name
            and isinstance(value, (int, float))
            and value
        ):
            raise BadInput(
                f"{named}: its configuration has {name}={value}, and what drops at random is "
                f"neither mined nor tuned; set {name} to 0 in config.json"
            )


def layers_name(model: Any) -> str:
    """What the layers are called in the model, as `model.layers`; of a type of the table."""
    return _ARCHITECTURES[str(model.config.model_type)].layers


def decoder_layers(model: Any) -> Sequence[nn.Module]:
    """The model's layers, lowest first; of a type that `feed_forward` knows."""
    layers: Any = model
    for part in layers_name(model).split("."):
        layers = getattr(layers, part)
    return list(layers)


def attention_of(model: Any, layer: nn.Module) -> nn.Module:
    """The attention of one of the model's layers."""
    found: nn.Module = getattr(layer, _ARCHITECTURES[str(model.config.model_type)].attention)
    return found
