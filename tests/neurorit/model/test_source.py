"""What a model's digests know: weights, configuration, and how its prompts are made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource


def of_config(folder: Path, name: str, value: object) -> None:
    place = folder / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {name: value}))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda folder: None, set()),
        (lambda folder: of_config(folder, "transformers_version", "9.9"), set()),
        (lambda folder: of_config(folder, "rms_norm_eps", 0.5), {"config"}),
        (lambda folder: PromptTemplate(question="Q: {question}").save(folder), {"prompts"}),
        (lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 }}"), {"prompts"}),
        (lambda folder: (folder / "more.safetensors").write_bytes(b"more"), {"model"}),
    ],
)
def test_a_folders_digests_tell_what_changed(
    checkpoint: Path, tmp_path: Path, change: Callable[[Path], object], changed: set[str]
) -> None:
    copied = shutil.copytree(checkpoint, tmp_path / "copied")
    change(copied)
    before, after = ModelSource.of(checkpoint).inputs, ModelSource.of(copied).inputs
    assert {name for name in before if before[name] != after[name]} == changed


def test_a_model_in_memory_is_the_same_whatever_it_was_asked(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    before = ModelSource.of(model, tokenizer).inputs
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert ModelSource.of(model, tokenizer).inputs == before
    tokenizer.add_tokens(["<new>"])
    after = ModelSource.of(model, tokenizer).inputs
    assert {name for name in before if before[name] != after[name]} == {"prompts"}


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"config\.json: no configuration of a model"):
        _ = ModelSource.of(tmp_path).inputs
