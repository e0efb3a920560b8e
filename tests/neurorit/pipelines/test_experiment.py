"""Experiments: what is run, what is not run again, the rule of choice, the test touched once.

Tuning and vLLM are replaced here; their own tests run the real ones.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurorit.core.artifact import Manifest, read_manifest, writing
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.mining import mine as mining
from neurorit.pipelines import method as tuning
from neurorit.pipelines.evaluation import evaluate
from neurorit.pipelines.evaluation.evaluate import Evaluation
from neurorit.pipelines.experiment import run as experiment
from neurorit.pipelines.experiment import work
from neurorit.pipelines.experiment.table import markdown, rows
from neurorit.pipelines.recipe import LAB_RECIPE

pytestmark = pytest.mark.slow

# system name without its seed -> EM on clean, on distractors, refusals on clean
FIGURES = {
    "base": (1.0, 0.5, 0.0),
    "neuro-rit": (0.99, 0.6, 0.01),
    "faster": (0.99, 0.7, 0.01),
    "refuses": (0.98, 0.9, 0.2),
    "forgets": (0.5, 0.95, 0.0),
    "sft": (1.0, 0.65, 0.0),
    "own": (1.0, 0.6, 0.0),
}


def bare(system: str) -> str:
    """A system's name without its rate and seed."""
    return system.partition("@")[0].removesuffix("-0").removesuffix("-1")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def mine(
        model: Path, _: Any, examples: Path, settings: Any, *, seed: int, out: Path, **__: Any
    ) -> None:
        made.append(out.name)
        inputs = tuning.inputs_of(model, examples=examples)
        manifest = Manifest("atlas", "test", tuning.plain(settings), seed, inputs)
        with writing(out, manifest, overwrite=True):
            pass

    def tune(
        model: Path, examples: Path, out: Path, method: str, atlas: Path | None, recipe: Path,
        assigned: Sequence[str], seed: int, overwrite: bool,
    ) -> None:  # fmt: skip
        from neurorit.pipelines.recipe import Recipe, parse_assignments
        from neurorit.tuning.settings import TuneSettings

        made.append(out.name)
        options = {**parse_assignments(assigned), "method": method}
        settings = Recipe(recipe).settings(TuneSettings, "tune", options, method)
        inputs = tuning.inputs_of(model, examples=examples, **({"atlas": atlas} if atlas else {}))
        manifest = Manifest("checkpoint", "test", tuning.plain(settings), seed, inputs)
        with writing(out, manifest, overwrite=overwrite):
            pass

    def choose_again(
        directory: Path, model: Path, examples: Path, settings: Any, out: Path, **__: Any
    ) -> None:
        mine(model, None, examples, settings, seed=0, out=out)
        made[-1] += f", from {directory.name}"

    def evaluated(
        models: Mapping[str, Path],
        examples: Path,
        conditions: Sequence[str],
        *,
        out: Path,
        retention: Any = None,
        limit: int | None = None,
        **_: Any,
    ) -> Evaluation:
        questions = f" {limit} questions" if limit else ""
        made.append(f"evaluated{questions} {out.name}: {' '.join(models)}")
        results, lines = [], []
        for system in models:
            name, _, seed = system.rpartition("-")
            name = name.partition("@")[0]
            clean, noisy, refused = FIGURES.get(system, FIGURES.get(name, FIGURES["own"]))
            step = 0.01 * int(seed) if seed.isdigit() else 0.0
            for condition in conditions:
                em = clean if condition == "clean" else noisy + step
                results.append(
                    {"system": system, "condition": condition, "em": em, "abstain_rate": refused}
                )
                for question in range(100):
                    right = question < round(100 * em)
                    where = {"system": system, "condition": condition, "id": str(question)}
                    lines.append(json.dumps({**where, "em": right}))
        out.mkdir(parents=True, exist_ok=True)
        (out / "predictions.jsonl").write_text("\n".join(lines))
        made.append(f"retention {retention}") if retention else None
        report: dict[str, Any] = {"results": results}
        if retention:
            report["frontier"] = [
                {
                    "system": system,
                    "robustness": FIGURES.get(bare(system), FIGURES["own"])[1],
                    "retention": 1.0
                    - float(system.partition("@")[2].rpartition("-")[0].lstrip("x") or 0),
                }
                for system in models
            ]
        return Evaluation(report, [], out)

    monkeypatch.setattr(mining, "mine", mine)
    monkeypatch.setattr(mining, "choose_again", choose_again)
    monkeypatch.setattr(tuning, "tune", tune)
    monkeypatch.setattr(evaluate, "evaluate", evaluated)
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}"}}\n')
    return write(tmp_path)


def write(folder: Path, **changes: Any) -> Path:
    document = {
        "model": "lab",
        "examples": str(folder / "train.jsonl"),
        "evaluate": str(folder / "validation.jsonl"),
        "methods": ["neuro-rit", "sft"],
        "variants": {
            "faster": {"method": "neuro-rit", "settings": {"dense_learning_rate": 0.004}},
            "refuses": {"method": "neuro-rit", "settings": {"steps": 10}},
            "forgets": {"method": "sft", "settings": {"steps": 11}},
        },
        "seeds": [0, 1],
        "conditions": ["clean", "distractor-1", "distractor-4", "noise-only-4"],
        "select": {"clean_within": 0.02, "refused_clean": 0.05},
        "test": str(folder / "test.jsonl"),
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


def test_the_rule_chooses_and_the_chosen_alone_see_the_test_questions(
    file: Path, calls: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    table = experiment.run(file, out)
    told = capsys.readouterr().err
    assert "training 1 of 10: neuro-rit-0" in told and "training 10 of 10: refuses-1" in told
    assert table["selected"] == {"neuro-rit": "faster", "sft": "sft"}
    assert calls.count("atlas-0") == 1
    assert calls[-1] == "evaluated test: base sft-0 faster-0 sft-1 faster-1"
    rows = {row["variant"]: row for row in table["rows"]}
    figure = rows["faster"]["figures"]["distractor mean, EM"]
    assert figure["mean"] == pytest.approx(0.705)
    # Two seeds, 0.70 and 0.71: a t interval with one degree of freedom.
    assert figure["ci95"][1] - figure["mean"] == pytest.approx(12.706 * 0.005, rel=1e-3)
    assert rows["base"]["seeds"] == 1
    assert rows["base"]["figures"]["clean, EM"]["ci95"] is None
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["kind"] == "experiment"
    assert manifest["made"]["selected"] == {"neuro-rit": "faster", "sft": "sft"}
    assert manifest["made"]["test"]["selected"] == ["faster", "sft"]
    assert manifest["settings"]["select"] == {"clean_within": 0.02, "refused_clean": 0.05}
    text = (out / "table.md").read_text()
    assert re.search(r"^\| faster +\| +2 \|", text, re.MULTILINE)
    assert "neuro-rit: faster" in text
    pairs = {(row["a"], row["b"], row["figure"]): row for row in table["paired"]}
    faster = pairs["faster", "base", "distractor mean"]
    # Of 100 questions the base has 50 right, the two seeds 70 and 71.
    assert faster["delta"] == pytest.approx(0.205)
    assert 0.1 < faster["ci95"][0] < 0.205 < faster["ci95"][1] < 0.3
    assert pairs["sft", "neuro-rit", "clean"]["delta"] == pytest.approx(0.01)
    assert ("neuro-rit", "neuro-rit", "clean") not in pairs
    assert faster["p_holm"] >= faster["p"]
    drawn = {path.name for path in out.glob("*.svg")}
    assert drawn == {"table.svg"}  # no retention, no frontier
    assert json.loads((out / "table.json").read_text())["test"]["rows"]


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


def test_what_is_lost_of_other_text_is_told_in_nats() -> None:
    result = {"system": "base", "condition": "clean", "em": 0.5, "abstain_rate": 0.0}
    text = {"system": "base", "part": "text", "delta": 0.25, "kl": 0.125}
    document = {"results": [result], "retention": {"rows": [text, {**text, "part": "clean"}]}}
    held = rows(document, [], [0], ["clean"])
    assert held[0]["figures"]["loss on other text, nats"]["mean"] == 0.25
    told = markdown({"rows": held, "selected": None, "test": None})
    assert re.search(r"\| base +\| +1 \| +50\.0 \| +0\.0 \| +0\.250 \| +0\.125 \|", told)


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


def test_every_learning_rate_is_a_point_of_robustness_against_retention(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []
    monkeypatch.setattr(
        "neurorit.eval.report.write.write_report",
        lambda report, out: written.append(report) or report,
    )
    path = write(
        tmp_path,
        methods=[],
        variants={
            "sft": {"method": "sft", "learning_rates": ["1e-1", 0.2]},  # as YAML reads 1e-1
            "faster": {"method": "neuro-rit"},
        },
        seeds=[0],
        select=None,
        test=None,
        retention={"text": "lab", "instructions": 0},
    )
    table = experiment.run(path, tmp_path / "out")
    assert {"sft@0.1-0", "sft@0.2-0", "faster-0"} <= set(calls)
    assert any("retention RetentionSettings(text='lab'" in call for call in calls)
    points = {row["system"]: row for row in table["frontier"]}
    assert set(points) == {"base", "sft@0.1", "sft@0.2", "faster"}
    assert points["sft@0.1"]["retention"] == 0.9
    assert points["sft@0.2"]["dominated_by"] == ["faster", "sft@0.1"]
    assert points["base"]["dominated_by"] == ["faster"]
    # Of one seed nothing is clear.
    assert all(row["clearly_by"] == [] and not row["robustness_ci95"] for row in table["frontier"])
    settings = read_manifest(tmp_path / "out" / "sft@0.1-0", "checkpoint").settings
    assert settings["learning_rate"] == 0.1
    assert written[0]["families"] == {"sft@0.1-0": "sft-0", "sft@0.2-0": "sft-0"}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "Robustness against retention" in text and re.search(r"sft@0.2 .*faster, sft@0.1", text)
    with pytest.raises(BadInput, match="txt"):
        experiment.Experiment.read(write(tmp_path, retention={"txt": "lab"}, test=None))
    variants = {"sft": {"method": "sft", "learning_rates": 0.1}}
    with pytest.raises(BadInput, match="learning_rates is a list"):
        experiment.Experiment.read(write(tmp_path, variants=variants, test=None))


def test_of_each_variant_s_rates_one_is_chosen_and_tuned_with_more_seeds_for_the_test(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIGURES, "sft@x2-0", (1.0, 0.7, 0.0))
    path = write(
        tmp_path,
        methods=["lora"],
        variants={
            "sft": {"method": "sft", "rate_factors": [0.5, 2]},
            "faster": {"method": "neuro-rit", "rate_factors": [2], "against": "sft"},
            "refuses": {"method": "neuro-rit"},
        },
        seeds=[0],
        select={"clean_within": 0.02, "refused_clean": 0.05, "each": "variant"},
        test_seeds=[0, 1],
        limit=50,
        test_limit=80,
        retention={"text": "lab", "instructions": 0},
    )
    monkeypatch.setattr("neurorit.eval.report.write.write_report", lambda report, out: report)
    table = experiment.run(path, tmp_path / "out")
    assert table["selected"] == {
        "lora": "lora", "sft": "sft@x2", "faster": "faster@x2", "refuses": None,
    }  # fmt: skip
    settings = {
        name: read_manifest(tmp_path / "out" / name, "checkpoint").settings
        for name in ("sft@x0.5-0", "sft@x2-0", "sft@x2-1", "faster@x2-1", "lora-1")
    }
    # The recipe's rate is 5e-4, and neuro-rit's 2e-4, 3e-4 and 3e-3.
    assert settings["sft@x0.5-0"]["learning_rate"] == 2.5e-4
    assert settings["sft@x2-0"]["learning_rate"] == settings["sft@x2-1"]["learning_rate"] == 1e-3
    faster = settings["faster@x2-1"]
    assert faster["stage1_learning_rate"] == 4e-4
    assert (faster["learning_rate"], faster["dense_learning_rate"]) == (6e-4, 6e-3)
    # What was not chosen gets no second seed, and the test is asked once all are tuned.
    assert not {"sft@x0.5-1", "refuses-1"} & set(calls)
    asked = [call for call in calls if call.startswith("evaluated")]
    assert asked[0].startswith("evaluated 50 questions evaluation: base lora-0 faster@x2-0 ")
    systems = "base lora-0 faster@x2-0 sft@x2-0 lora-1 faster@x2-1 sft@x2-1"
    assert asked[1:] == [f"evaluated 80 questions test: {systems}"]
    test = table["test"]
    assert [row["seeds"] for row in test["rows"]] == [1, 2, 2, 2]
    assert {row["system"] for row in test["frontier"]} == {"base", "lora", "sft@x2", "faster@x2"}
    # Each has its rival's like rate, and on the test the rate that was chosen.
    for told in (table, test):
        rivals = {row["b"] for row in told["paired"] if row["a"] == "faster@x2"}
        assert rivals == {"base", "lora", "sft@x2"}
    picture = (tmp_path / "out" / "frontier.svg").read_text(encoding="utf-8")
    # Named are those of the test, by what they share with other rates.
    assert [name in picture for name in ("sft", "faster", "lora", "refuses", "x0.5")] == (
        [True, True, True, False, False]
    )
    assert set(test["touched"]["made"]) == {
        f"{name}-{seed}" for name in ("lora", "sft@x2", "faster@x2") for seed in (0, 1)
    }


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


def test_another_choice_on_the_same_test_questions_is_refused(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    experiment.run(file, tmp_path / "out")
    calls.clear()
    choice = {"clean_within": 1.0, "refused_clean": 1.0}
    for changes in (
        {"select": choice},
        {"test_limit": 7},
        {"conditions": ["clean", "distractor-4"]},
        {"test_seeds": [0, 2]},
    ):
        with pytest.raises(BadInput, match="used for another choice"):
            experiment.run(write(tmp_path, **changes), tmp_path / "out")
        # Before anything more is tuned.
        assert not [call for call in calls if not call.startswith("evaluated evaluation")]


def test_the_choice_is_not_made_on_the_test_questions(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    (tmp_path / "copy.jsonl").write_bytes((tmp_path / "validation.jsonl").read_bytes())
    for name in ("validation", "copy"):
        with pytest.raises(BadInput, match=rf"test: .*{name}.jsonl holds what the choice is made"):
            experiment.run(write(tmp_path, test=str(tmp_path / f"{name}.jsonl")), tmp_path / "out")
    assert not calls


def test_a_setting_that_there_was_not_then_counts_as_its_default(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    experiment.run(write(tmp_path, test=None), tmp_path / "out")
    calls.clear()
    place = tmp_path / "out" / "atlas-0" / "manifest.json"
    manifest = json.loads(place.read_text())
    assert manifest["settings"].pop("prefill") == "as-activations"
    place.write_text(json.dumps(manifest))
    experiment.run(write(tmp_path, test=None), tmp_path / "out")
    assert "atlas-0" not in calls
    manifest["settings"].pop("share")  # the recipe has another one than the default
    manifest["settings"]["prefill"] = "as-asking"
    place.write_text(json.dumps(manifest))
    experiment.run(write(tmp_path, test=None), tmp_path / "out")
    assert "atlas-0" in calls


def test_what_is_chosen_again_but_made_otherwise_is_another_choice(
    file: Path, calls: list[str], tmp_path: Path
) -> None:
    experiment.run(file, tmp_path / "out")
    experiment.run(file, tmp_path / "out")  # the same may go on
    document = yaml.safe_load(file.read_text())
    document["variants"]["faster"]["settings"]["dense_learning_rate"] = 0.005
    changed = write(tmp_path, variants=document["variants"])
    with pytest.raises(BadInput, match="used for another choice"):
        experiment.run(changed, tmp_path / "out")


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "`model` is missing"),
        ({"method": ["sft"]}, "no setting"),
        ({"methods": [], "variants": {}}, "name `methods`"),
        ({"select": {"best": 1}}, "select knows"),
        ({"select": {"clean_within": 1, "each": "seed"}}, "each is method or variant"),
        ({"test": None, "test_seeds": [1]}, "test_seeds is for `test`"),
        ({"test_seeds": [1, 1]}, "test_seeds: one stands there twice"),
        ({"variants": {"a": {"method": "sft", "rate_factors": [0]}}}, "list of positive numbers"),
        (
            {"variants": {"a": {"method": "sft", "rate_factors": [1], "learning_rates": [1]}}},
            "learning_rates or rate_factors, not both",
        ),
        ({"select": {}}, "declare the rule"),
        ({"variants": {"one": {"settings": {}}}}, "variant one"),
        ({"seeds": "many"}, "seeds"),
        ({"seeds": [0, 1, 0]}, "seeds: one stands there twice"),
        ({"variants": {"sft": {"method": "sft"}}}, "variant sft: that is the name of another"),
        ({"variants": {"base": {"method": "sft"}}}, "variant base: that is the name of the untun"),
        ({"variants": {"one": {"method": "sft", "against": "two"}}}, "no other variant"),
        ({"variants": {"one": {"method": "sft", "data": "x"}}}, "not {'data'}"),
    ],
)
def test_a_wrong_file_is_named(
    file: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        experiment.Experiment.read(write(tmp_path, **changes))


def test_data_that_is_not_there_is_named_before_anything_is_made(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, says in (("examples-train", "`make demo` writes it"), ("other", "rag mix` makes")):
        path = write(tmp_path, evaluate=f"runs/demo/{name}")
        with pytest.raises(BadInput, match=rf"yaml: evaluate: runs/demo/{name}: .*{says}"):
            experiment.run(path, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(BadInput, match=r"processes: 8"):
        experiment.run(file, tmp_path / "out")
    assert not calls and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": ["clean", "typo-3"]}, "unknown condition 'typo-3'"),
        ({"conditions": ["clean", "random-4"]}, "`clean` and `distractor-K`"),
        ({"methods": ["sfft"]}, "method .sfft"),
        ({"variants": {"own": {"method": "sft", "settings": {"stepps": 1}}}}, "stepps"),
        ({"variants": {"own": {"method": "neuro-rit", "mine": {"share": 3}}}}, "share"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_made(
    file: Path, calls: list[str], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        experiment.run(write(tmp_path, **changes), tmp_path / "out")
    assert not calls


def test_packaged_experiments_can_be_read() -> None:
    from neurorit.tuning.settings import METHODS

    for path in (LAB_RECIPE.parent / "experiments").glob("*.yaml"):
        made = experiment.Experiment.read(path)
        assert {variant.method for variant in made.all_variants()} <= set(METHODS)
