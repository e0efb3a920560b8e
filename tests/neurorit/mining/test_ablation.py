"""The causal check: what is silenced, what it changes, and what the command says of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.mining.ablation import Check, Outcome, check
from neurorit.mining.atlas import SETS, NeuronAtlas, overlap
from neurorit.mining.controls import control_atlas, control_layers, same_profile
from neurorit.mining.mine import mine
from neurorit.mining.settings import MiningSettings
from neurorit.model.feed_forward import attention_heads, feed_forward
from neurorit.model.hooks import recording, silencing
from neurorit.model.load import load_model
from tests.neurorit.mining.test_mine import lab_examples
from tests.neurorit.tiny_models import ARCHITECTURES, tiny

IDS = torch.tensor([[1, 5, 9, 13]])
SETTINGS = MiningSettings(samples=6, contexts="all", steps=8, share=0.1, resamples=10, force=True)


SILENCED = [
    "nothing", "P_irrel", "P_rel", "P_shared", "all chosen", "random", "random, as P_shared",
    "random, as all chosen", "most active",
]  # fmt: skip


@pytest.fixture(scope="module")
def atlas_dir(
    checkpoint: Path, examples_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("mined") / "atlas"
    mine(checkpoint, None, examples_path, SETTINGS, out=out)
    return out


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_silencing_is_a_zero_column_of_the_down_projection(kind: str) -> None:
    model = tiny(kind)
    blocks = feed_forward(model)
    neurons = np.array([[0, 3], [2, 0], [2, 7]])
    with torch.no_grad(), silencing(blocks, neurons):
        silenced = model(IDS).logits
    with torch.no_grad():
        plain = model(IDS).logits
        for layer, neuron in neurons.tolist():
            blocks.down(layer).weight[:, neuron] = 0.0
        wanted = model(IDS).logits
    torch.testing.assert_close(silenced, wanted)
    assert not torch.allclose(silenced, plain)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_silenced_head_is_a_run_of_zero_columns(kind: str) -> None:
    model = tiny(kind)
    heads = attention_heads(model)
    assert (heads.depth, heads.width) == (3, 4)
    with torch.no_grad(), silencing(heads, np.array([[0, 3], [2, 1]])):
        silenced = model(IDS).logits
    with torch.no_grad():
        size = heads.unit
        heads.down(0).weight[:, 3 * size :] = 0.0
        heads.down(2).weight[:, size : 2 * size] = 0.0
        torch.testing.assert_close(silenced, model(IDS).logits)
        assert not torch.allclose(silenced, tiny(kind)(IDS).logits)


def test_heads_are_mined_chosen_and_silenced(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, site="heads", neurons=3, selection="mean")
    out = tmp_path / "heads"
    atlas = mine(checkpoint, None, examples_path, settings, out=out)
    model, _ = load_model(checkpoint, device="cpu")
    heads = attention_heads(model)
    assert atlas.scores_rel.shape == (heads.depth, heads.width)
    assert sum(len(getattr(atlas, name)) for name in SETS) == 3
    assert float(np.median(atlas.residuals)) < 0.05
    outcomes = check(checkpoint, examples_path, NeuronAtlas.load(out), Check(samples=4, draws=1))
    assert {"all chosen", "random, as all chosen"} <= {one.silenced for one in outcomes}
    told = run("atlas", "select", str(out), "--rule", "random", "--budget", "2", "--together",
               "--out", str(tmp_path / "drawn"))  # fmt: skip
    assert told["rel"] + told["irrel"] + told["shared"] == 2
    measuring = ["--model", str(checkpoint), "--examples", str(examples_path)]
    command = ["atlas", "compare", str(atlas_dir), str(out)]
    refused = CliRunner().invoke(app, command)
    assert "site heads; it is to be feed-forward" in str(refused.exception)
    told = run("atlas", "select", str(out), "--rule", "fisher", "--budget", "2", "--together",
               "--out", str(tmp_path / "fisher"), *measuring)  # fmt: skip
    assert told["shared"] == 2


def test_recording_sees_what_enters_the_down_projection() -> None:
    model = tiny("llama")
    blocks = feed_forward(model)
    with torch.no_grad(), recording(blocks) as seen:
        model(IDS)
    assert sorted(seen) == [0, 1, 2]
    assert seen[0].shape == (1, 4, blocks.width)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_controls_have_the_layer_profile_and_none_of_what_is_left_out() -> None:
    score = np.array([[5.0, 4.0, 3.0], [1.0, 2.0, 3.0]])
    found = same_profile(np.array([1, 2]), score, np.array([[0, 0], [1, 1]]))
    assert found.tolist() == [[0, 1], [1, 0], [1, 2]]
    # Where a layer has too few left, all that are left are taken.
    assert len(same_profile(np.array([3, 0]), score, np.array([[0, 0]]))) == 2


def test_controls_keep_the_counts_and_change_the_neurons(atlas_dir: Path) -> None:
    atlas = NeuronAtlas.load(atlas_dir)
    depth, width = atlas.scores_rel.shape
    active = np.random.default_rng(3).random((depth, width))
    for control in ("random-neurons", "active-neurons"):
        other = control_atlas(atlas, control, active, 0)
        drawn = [tuple(pair) for name in SETS for pair in getattr(other, name).tolist()]
        assert len(drawn) == len(set(drawn))
        for name in SETS:
            before, after = getattr(atlas, name), getattr(other, name)
            assert np.bincount(before[:, 0], minlength=depth).tolist() == (
                np.bincount(after[:, 0], minlength=depth).tolist()
            )
    swapped = control_atlas(atlas, "swapped-groups", None, 0)
    assert swapped.rel is atlas.irrel
    assert swapped.irrel is atlas.rel
    assert control_atlas(atlas, "neuro-rit", None, 0) is atlas
    assert control_layers(atlas, "first3", 3, 0) == [0, 1, 2]
    assert control_layers(atlas, "last3", 3, 0) == [1, 2, 3]
    assert len(control_layers(atlas, "random3", 3, 0)) == 3
    assert control_layers(atlas, "neuro-rit", 3, 0) == atlas.densest(3)


def rates(outcomes: Sequence[Outcome], silenced: str, side: str, metric: str) -> list[float]:
    return [getattr(o, metric) for o in outcomes if (o.silenced, o.side) == (silenced, side)]


def test_the_embedded_model_is_misled_and_silencing_is_measured(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir

    path = lab_examples(tmp_path / "examples.jsonl")
    atlas = mine(base_model_dir(), None, path, SETTINGS, out=tmp_path / "atlas")
    outcomes = check(base_model_dir(), path, atlas, Check(samples=24, draws=2))
    names = list(dict.fromkeys(o.silenced for o in outcomes))
    assert names == SILENCED
    assert len(outcomes) == 48 * len(names)
    assert np.mean(rates(outcomes, "nothing", "rel", "right")) >= 0.9
    # With noise alone the base model repeats what stands there.
    assert np.mean(rates(outcomes, "nothing", "irrel", "misled")) >= 0.5
    assert sum(rates(outcomes, "nothing", "rel", "misled")) == 0
    # Two draws of random neurons are averaged.
    assert {value * 2 % 1 for value in rates(outcomes, "random", "rel", "right")} == {0.0}
    likely = rates(outcomes, "nothing", "rel", "probability")
    assert np.mean(likely) >= 0.8
    assert max(likely) <= 1.0
    assert {o.followed for o in outcomes if o.side == "rel" and o.right == 1.0} >= {True}
    again = check(base_model_dir(), path, atlas, Check(samples=24, draws=2))
    assert again == outcomes


def test_an_atlas_of_another_model_or_without_noise_neurons_is_refused(
    checkpoint: Path, examples_path: Path, atlas_dir: Path
) -> None:
    from neurorit.lab import base_model_dir

    atlas = NeuronAtlas.load(atlas_dir)
    with pytest.raises(BadInput, match="of another model"):
        check(base_model_dir(), examples_path, atlas, Check())
    with pytest.raises(BadInput, match="no neuron: nothing to silence"):
        nobody = np.empty((0, 2), np.int32)
        empty = replace(atlas, rel=nobody, irrel=nobody, shared=nobody)
        check(checkpoint, examples_path, empty, Check())


def test_a_prompt_that_the_model_does_not_take_is_refused(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    short = shutil.copytree(checkpoint, tmp_path / "short")
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 40}))
    with pytest.raises(BadInput, match=r"needs \d+ tokens, but the model takes 40; use fewer"):
        check(short, examples_path, NeuronAtlas.load(atlas_dir), Check(samples=4))


def test_overlap_is_one_with_itself_and_less_with_another(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    atlas = NeuronAtlas.load(atlas_dir)
    assert list(overlap(atlas, atlas).values()) == pytest.approx([1.0] * 5)
    other = mine(checkpoint, None, examples_path, SETTINGS, seed=1, out=tmp_path / "atlas")
    found = overlap(atlas, other)
    sets = [{tuple(p) for p in x.irrel.tolist()} for x in (atlas, other)]
    assert found["irrel"] == len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    from scipy.stats import spearmanr

    scored = ((atlas.scores_rel != 0) | (other.scores_rel != 0)).ravel()
    wanted = spearmanr(atlas.scores_rel.ravel()[scored], other.scores_rel.ravel()[scored])
    assert found["scores_rel"] == pytest.approx(wanted.statistic)


def run(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_put_back_to_no_context_with_a_set_of_ones_own(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir

    path = lab_examples(tmp_path / "examples.jsonl")
    atlas = mine(base_model_dir(), None, path, SETTINGS)
    depth, width = atlas.scores_rel.shape
    every = np.argwhere(np.ones((depth, width))).astype(np.int32)
    how = Check(samples=16, draws=1, patch="no-context")
    outcomes = check(base_model_dir(), path, atlas, how, listed={"all": every, "one": every[:1]})
    plain = rates(outcomes, "nothing", "irrel", "probability")
    # What one neuron does is little; what all do is what mining calls the neurons' gain.
    assert np.abs(np.subtract(rates(outcomes, "one", "irrel", "probability"), plain)).max() < 0.2
    held = rates(outcomes, "all", "irrel", "probability")
    assert np.abs(np.subtract(held, plain)).max() > 0.05
    names = {o.silenced for o in outcomes}
    assert {"random, as one", "random, as all"} <= names
    with pytest.raises(BadInput, match="patch 'half'"):
        check(base_model_dir(), path, atlas, Check(patch="half"))


def test_a_selection_is_remade_from_the_atlas_alone(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    former = NeuronAtlas.load(atlas_dir)
    k = max(1, round(0.1 * former.scores_rel.size))
    run("atlas", "select", str(atlas_dir), "--budget", str(k), "--out", str(tmp_path / "same"))
    same = NeuronAtlas.load(tmp_path / "same")
    for name in SETS:
        np.testing.assert_array_equal(getattr(same, name), getattr(former, name))
    assert same.model == former.model
    listed = tmp_path / "neurons.txt"
    listed.write_text("0 1\n1 2 shared\n", encoding="utf-8")
    told = run(
        "atlas", "select", str(atlas_dir), "--rule", "file", "--neurons", str(listed),
        "--out", str(tmp_path / "own"),
    )  # fmt: skip
    assert (told["rel"], told["irrel"], told["shared"]) == (0, 1, 1)
    assert set(told["false_discovery"]) == {"level", *SETS}
    active = run(
        "atlas", "select", str(atlas_dir), "--rule", "active", "--model", str(checkpoint),
        "--examples", str(examples_path), "--samples", "4", "--out", str(tmp_path / "active"),
    )  # fmt: skip
    assert active["irrel"] > 0


def test_the_commands_print_what_was_found(
    checkpoint: Path, examples_path: Path, atlas_dir: Path
) -> None:
    compared = run("atlas", "compare", str(atlas_dir), str(atlas_dir))
    assert compared["jaccard"] == {"rel": 1.0, "irrel": 1.0, "shared": 1.0}
    checked = run(
        "atlas", "verify", str(atlas_dir), "--model", str(checkpoint),
        "--examples", str(examples_path), "--samples", "6", "--draws", "2",
    )  # fmt: skip
    assert [row["silenced"] for row in checked["silencing"]] == SILENCED
    low, high = checked["p_irrel_minus_random"]["misled_ci95"]
    assert low <= checked["p_irrel_minus_random"]["misled"] <= high
    assert checked["followed"].keys() == {"rel", "irrel"}
    assert "P_irrel" in checked["verdict"]
    assert set(checked["minus_random"]) == {"P_irrel", "P_shared", "all chosen"}
    low, high = checked["minus_random"]["P_shared"]["right_ci95"]
    assert low <= checked["minus_random"]["P_shared"]["right"] <= high
