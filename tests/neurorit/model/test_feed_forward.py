"""Loading checkpoints, and the table of where architectures keep their neurons."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from neurorit.core.errors import BadInput
from neurorit.model.feed_forward import feed_forward
from neurorit.model.load import load_model, make_savable
from tests.neurorit.tiny_models import ARCHITECTURES, SIZE, tiny, tiny_seeing


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


def test_the_stored_type_is_kept_when_none_is_named(checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(checkpoint, dtype="bfloat16", device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, dtype="auto", device="cpu")[0].dtype == torch.bfloat16
    assert load_model(checkpoint, dtype="auto", device="cpu")[0].dtype == torch.float32


ABSENT = [f"cuda:{torch.cuda.device_count()}", "graphics"]


@pytest.mark.parametrize("device", ABSENT if torch.cuda.is_available() else [*ABSENT, "cuda"])
def test_a_device_that_is_not_there_is_named(checkpoint: Path, device: str) -> None:
    with pytest.raises(BadInput, match="device "):
        load_model(checkpoint, device=device)


def test_a_model_that_also_sees_is_loaded_and_written_as_its_text_model(
    checkpoint: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    whole = tiny_seeing()
    whole.save_pretrained(tmp_path / "whole")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "whole")
    text, tokenizer = load_model(tmp_path / "whole", device="cpu")
    assert text.config.model_type == "gemma3_text"
    assert feed_forward(text).depth == SIZE["num_hidden_layers"]
    ids = torch.tensor([[1, 5, 9, 13]])
    with torch.no_grad():
        torch.testing.assert_close(text(ids).logits, whole(ids).logits)
        text.model.layers[0].mlp.down_proj.weight.mul_(2)
        wanted = text(ids).logits
    text.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    again, _ = load_model(tmp_path / "text", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, wanted)


def test_a_generation_config_that_could_not_be_saved_is_mended_or_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    model, _ = load_model(checkpoint, device="cpu")
    model.generation_config.temperature = 0.6
    model.generation_config.top_p = 0.9
    with pytest.raises(ValueError, match="temperature"):
        model.save_pretrained(tmp_path / "refused")
    make_savable(model)
    model.save_pretrained(tmp_path / "saved")
    assert model.generation_config.temperature == 0.6
    assert model.generation_config.do_sample
    model.generation_config.num_return_sequences = 4
    model.generation_config.do_sample = False
    model.generation_config.num_beams = 1
    with pytest.raises(BadInput, match="cannot be saved again"):
        model.generation_config.max_new_tokens = -1
        make_savable(model)
