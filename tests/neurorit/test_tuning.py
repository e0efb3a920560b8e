"""Tuning: what each method changes, what it leaves alone, and runs that are killed and go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neurorit.atlas import NeuronAtlas
from neurorit.batches import collate, draw_batches, make_samples
from neurorit.mining import mine
from neurorit.mining_settings import MiningSettings
from neurorit.models import load_model
from neurorit.prompts import PromptTemplate, end_token_id
from neurorit.tuning import TuneSettings, tune
from retrieval.artifact import read_manifest
from retrieval.errors import BadInput
from retrieval.examples import write_examples
from tests.neurorit.conftest import examples

SETTINGS = TuneSettings(
    stage1_steps=4, steps=8, batch_size=6, dense_layers=1, checkpoint_every=3, lora_rank=4
)


@pytest.fixture(scope="module")
def atlas_dir(
    checkpoint: Path, examples_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("mined") / "atlas"
    settings = MiningSettings(samples=8, steps=10, share=0.2, resamples=5, force=True)
    mine(checkpoint, examples_path, out, settings, 0)
    return out


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("method", ["neuro-rit", "sft", "lora", "stage1-only", "stage2-only"])
def test_every_method_writes_a_plain_checkpoint(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "tuned"
    atlas = None if method in ("sft", "lora") else atlas_dir
    made = tune(checkpoint, examples_path, out, replace(SETTINGS, method=method), 0, atlas=atlas)
    read_manifest(out, "checkpoint")
    before, after = weights(checkpoint), weights(out)
    assert {n: t.shape for n, t in before.items()} == {n: t.shape for n, t in after.items()}
    assert any(not torch.equal(before[n], after[n]) for n in before)
    model, tokenizer = load_model(out)
    model(torch.tensor([tokenizer.encode("Mira")]))
    steps = {"stage1-only": 4, "stage2-only": 8}.get(method, 12)
    assert sum(stage["steps"] for stage in made.values() if isinstance(stage, dict)) == steps
    assert [p.name for p in tmp_path.iterdir()] == ["tuned"]


def test_neuro_rit_changes_chosen_neurons_and_dense_layers_alone(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    tune(checkpoint, examples_path, out, SETTINGS, 0, atlas=atlas_dir)
    atlas = NeuronAtlas.load(atlas_dir)
    before, after = weights(checkpoint), weights(out)
    dense = atlas.densest(1)
    chosen = {
        (int(layer), int(n)) for s in (atlas.rel, atlas.irrel, atlas.shared) for layer, n in s
    }
    for name, old in before.items():
        changed = old != after[name]
        if ".mlp." not in name:
            assert not bool(changed.any()), name
            continue
        layer = int(name.split(".layers.")[1].split(".")[0])
        if layer in dense:
            assert bool(changed.any()), name
            continue
        lines = changed.any(0) if "down_proj" in name else changed.any(1)
        moved = {(layer, int(n)) for n in lines.nonzero()}
        assert moved, name
        assert moved <= chosen, name


def test_stage_one_touches_neurons_of_irrelevant_context_alone(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    settings = replace(SETTINGS, method="stage1-only")
    tune(checkpoint, examples_path, out, settings, 0, atlas=atlas_dir)
    chosen = {(int(layer), int(n)) for layer, n in NeuronAtlas.load(atlas_dir).irrel}
    before, after = weights(checkpoint), weights(out)
    for name, old in before.items():
        changed = old != after[name]
        if not changed.any():
            continue
        layer = int(name.split(".layers.")[1].split(".")[0])
        lines = changed.any(0) if "down_proj" in name else changed.any(1)
        assert {(layer, int(n)) for n in lines.nonzero()} <= chosen, name


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("neuro-rit", 6),
        *(
            pytest.param(method, at, marks=pytest.mark.slow)
            for method, at in (
                ("neuro-rit", 2),
                ("neuro-rit", 11),
                ("lora", 2),
                ("lora", 6),
                ("sft", 6),
                ("sft", 11),
            )
        ),
    ],
)
def test_a_killed_run_goes_on_to_the_same_weights(
    checkpoint: Path,
    examples_path: Path,
    atlas_dir: Path,
    tmp_path: Path,
    method: str,
    at: int,
) -> None:
    class Killed(BaseException):
        pass

    atlas = None if method in ("sft", "lora") else atlas_dir
    settings = replace(SETTINGS, method=method)
    calls = 0

    def kill(_stage: str, _step: int, _steps: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed

    whole, out = tmp_path / "whole", tmp_path / "tuned"
    tune(checkpoint, examples_path, whole, settings, 0, atlas=atlas)
    with pytest.raises(Killed):
        tune(checkpoint, examples_path, out, settings, 0, atlas=atlas, progress=kill)
    assert not out.exists()
    calls = -1000
    tune(checkpoint, examples_path, out, settings, 0, atlas=atlas, progress=kill)
    # From the last saved state, not from the start.
    assert calls + 1000 <= 12 - (at - 1) // 3 * 3 if method != "neuro-rit" else True
    wanted, found = weights(whole), weights(out)
    for name in wanted:
        assert torch.equal(wanted[name], found[name]), name


def test_targets_are_the_answer_or_the_end_at_once(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, dropped = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    assert dropped == 0
    end = end_token_id(tokenizer)
    for example, sample in zip(examples(), samples, strict=True):
        assert sample.response[-1] == end
        assert sample.evidence == example.has_evidence
        answer = tokenizer.decode(sample.response[:-1])
        assert answer == (example.answers[0] if example.has_evidence else "")


def test_labels_are_the_response_alone_and_padding_is_left(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    # A pad token that equals the end token must not hide the end from the loss.
    batch = collate(samples[:5], end_token_id(tokenizer), "cpu")
    for row, sample in enumerate(samples[:5]):
        learned = batch.labels[row][batch.labels[row] != -100]
        assert learned.tolist() == sample.response
        count = sample.length
        assert batch.input_ids[row, -count:].tolist() == sample.prompt + sample.response
        assert (
            batch.attention_mask[row].tolist()
            == [0] * (batch.input_ids.shape[1] - count) + [1] * count
        )
        assert batch.position_ids[row, -count:].tolist() == list(range(count))


def test_batches_can_start_anywhere_and_hold_every_sample(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)

    def draw(start: int, count: int) -> list[Any]:
        stream = draw_batches(samples, 5, "seed", start)
        return [next(stream) for _ in range(count)]

    whole = draw(0, 12)
    assert draw(7, 5) == whole[7:]
    first_epoch = [id(s) for batch in whole[:5] for s in batch]
    assert sorted(first_epoch) == sorted(id(s) for s in samples)


def test_too_long_samples_are_counted(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    limit = sorted(sample.length for sample in samples)[12]
    settings = replace(SETTINGS, method="sft", max_length=limit, steps=1, stage1_steps=0)
    made = tune(checkpoint, examples_path, tmp_path / "tuned", settings, 0)
    assert 0 < made["left_out_too_long"] < 24
    assert made["samples"] + made["left_out_too_long"] == 24
    with pytest.raises(BadInput, match="max_length"):
        tune(checkpoint, examples_path, tmp_path / "none", replace(settings, max_length=3), 0)


def test_what_cannot_be_tuned_is_refused(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    with pytest.raises(BadInput, match="needs --atlas"):
        tune(checkpoint, examples_path, out, SETTINGS, 0)
    with pytest.raises(BadInput, match="--method other"):
        tune(checkpoint, examples_path, out, replace(SETTINGS, method="other"), 0)
    with pytest.raises(BadInput, match="batch_size"):
        tune(checkpoint, examples_path, out, replace(SETTINGS, method="sft", batch_size=0), 0)
    path = tmp_path / "answered.jsonl"
    write_examples(path, [e for e in examples() if e.has_evidence])
    with pytest.raises(BadInput, match="without evidence"):
        tune(checkpoint, path, out, SETTINGS, 0, atlas=atlas_dir)
    assert not out.exists()


def test_another_models_atlas_is_refused(
    examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    from tests.serving.tiny import save_tiny_llama

    other = save_tiny_llama(tmp_path / "other", layers=2)
    with pytest.raises(BadInput, match="another model"):
        tune(other, examples_path, tmp_path / "tuned", SETTINGS, 0, atlas=atlas_dir)
