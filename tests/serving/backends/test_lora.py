"""LoRA folders before vLLM sees them: what is refused, and by which name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import weights_digest
from neurorit.model.foreign.importing import import_model
from neurorit.serving.backends.lora import RANKS, parse_named, rank_limit, read_lora
from tests.neurorit.tiny_models import tiny_seeing
from tests.serving.loras import save_lora
from tests.serving.tiny_llama import save_tiny_llama, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


def test_a_lora_is_known_by_its_files(model: Path, tmp_path: Path) -> None:
    folder = save_lora(tmp_path / "a", model, rank=5)
    found = read_lora("city", folder, model)
    assert (found.rank, found.unchanged()) == (5, True)
    again = read_lora("city", save_lora(tmp_path / "b", model, rank=5), model)
    assert again.served == found.served != read_lora("town", folder, model).served
    save_lora(folder, model, rank=5, seed=1)
    assert not found.unchanged()
    assert read_lora("city", folder, model).served != found.served


@pytest.mark.parametrize("name", ["", "a b", "../up", "a/b", "-x", "a=b", "x" * 101])
def test_a_name_that_cannot_be_asked_for_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="a name is of letters"):
        read_lora(name, save_lora(tmp_path / "a", model), model)


def test_what_is_no_lora_says_what_it_lacks(model: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"adapter=x=.*no such folder"):
        read_lora("x", tmp_path / "absent", model)
    with pytest.raises(BadInput, match=r"no adapter_config\.json and no adapter_model\.safetens"):
        read_lora("x", tmp_path, model)
    folder = save_lora(tmp_path / "a", model)
    (folder / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(BadInput, match=r"adapter_model\.safetensors cannot be read"):
        read_lora("x", folder, model)
    (folder / "adapter_config.json").write_text("[]")
    with pytest.raises(BadInput, match="no JSON object"):
        read_lora("x", folder, model)


def test_a_neuron_adapter_is_told_the_way_to_a_lora(model: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "adapter"}))
    with pytest.raises(BadInput, match="merge --as-lora"):
        read_lora("x", tmp_path, model)


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["lm_head"]},
               {"peft_type": "IA3"}],
)  # fmt: skip
def test_what_vllm_does_not_serve_is_refused(model: Path, tmp_path: Path, config: object) -> None:
    folder = save_lora(tmp_path / "a", model, config=config)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="plain LoRAs only"):
        read_lora("x", folder, model)


def test_a_lora_of_another_base_is_refused(model: Path, tmp_path: Path) -> None:
    wider = save_tiny_llama(tmp_path / "wider", hidden=64, heads=1)
    with pytest.raises(BadInput, match=r"another base, whose .*_proj is"):
        read_lora("x", save_lora(tmp_path / "a", wider), model)
    deeper = save_tiny_llama(tmp_path / "deeper", layers=4)
    with pytest.raises(BadInput, match=r"another base, which has a model\.layers"):
        read_lora("x", save_lora(tmp_path / "b", deeper), model)
    folder = save_lora(tmp_path / "c", model)
    manifest = {"kind": "lora", "inputs": {"model": weights_digest(model)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_lora("x", folder, model).rank == 3
    manifest["inputs"] = {"model": "0" * 64}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="another base than"):
        read_lora("x", folder, model)


def test_a_lora_of_the_language_model_inside_is_served_with_that_alone(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    tiny_seeing().save_pretrained(whole)
    tiny_tokenizer().save_pretrained(whole)
    import_model(whole, tmp_path / "text")
    folder = save_lora(tmp_path / "a", tmp_path / "text")
    manifest = {"kind": "lora", "inputs": {"model": weights_digest(whole)}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=r"serve the language model alone, which .*model import"):
        read_lora("x", folder, whole)
    assert read_lora("x", folder, tmp_path / "text").rank == 3
    import_model(whole, tmp_path / "half", dtype="bfloat16")
    with pytest.raises(BadInput, match="another base than"):
        read_lora("x", folder, tmp_path / "half")


def test_ranks_are_those_that_vllm_makes_room_for() -> None:
    assert [rank_limit([rank]) for rank in (1, 2, 9, 300, 512)] == [1, 8, 16, 320, 512]
    assert rank_limit([]) in RANKS
    with pytest.raises(BadInput, match="up to 512"):
        rank_limit([513])


@pytest.mark.parametrize("given", ["", "name", "=dir", "name="])
def test_a_name_and_its_folder_are_both_needed(given: str) -> None:
    with pytest.raises(BadInput, match="write NAME=DIR"):
        parse_named(given)
