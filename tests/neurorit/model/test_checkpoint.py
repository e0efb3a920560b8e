"""Where checkpoints are: folders, and the hub's cache, which the test builds itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import checkpoint_dir, checkpoint_name, weights_digest
from neurorit.model.load import load_model, load_tokenizer
from neurorit.pipelines import method
from neurorit.serving.backends.vllm_env import check_model

NAME = "someone/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


def commit(hub: Path, source: Path, number: str) -> None:
    """What the hub's client leaves in its cache for one commit, which is now the newest."""
    repository = hub / f"models--{NAME.replace('/', '--')}"
    shutil.copytree(source, repository / "snapshots" / (number * 40))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(number * 40)


def test_a_hubs_model_is_its_snapshot_and_another_commit_is_another(
    hub: Path, checkpoint: Path, tmp_path: Path
) -> None:
    commit(hub, checkpoint, "a")
    first = checkpoint_dir(NAME)
    assert first.name == "a" * 40
    assert check_model(Path(NAME)) == first
    assert weights_digest(NAME) == weights_digest(checkpoint)
    model, tokenizer = load_model(NAME, device="cpu")
    assert model.config.model_type == "llama"
    assert tokenizer.get_vocab() == load_tokenizer(NAME).get_vocab()
    changed = shutil.copytree(checkpoint, tmp_path / "changed")
    (changed / "model-00002.safetensors").write_bytes(b"more")
    commit(hub, changed, "b")
    assert checkpoint_dir(NAME).name == "b" * 40
    assert weights_digest(NAME) != weights_digest(checkpoint)
    assert checkpoint_dir(f"{NAME}@{'a' * 40}") == first


def test_a_plan_leaves_the_weights_on_the_hub(
    checkpoint: Path, examples_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    wanted: list[list[str]] = []

    def fetched(name: str, *, allow_patterns: list[str], **_: object) -> str:
        wanted.append(allow_patterns)
        return str(checkpoint)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    method.plan(Path(NAME), examples_path, "sft", None, None, ["steps=1"])
    method.plan_mining(Path(NAME), examples_path, None, ["samples=2"], 0)
    assert wanted and all("*.json" in patterns for patterns in wanted)
    assert not any("*.safetensors" in patterns for patterns in wanted)
    checkpoint_dir(NAME)
    assert "*.safetensors" in wanted[-1]


def test_what_the_hub_has_not_is_named(hub: Path) -> None:
    with pytest.raises(BadInput, match="someone/absent: no such folder, and it cannot be had"):
        checkpoint_dir("someone/absent")


def test_folders_and_paths_ask_no_hub(hub: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert checkpoint_dir(checkpoint) == checkpoint
    (tmp_path / "runs").mkdir()
    for path in ("runs/absent", "/no/such/place", "absent", os.fspath(tmp_path / "absent")):
        assert checkpoint_dir(path) == Path(path)


def test_names_are_the_folders_or_the_hubs(checkpoint: Path) -> None:
    assert checkpoint_name(checkpoint) == checkpoint.name
    assert checkpoint_name("someone/tiny@main") == "tiny"
