"""Tuning: what each method changes, what it leaves alone, and runs that are killed and go on."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.mine import mine
from neurorit.mining.settings import MiningSettings
from neurorit.model.checkpoint import weights_digest
from neurorit.model.feed_forward import attention_heads
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate
from neurorit.tuning.adapter_file import apply_adapter
from neurorit.tuning.samples import make_samples
from neurorit.tuning.settings import METHODS, RIVALS, TuneSettings
from neurorit.tuning.tune import tune
from tests.forks import forked
from tests.neurorit.conftest import examples

pytestmark = pytest.mark.slow

SETTINGS = TuneSettings(
    stage1_steps=4, steps=8, batch_size=6, dense_layers=1, checkpoint_every=3, lora_rank=4
)
OFTEN = replace(SETTINGS, stage1_steps=8, checkpoint_every=1)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_a_plain_checkpoint(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "tuned"
    atlas = None if method in RIVALS else atlas_dir
    made = tune(
        checkpoint, None, examples_path, atlas, replace(SETTINGS, method=method), out=out
    ).tuning_record
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
    tune(checkpoint, None, examples_path, atlas_dir, SETTINGS, out=out)
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
    tune(checkpoint, None, examples_path, atlas_dir, settings, out=out)
    chosen = {(int(layer), int(n)) for layer, n in NeuronAtlas.load(atlas_dir).irrel}
    before, after = weights(checkpoint), weights(out)
    for name, old in before.items():
        changed = old != after[name]
        if not changed.any():
            continue
        layer = int(name.split(".layers.")[1].split(".")[0])
        lines = changed.any(0) if "down_proj" in name else changed.any(1)
        assert {(layer, int(n)) for n in lines.nonzero()} <= chosen, name


def test_a_run_under_another_wording_starts_anew(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(_stage: str, step: int, _steps: int) -> None:
        if step == 6:
            raise Killed

    settings, out = replace(SETTINGS, method="lora"), tmp_path / "tuned"
    template = PromptTemplate(question="Q: {question}")
    with pytest.raises(Killed):
        tune(checkpoint, None, examples_path, None, settings, out=out, progress=kill)
    tune(checkpoint, None, examples_path, None, settings, out=out, template=template)
    fresh = tmp_path / "fresh"
    tune(checkpoint, None, examples_path, None, settings, out=fresh, template=template)
    assert weights(out).keys() == weights(fresh).keys()
    assert all(torch.equal(weights(out)[name], tensor) for name, tensor in weights(fresh).items())


def test_a_training_that_diverges_is_an_error_and_leaves_no_checkpoint(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, method="sft", learning_rate=1e30, checkpoint_every=100)
    with pytest.raises(NeuroritError, match=r"diverged by step .* lower the learning rate"):
        tune(checkpoint, None, examples_path, None, settings, out=tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("neuro-rit", 6),
        ("neuro-rit", 2),
        ("neuro-rit", 11),
        ("lora", 2),
        ("lora", 6),
        ("sft", 6),
        ("sft", 11),
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

    atlas = None if method in RIVALS else atlas_dir
    settings = replace(SETTINGS, method=method)
    calls = 0

    def kill(_stage: str, _step: int, _steps: int) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed

    whole, out = tmp_path / "whole", tmp_path / "tuned"
    tune(checkpoint, None, examples_path, atlas, settings, out=whole)
    with pytest.raises(Killed):
        tune(checkpoint, None, examples_path, atlas, settings, out=out, progress=kill)
    assert not out.exists()
    calls = -1000
    tune(checkpoint, None, examples_path, atlas, settings, out=out, progress=kill)
    # From the last saved state, not from the start.
    assert calls + 1000 <= 12 - (at - 1) // 3 * 3 if method != "neuro-rit" else True
    wanted, found = weights(whole), weights(out)
    for name in wanted:
        assert torch.equal(wanted[name], found[name]), name


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[n].float() - other[n].float()).abs().max()) for n in one)


ONE_STEP = replace(SETTINGS, method="sft", stage1_steps=0, steps=1, batch_size=24)


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 6, "accumulation": 4}, {"gradient_checkpointing": True}],
    ids=["accumulation", "checkpointing"],
)
def test_ways_to_save_memory_change_nothing(
    checkpoint: Path, examples_path: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    tune(checkpoint, None, examples_path, None, ONE_STEP, out=tmp_path / "whole")
    tune(
        checkpoint, None, examples_path, None, replace(ONE_STEP, **change), out=tmp_path / "changed"
    )
    found = weights(tmp_path / "changed")
    # AdamW's first step moves every weight by the rate, so a wrong scale of the loss is seen in
    # weights whose gradient is near zero; the rate is 1e-3.
    assert distance(found, weights(checkpoint)) > 5e-4
    assert distance(found, weights(tmp_path / "whole")) < 5e-5


def test_low_precision_weights_learn_in_float32_and_frozen_ones_stay(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    low = tmp_path / "low"
    model, tokenizer = load_model(checkpoint, dtype="bfloat16")
    model.save_pretrained(low)
    tokenizer.save_pretrained(low)
    atlas = tmp_path / "atlas"  # rounded weights are other weights
    mining = MiningSettings(samples=8, contexts="all", steps=10, share=0.2, resamples=5, force=True)
    mine(low, None, examples_path, mining, out=atlas)
    settings = replace(SETTINGS, dtype="bfloat16")
    tune(low, None, examples_path, atlas, settings, out=tmp_path / "tuned")
    before, after = weights(low), weights(tmp_path / "tuned")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(".mlp." in name for name in changed)


def test_the_adapter_alone_gives_the_tuned_checkpoint(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    out, adapter = tmp_path / "tuned", tmp_path / "adapter"
    tune(checkpoint, None, examples_path, atlas_dir, SETTINGS, out=out, adapter=adapter)
    size = sum(path.stat().st_size for path in adapter.iterdir())
    assert size < (out / "model.safetensors").stat().st_size / 2
    arguments = ["--adapter", str(adapter), "--out", str(tmp_path / "merged"), "--json"]
    done = CliRunner().invoke(app, ["merge", "--model", str(checkpoint), *arguments])
    assert done.exit_code == 0, done.output
    wanted, found = weights(out), weights(tmp_path / "merged")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    model, _ = load_model(checkpoint)
    with pytest.raises(BadInput, match="another base"):
        apply_adapter(model, adapter, "of something else")
    rival = replace(SETTINGS, method="sft")
    with pytest.raises(BadInput, match="tunes no neurons"):
        tune(
            checkpoint, None, examples_path, None, rival, out=tmp_path / "x", adapter=tmp_path / "y"
        )


def test_neurons_alone_are_a_lora(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    out, adapter, lora = tmp_path / "tuned", tmp_path / "adapter", tmp_path / "lora"
    settings = replace(SETTINGS, method="neurons")
    tune(checkpoint, None, examples_path, atlas_dir, settings, out=out, adapter=adapter)
    arguments = ["--adapter", str(adapter), "--out", str(lora), "--as-lora", "--json"]
    command = ["merge", "--model", str(checkpoint), *arguments]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    base, tokenizer = load_model(checkpoint)
    ids = torch.tensor([tokenizer.encode("Mira")])
    wanted = load_model(out)[0](ids).logits
    assert (base(ids).logits - wanted).abs().max() > 1e-3
    served = PeftModel.from_pretrained(base, lora).eval()
    torch.testing.assert_close(served(ids).logits, wanted, atol=1e-5, rtol=1e-5)
    refused = CliRunner().invoke(app, [*command, "--overwrite", "--max-rank", "1"])
    assert "above --max-rank 1" in str(refused.exception)


@pytest.mark.parametrize("method", ["neurons", "dense-only", "neuro-rit"])
def test_neurons_and_dense_layers_are_trained_apart(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path, method: str
) -> None:
    dense_layers = 1 if method == "dense-only" else 0
    settings = replace(SETTINGS, method=method, dense_layers=dense_layers)
    out, adapter = tmp_path / "tuned", tmp_path / "adapter"
    tune(checkpoint, None, examples_path, atlas_dir, settings, out=out, adapter=adapter)
    atlas = NeuronAtlas.load(atlas_dir)
    chosen = {(int(layer), int(n)) for s in SETS for layer, n in getattr(atlas, s)}
    before, after = weights(checkpoint), weights(out)
    moved = set()
    for name, old in before.items():
        changed = old != after[name]
        if ".mlp." not in name:
            assert not bool(changed.any()), name
            continue
        layer = int(name.split(".layers.")[1].split(".")[0])
        lines = changed.any(0) if "down_proj" in name else changed.any(1)
        moved |= {(layer, int(n)) for n in lines.nonzero()}
    if method == "dense-only":
        assert {layer for layer, _ in moved} == set(atlas.densest(1))
        assert not moved <= chosen
    else:
        assert moved <= chosen
        assert {layer for layer, _ in moved} & set(atlas.densest(1))
    if method == "neurons":
        assert moved == chosen
    model, _ = load_model(checkpoint)
    apply_adapter(model, adapter, weights_digest(checkpoint))
    assert all(
        torch.equal(tensor, after[n]) for n, tensor in model.state_dict().items() if n in after
    )
    for layers in ("dense-only", "last3"):
        with pytest.raises(BadInput, match="dense_layers"):
            TuneSettings(method=layers, dense_layers=0)


@pytest.mark.parametrize("method", ["neurons", "neuro-rit", "active-neurons"])
def test_heads_are_tuned(
    checkpoint: Path, examples_path: Path, tmp_path: Path, method: str
) -> None:
    how = MiningSettings(
        samples=6, contexts="all", steps=4, site="heads", neurons=3, resamples=2, force=True
    )
    atlas = mine(checkpoint, None, examples_path, how)
    settings = replace(SETTINGS, method=method, dense_layers=0)
    out, adapter = tmp_path / "tuned", tmp_path / "adapter"
    tune(checkpoint, None, examples_path, atlas, settings, out=out, adapter=adapter)
    before, after = weights(checkpoint), weights(out)
    model, _ = load_model(checkpoint)
    moved = set()
    for name, old in before.items():
        changed = old != after[name]
        if "o_proj" not in name:
            assert not bool(changed.any()), name
            continue
        layer = int(name.split(".layers.")[1].split(".")[0])
        columns = changed.any(0).unflatten(0, (-1, attention_heads(model).unit)).any(1)
        moved |= {(layer, int(head)) for head in columns.nonzero()}
    chosen = {(int(layer), int(head)) for s in SETS for layer, head in getattr(atlas, s)}
    assert moved
    assert method == "active-neurons" or moved <= chosen
    assert method != "neurons" or moved == chosen
    apply_adapter(model, adapter, weights_digest(checkpoint))
    assert all(
        torch.equal(t, after[name]) for name, t in model.state_dict().items() if name in after
    )
    with pytest.raises(BadInput, match="masks are of feed-forward neurons"):
        tune(checkpoint, None, examples_path, atlas, replace(settings, method="as-released"))


def test_tensorboard_logs_are_kept(checkpoint: Path, examples_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    settings = replace(ONE_STEP, steps=12, report_to="tensorboard")
    tune(checkpoint, None, examples_path, None, settings, out=tmp_path / "tuned")
    assert list((tmp_path / "tuned-logs").rglob("events.out.tfevents.*"))


def test_samples_longer_than_the_model_takes_are_left_out(
    checkpoint: Path, examples_path: Path
) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    model.config.max_position_embeddings = sorted(sample.length for sample in samples)[12]
    settings = replace(SETTINGS, method="sft", steps=1, stage1_steps=0)
    with pytest.warns(
        UserWarning, match=r"they are longer than the \d+ tokens that the model takes"
    ):
        made = tune(model, tokenizer, examples_path, None, settings).tuning_record
    assert 0 < made["left_out_too_long"] < 24
    model.config.max_position_embeddings = 10
    with pytest.raises(BadInput, match="every example is longer than the 10 tokens that the model"):
        tune(model, tokenizer, examples_path, None, settings)


def test_too_long_samples_are_counted(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    limit = sorted(sample.length for sample in samples)[12]
    settings = replace(SETTINGS, method="sft", max_length=limit, steps=1, stage1_steps=0)
    made = tune(
        checkpoint, None, examples_path, None, settings, out=tmp_path / "tuned"
    ).tuning_record
    assert 0 < made["left_out_too_long"] < 24
    assert made["samples"] + made["left_out_too_long"] == 24
    with pytest.raises(BadInput, match="max_length"):
        tune(
            checkpoint,
            None,
            examples_path,
            None,
            replace(settings, max_length=3),
            out=tmp_path / "none",
        )


def test_what_cannot_be_tuned_is_refused(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    with pytest.raises(BadInput, match="needs atlas"):
        tune(checkpoint, None, examples_path, None, SETTINGS, out=out)
    with pytest.raises(BadInput, match="method 'other': it is one of"):
        tune(checkpoint, None, examples_path, None, replace(SETTINGS, method="other"), out=out)
    with pytest.raises(BadInput, match="batch_size"):
        tune(
            checkpoint,
            None,
            examples_path,
            None,
            replace(SETTINGS, method="sft", batch_size=0),
            out=out,
        )
    path = tmp_path / "answered.jsonl"
    write_examples(path, [e for e in examples() if e.has_evidence])
    with pytest.raises(BadInput, match="without evidence"):
        tune(checkpoint, None, path, atlas_dir, SETTINGS, out=out)
    assert not out.exists()
    # Chosen neurons that only ever answer need none.
    alone = replace(SETTINGS, method="neurons", stage1_steps=0, steps=1)
    tune(checkpoint, None, path, atlas_dir, alone, out=out)
    assert (out / "manifest.json").is_file()


def test_another_models_atlas_is_refused(
    examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    from tests.serving.tiny_llama import save_tiny_llama

    other = save_tiny_llama(tmp_path / "other", layers=2)
    with pytest.raises(BadInput, match="mined from other weights"):
        tune(other, None, examples_path, atlas_dir, SETTINGS, out=tmp_path / "tuned")
    # Of the same shape, as models of one family are, it would go unnoticed.
    alike = save_tiny_llama(tmp_path / "alike", layers=4)
    weights = load_file(alike / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1e-3
    save_file(weights, alike / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"atlas=.* was mined from other weights than model"):
        tune(alike, None, examples_path, atlas_dir, SETTINGS, out=tmp_path / "tuned")


def _tune_telling(model: Path, examples: Path, atlas: Path, out: Path, pipe: Connection) -> None:
    def tell(*where: object) -> None:
        pipe.send(" ".join(map(str, where)))
        time.sleep(0.1)

    tune(model, None, examples, atlas, OFTEN, out=out, progress=tell)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_steps_of_both_stages_it_ends_in_the_same_weights(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path, seed: int
) -> None:
    tune(checkpoint, None, examples_path, atlas_dir, OFTEN, out=tmp_path / "whole")
    out = tmp_path / "killed"
    rng = random.Random(seed)
    seen: list[str] = []
    for stop in (*sorted(rng.sample(range(2, 9), 2)), *sorted(rng.sample(range(10, 15), 2))):
        last = f"stage1 {stop} 8" if stop <= 8 else f"stage2 {stop - 8} 8"
        with forked(_tune_telling, checkpoint, examples_path, atlas_dir, out) as pipe:
            while not seen or seen[-1] != last:
                seen.append(pipe.recv())
            time.sleep(rng.uniform(0.0, 0.2))
        assert seen[-1] == last
        assert not out.exists()
    # Each went on from a saved state: neither stage was begun anew.
    assert seen.count("stage1 1 8") == 1
    assert seen.count("stage2 1 8") == 1
    tune(checkpoint, None, examples_path, atlas_dir, OFTEN, out=out)
    wanted, found = weights(tmp_path / "whole"), weights(out)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.usefixtures("shared_vllm")
def test_vllm_answers_as_hugging_face_does(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        app,
        [
            "tune", "--model", str(checkpoint), "--examples", str(examples_path),
            "--out", str(tmp_path / "tuned"), "--method", "sft", "--set", "steps=3",
            "--set", "stage1_steps=0", "--verify", "12", "--json",
        ],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    parity = json.loads(done.stdout)["parity"]
    assert parity["prompts"] == 12
    assert parity["share"] >= 0.9


def test_without_an_atlas_it_mines_and_never_uses_another_models(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    model, tokenizer = load_model(checkpoint)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(0.01)
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "mine: {samples: 4, contexts: all, steps: 4, share: 0.2, resamples: 2, force: true}\n"
        "tune: {stage1_steps: 1, steps: 1, dense_layers: 1, batch_size: 4}\n"
    )

    def mined(base: Path) -> tuple[str, str]:
        arguments = ["--examples", str(examples_path), "--out", str(tmp_path / "tuned")]
        arguments += ["--recipe", str(recipe), "--overwrite", "--json"]
        done = CliRunner().invoke(app, ["tune", "--model", str(base), *arguments])
        assert done.exit_code == 0, done.output
        atlas = Path(json.loads(done.stdout)["atlas"])
        return read_manifest(atlas, "atlas").inputs["model"], done.stderr

    first, _ = mined(checkpoint)
    again, said = mined(checkpoint)
    assert first == again
    assert "using the neurons in" in said
    changed, said = mined(other)
    assert changed != first
    assert "mining into" in said
