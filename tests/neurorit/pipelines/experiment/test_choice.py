"""The rule of choice, its table, and the test questions that only the chosen see, once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import BadInput
from neurorit.pipelines.experiment import run as experiment
from neurorit.pipelines.experiment.table import markdown, rows
from tests.neurorit.pipelines.experiment.stand_in import FIGURES, write

pytestmark = pytest.mark.slow


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


def test_what_is_lost_of_other_text_is_told_in_nats() -> None:
    result = {"system": "base", "condition": "clean", "em": 0.5, "abstain_rate": 0.0}
    text = {"system": "base", "part": "text", "delta": 0.25, "kl": 0.125}
    document = {"results": [result], "retention": {"rows": [text, {**text, "part": "clean"}]}}
    held = rows(document, [], [0], ["clean"])
    assert held[0]["figures"]["loss on other text, nats"]["mean"] == 0.25
    told = markdown({"rows": held, "selected": None, "test": None})
    assert re.search(r"\| base +\| +1 \| +50\.0 \| +0\.0 \| +0\.250 \| +0\.125 \|", told)


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
