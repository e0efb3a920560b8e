"""Loading checkpoints, and the table of where architectures keep their neurons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from neurorit.models import feed_forward, load_model
from retrieval.errors import BadInput
from tests.neurorit.tiny import ARCHITECTURES, SIZE, tiny


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_neurons_are_the_input_of_the_down_projection(kind: str) -> None:
    blocks = feed_forward(tiny(kind))
    assert (blocks.depth, blocks.width) == (SIZE["num_hidden_layers"], SIZE["intermediate_size"])
    for layer in range(blocks.depth):
        assert blocks.down(layer).out_features == SIZE["hidden_size"]
        rows = blocks.width * (2 if blocks.fused else 1)
        assert blocks.up(layer).out_features == rows


def test_mixtures_of_experts_are_refused() -> None:
    config = AutoConfig.for_model("mixtral", **SIZE, num_local_experts=2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(BadInput, match="'mixtral' are not supported"):
        feed_forward(model)


def test_a_missing_folder_is_named_without_asking_a_hub(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        load_model(tmp_path / "absent")


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no checkpoint could be loaded"):
        load_model(tmp_path)


def test_a_checkpoint_is_loaded_ready_to_be_read(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert tokenizer.encode("Mira")
