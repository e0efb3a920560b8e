"""Checkpoints as hubs have them: two tokenizers in one folder, types that stand elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from neurorit.model.load import dtype_named, laid_out, load_model, load_tokenizer
from neurorit.model.precision import stored_dtype
from tests.neurorit.tiny_models import tiny_seeing


def test_mistrals_own_tokenizer_is_not_taken(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("mistral_common")
    folder = shutil.copytree(checkpoint, tmp_path / "mistral")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    (folder / "tekken.json").write_text("{}")
    found, ours = load_tokenizer(folder), load_tokenizer(checkpoint)
    assert found.is_fast and found.chat_template == ours.chat_template
    assert found("Mira <|end|>").input_ids == ours("Mira <|end|>").input_ids
    assert "mistral_format" not in found.init_kwargs


@pytest.mark.parametrize("named", ["outside", "inside", "nowhere"])
def test_a_language_model_inside_is_laid_out_in_the_type_that_it_is_stored_in(
    checkpoint: Path, tmp_path: Path, named: str
) -> None:
    folder = tmp_path / "whole"
    tiny_seeing().to(torch.bfloat16).save_pretrained(folder)
    load_tokenizer(checkpoint).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part.pop("dtype", None)
    if named != "nowhere":  # as the hub's Gemma 3 has it, or as newer files do
        (config if named == "outside" else config["text_config"])["torch_dtype"] = "bfloat16"
    (folder / "config.json").write_text(json.dumps(config))
    assert stored_dtype(folder) == dtype_named(folder, "auto") == "bfloat16"
    laid, _ = laid_out(folder)
    assert laid.dtype == laid.config.dtype == torch.bfloat16
    assert load_model(folder, dtype="auto", device="cpu")[0].dtype == torch.bfloat16
