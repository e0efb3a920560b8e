"""Checkpoints as hubs have them: two tokenizers in one folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from neurorit.model.load import load_tokenizer


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
