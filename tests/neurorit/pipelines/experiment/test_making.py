"""What an experiment makes, does not make again, and does when a training fails."""

from __future__ import annotations

import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.mining import mine as mining
from neurorit.pipelines import method as tuning
from neurorit.pipelines.experiment import run as experiment
from neurorit.pipelines.experiment import work
from tests.neurorit.pipelines.experiment.stand_in import write

pytestmark = pytest.mark.slow


def test_variants_of_the_choice_alone_share_one_mining_and_have_rivals_of_their_own(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    variants: dict[str, Any] = {
        f"fisher-{share}": {"method": "neurons", "mine": {"selection": "fisher", "neurons": share}}
        for share in (0.02, 0.1)
    }
    variants["steps"] = {"method": "neurons", "mine": {"steps": 4}, "against": "fisher-0.1"}
    more = {"methods": ["neurons"], "seeds": [0], "select": None, "test": None}
    path = write(tmp_path, variants=variants, engine="transformers", **more)
    experiment.run(path, tmp_path / "out")
    assert calls == [
        "atlas-0", "neurons-0",
        "fisher-0.02-0-atlas, from atlas-0", "fisher-0.02-0",
        "fisher-0.1-0-atlas, from atlas-0", "fisher-0.1-0",
        "steps-0-atlas", "steps-0",
        "evaluated evaluation: base neurons-0 fisher-0.02-0 fisher-0.1-0 steps-0",
    ]  # fmt: skip
    text = (tmp_path / "out" / "table.md").read_text()
    assert re.search(r"^\| steps minus fisher-0\.1 +\| +\+0\.0 ", text, re.MULTILINE)
    calls.clear()
    experiment.run(path, tmp_path / "out")
    assert len(calls) == 1


def test_variants_that_differ_in_their_rates_alone_choose_once(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    fisher = {"method": "neurons", "mine": {"selection": "fisher"}, "rate_factors": [0.3, 1, 3]}
    changes = {"methods": [], "variants": {"fisher": fisher}, "select": None, "test": None}
    experiment.run(write(tmp_path, **changes, seeds=[0]), tmp_path / "out")
    chosen = [call for call in calls if "from" in call]
    assert chosen == ["fisher-0-atlas, from atlas-0"]
    assert {f"fisher@x{by}-0" for by in ("0.3", "1", "3")} <= set(calls)


def test_what_is_there_is_not_made_again_unless_it_was_made_otherwise(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    experiment.run(file, tmp_path / "out")
    calls.clear()
    experiment.run(file, tmp_path / "out")
    assert not [call for call in calls if not call.startswith("evaluated")]
    (tmp_path / "train.jsonl").write_text('{"other": 1}\n')
    calls.clear()
    experiment.run(write(tmp_path, test=None), tmp_path / "out")
    assert {"atlas-0", "atlas-1", "sft-0", "neuro-rit-1"} <= set(calls)
    # Another base model: nothing that came from the first may be used.
    other = tmp_path / "model"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"other weights")
    (other / "config.json").write_text("{}")
    calls.clear()
    experiment.run(write(tmp_path, model=str(other), test=None), tmp_path / "out")
    assert {"atlas-0", "atlas-1", "sft-0", "neuro-rit-1"} <= set(calls)


def test_a_training_that_fails_stops_no_other(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuning.tune

    def fails(model: Path, examples: Path, out: Path, *given: Any) -> None:
        if out.name.startswith(("sft", "refuses")):
            raise BadInput("no text has 64 tokens; lower ‹kl_text_tokens›")
        whole(model, examples, out, *given)

    monkeypatch.setattr(tuning, "tune", fails)
    with pytest.raises(BadInput) as raised:
        experiment.run(file, tmp_path / "out")
    told = str(raised.value)
    assert "4 of 10 trainings failed: sft-0: no text has 64 tokens; lower kl_text_tokens" in told
    assert "refuses-0" in told and told.count("no text") == 3 and "and 1 more. The others" in told
    assert {"neuro-rit-1", "faster-1", "forgets-1"} <= set(calls)
    assert not [call for call in calls if call.startswith("evaluated")]
    calls.clear()
    monkeypatch.setattr(tuning, "tune", whole)
    experiment.run(file, tmp_path / "out")
    made = [call for call in calls if not call.startswith("evaluated")]
    assert sorted(made) == ["refuses-0", "refuses-1", "sft-0", "sft-1"]


def test_what_cannot_be_mined_is_tried_once_and_stops_nothing_else(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        calls.append("mined")
        raise BadInput("no context is followed")

    monkeypatch.setattr(mining, "mine", nothing)
    with pytest.raises(BadInput, match=r"^3 of 5 trainings failed: neuro-rit-0: no context is"):
        experiment.run(write(tmp_path, seeds=[0]), tmp_path / "out")
    assert calls == ["mined", "sft-0", "forgets-0"]


def test_a_training_without_enough_memory_is_one_that_failed(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model:
        pass

    held: list[weakref.ref[Model]] = []

    def full(*_: Any, **__: Any) -> None:
        assert not any(model() for model in held), "what failed before still holds its model"
        model = Model()
        held.append(weakref.ref(model))
        raise MemoryError("no 8 GB are left")

    monkeypatch.setattr(tuning, "tune", full)
    with pytest.raises(NeuroritError) as raised:
        experiment.run(write(tmp_path, seeds=[0]), tmp_path / "out")
    assert "5 of 5 trainings failed" in str(raised.value) and "no 8 GB" in str(raised.value)
    assert "The others" not in str(raised.value)
    assert not isinstance(raised.value, BadInput)


def test_a_variant_may_have_examples_of_its_own(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    (tmp_path / "other.jsonl").write_text('{"other": 1}\n')
    own = {"method": "neuro-rit", "examples": str(tmp_path / "other.jsonl")}
    path = write(tmp_path, variants={"own": own}, seeds=[0], select=None, test=None)
    experiment.run(path, tmp_path / "out")
    assert "own-0-atlas" in calls
    calls.clear()
    experiment.run(path, tmp_path / "out")
    assert not [call for call in calls if not call.startswith("evaluated")]


def test_a_variant_may_mine_otherwise(file: Path, calls: list[str], tmp_path: Path) -> None:
    own = {"method": "neuro-rit", "mine": {"share": 0.2}}
    path = write(tmp_path, variants={"own": own}, seeds=[0], select=None, test=None)
    experiment.run(path, tmp_path / "out")
    shares = [
        read_manifest(tmp_path / "out" / name, "atlas").settings["share"]
        for name in ("atlas-0", "own-0-atlas")
    ]
    assert shares == [0.05, 0.2]
    bad = {"method": "neuro-rit", "mine": {"shares": 0.2}}
    path = write(tmp_path, variants={"own": bad}, seeds=[0], select=None, test=None)
    with pytest.raises(BadInput, match="shares"):
        experiment.run(path, tmp_path / "out")


def test_what_is_held_to_a_text_is_not_trained_again(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "text.jsonl"
    text.write_text('{"id": "a", "text": "' + 20 * "a b c d " + '"}\n')
    settings = {"steps": 1, "stage1_steps": 0, "batch_size": 2, "dtype": "float32"}
    settings |= {"kl_weight": 1.0, "kl_on": ["text"], "kl_text": str(text), "kl_text_tokens": 4}
    document = {
        "model": str(checkpoint),
        "examples": str(examples_path),
        "evaluate": str(examples_path),
        "variants": {"held": {"method": "sft", "settings": settings}},
        "conditions": ["clean"],
    }
    path, out, recipe = tmp_path / "e.yaml", tmp_path / "held", tmp_path / "recipe.yaml"
    atlas = tmp_path / "atlas"
    path.write_text(yaml.safe_dump(document))
    recipe.write_text("{}")
    read = experiment.Experiment.read(path)
    (variant,) = read.all_variants()
    work.tune(read, variant, 0, checkpoint, recipe, out, atlas, tmp_path / "own")

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(work.tuning, "tune", again)
    work.tune(read, variant, 0, checkpoint, recipe, out, atlas, tmp_path / "own")
    # By other processes it learns from other steps.
    with pytest.raises(AssertionError):
        more = replace(read, processes=2)
        monkeypatch.setattr(work, "launch", again)
        work.tune(more, variant, 0, checkpoint, recipe, out, atlas, tmp_path / "own")
