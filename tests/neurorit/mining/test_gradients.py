"""What selections measure: squared gradients of neurons' weights, and what they are kept for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn import functional
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput
from neurorit.data.plain_text import Text
from neurorit.lab import base_model_dir
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.mine import mine
from neurorit.mining.selection.choose import Evidence, select
from neurorit.mining.selection.gradients import Measurements, squared_gradients
from neurorit.mining.settings import MiningSettings
from neurorit.model.feed_forward import attention_heads, feed_forward
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate
from neurorit.model.text_rows import Row
from neurorit.pipelines import method as pipeline
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.general_texts import general_texts
from neurorit.pipelines.progress import Reporter
from neurorit.pipelines.recipe import Recipe
from neurorit.tuning.samples import make_samples
from tests.neurorit.conftest import examples
from tests.neurorit.tiny_models import ARCHITECTURES, tiny

ROWS = [Row([1, 5, 9, 13, 7, 22], 4), Row([1, 8, 3, 30], 1)]
REPORT = Reporter(Console(quiet=True), None)
SETTINGS = MiningSettings(
    samples=6, contexts="all", steps=4, neurons=12, resamples=2, force=True, measured=20
)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_squared_gradients_of_heads_are_those_of_their_columns(kind: str) -> None:
    model = tiny(kind).requires_grad_(False)
    (found,) = squared_gradients(model, ROWS[:1], "heads")
    model.requires_grad_(True)
    heads, row = attention_heads(model), ROWS[0]
    logits = model(input_ids=torch.tensor([row.ids])).logits[0, row.start - 1 : -1]
    functional.cross_entropy(logits, torch.tensor(row.ids[row.start :]), reduction="sum").backward()
    for layer in range(heads.depth):
        columns = heads.down(layer).weight.grad.square().sum(0)
        wanted = columns.unflatten(0, (heads.width, heads.unit)).sum(1)
        np.testing.assert_allclose(found[layer], wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_squared_gradients_are_those_of_the_neurons_own_weights(kind: str) -> None:
    model = tiny(kind).requires_grad_(False)
    found = list(squared_gradients(model, ROWS))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    model.requires_grad_(True)
    blocks = feed_forward(model)
    for row, mine_ in zip(ROWS, found, strict=True):
        model.zero_grad()
        ids = torch.tensor([row.ids])
        logits = model(input_ids=ids, use_cache=False).logits[0, row.start - 1 : -1]
        functional.cross_entropy(logits, ids[0, row.start :], reduction="sum").backward()
        for layer in range(blocks.depth):
            up, down, gate = blocks.up(layer), blocks.down(layer), blocks.gate(layer)
            rows = up.weight.grad.square().sum(1).unflatten(0, (-1, blocks.width)).sum(0)
            wanted = rows + down.weight.grad.square().sum(0)
            if gate is not None:
                wanted += gate.weight.grad.square().sum(1)
            np.testing.assert_allclose(mine_[layer], wanted.numpy(), rtol=1e-4, atol=1e-9)


def test_samples_are_measured_as_tuning_teaches_them(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    template = PromptTemplate()
    measure = Measurements(lambda: (model, tokenizer), template, examples(), most=10, seed=1)
    found = measure("gradient_rel")
    chosen = measure._chosen
    assert len(chosen) == 10
    samples, _ = make_samples(chosen, tokenizer, template, 10_000)
    each = list(
        squared_gradients(model, [Row([*s.prompt, *s.response], len(s.prompt)) for s in samples])
    )
    told = np.array([sample.evidence for sample in samples])
    for name, of in (("rel", told), ("irrel", ~told), ("mixed", told | True)):
        wanted = np.mean(np.array(each)[of], axis=0)
        np.testing.assert_allclose(found[f"gradient_{name}"], wanted, rtol=1e-5)
    evidence = [one for one in examples() if one.has_evidence]
    told_alone = replace(measure, examples=evidence, most=100)
    with pytest.raises(BadInput, match="none of 16 examples is without evidence"):
        told_alone("gradient_irrel")
    alone = told_alone("gradient_mixed")
    np.testing.assert_array_equal(alone["gradient_mixed"], alone["gradient_rel"])
    with pytest.raises(BadInput, match="text that the model is to keep"):
        measure("gradient_general")


def test_mining_measures_what_a_selection_asks_for(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    text = tmp_path / "texts.txt"
    text.write_text("Mira works in Solden.\n\nKarvel was born.\n", encoding="utf-8")
    settings = replace(SETTINGS, selection="spared-fisher", general=str(text))
    out = tmp_path / "atlas"
    atlas = mine(checkpoint, None, examples_path, settings, out=out)
    assert len(atlas.shared) == 12 and not len(atlas.rel) + len(atlas.irrel)
    assert atlas.gradient_general.shape == atlas.scores_rel.shape
    assert atlas.activity.size == 0
    kept = NeuronAtlas.load(out)
    np.testing.assert_array_equal(kept.gradient_mixed, atlas.gradient_mixed)
    again = select(Evidence(kept, 12, together=True), "spared-fisher")
    np.testing.assert_array_equal(again.shared, atlas.shared)
    # In memory, with the text given, it is the same.
    plain = replace(settings, general="")
    texts = ["Mira works in Solden.", Text("Karvel was born.")]
    other = mine(checkpoint, None, examples_path, plain, general=texts)
    np.testing.assert_array_equal(other.shared, atlas.shared)
    # From another choice of the same mining, too, without mining anew.
    mine(checkpoint, None, examples_path, SETTINGS, out=tmp_path / "mined")
    options = {**vars(settings)}
    place = pipeline.chosen_at(
        tmp_path / "chosen", tmp_path / "mined", checkpoint, examples_path, Recipe(), 0,
        REPORT, options,
    )  # fmt: skip
    chosen = NeuronAtlas.load(place)
    np.testing.assert_array_equal(chosen.shared, atlas.shared)
    one, other = (dict(read_manifest(at, "atlas").made) for at in (place, out))
    # How stable the neurons are is told of the choice that was mined.
    assert one.pop("stability") != other.pop("stability")
    assert one == other
    assert pipeline.is_mined(place, checkpoint, examples_path, Recipe(), 0, options)
    # An atlas is known by its text too.
    assert pipeline.is_mined(out, checkpoint, examples_path, Recipe(), 0, options)
    text.write_text("Another.\n", encoding="utf-8")
    assert not pipeline.is_mined(out, checkpoint, examples_path, Recipe(), 0, options)


def test_the_command_measures_once_and_chooses_again(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    def run(*arguments: str) -> dict[str, object]:
        done = CliRunner().invoke(app, ["atlas", "select", *arguments, "--json"])
        assert done.exit_code == 0, done.output
        made: dict[str, object] = json.loads(done.stdout)
        return made

    mine(checkpoint, None, examples_path, SETTINGS, out=tmp_path / "atlas")
    first = run(
        str(tmp_path / "atlas"), "--out", str(tmp_path / "fisher"), "--rule", "fisher",
        "--budget", "9", "--together", "--model", str(checkpoint),
        "--examples", str(examples_path), "--samples", "12",
    )  # fmt: skip
    assert first["shared"] == 9
    survivors = first["false_discovery"]
    assert isinstance(survivors, dict) and set(survivors) == {"level", *SETS}
    second = run(
        str(tmp_path / "fisher"), "--out", str(tmp_path / "gradient"), "--rule", "gradient",
        "--budget", "5%",
    )  # fmt: skip
    width = NeuronAtlas.load(tmp_path / "fisher").scores_rel.size
    assert int(str(second["rel"])) + int(str(second["shared"])) == round(0.05 * width)
    refused = CliRunner().invoke(
        app,
        ["atlas", "select", str(tmp_path / "atlas"), "--out", str(tmp_path / "no"),
         "--rule", "noise-gradient"],
    )  # fmt: skip
    assert "--model, --examples" in str(refused.exception)
    assert not (tmp_path / "no").exists()


def test_the_labs_text_is_not_what_forgetting_is_measured_on() -> None:
    texts = general_texts("lab", base_model_dir(), 20, 0)
    read = RetentionSettings(text="lab", instructions=0, limit=20).suite().texts
    assert len(texts) == len(read) == 20
    assert all(one.prefix for one in texts)
    assert not set(texts) & set(read)
    assert general_texts("", base_model_dir(), 20, 0) == []
