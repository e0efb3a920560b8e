"""calibrate from the command line: a threshold, what it gives, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.lab.world import write_world
from neurorit.pipelines.serving.calibrate import calibrate as calibrate_index
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import build_index
from neurorit.retrieval.settings import SearchSettings

THINGS = ("otter", "bridge", "pump", "trout", "bread", "glass", "violin", "harbour")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    passages = [
        {"id": thing, "text": f"The {thing} of Karvel is kept by Mira Solden."} for thing in THINGS
    ]
    asked = [
        {"id": f"q-{thing}", "question": f"Who keeps the {thing} of Karvel?",
         "answers": ["Mira Solden"], "gold": [thing]}
        for thing in THINGS
    ]  # fmt: skip
    foreign = [
        {"id": f"f-{n}", "question": f"What is {n} times {n}?", "answers": [str(n * n)]}
        for n in range(4, 8)
    ]
    for name, records in (("corpus", passages), ("validation", asked + foreign)):
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(lines)
    build_index(folder / "corpus.jsonl", folder / "index", encoder=load_encoder())
    return folder


def calibrate(place: Path, *options: str) -> tuple[int, str]:
    command = ["calibrate", "--index", str(place / "index"), "--top-k", "2"]
    command += ["--questions", str(place / "validation.jsonl"), *options]
    done = CliRunner().invoke(app, command)
    return done.exit_code, done.stdout if done.exit_code == 0 else repr(done.exception)


def test_foreign_questions_are_not_answered_and_the_report_shows_it(place: Path) -> None:
    out = place / "report"
    held = ["--held-out", str(place / "validation.jsonl"), "--out", str(out), "--json"]
    code, said = calibrate(place, "--abstain", "0.3333", *held)
    assert code == 0, said
    found = json.loads(said)
    assert found["held_out"] == found["validation"]
    low, high = found["validation"].pop("interval")
    assert 0.1 < low < 1 / 3 < high < 0.7
    assert found["validation"] == pytest.approx(
        {"questions": 12, "not_answered": 4, "abstention": 1 / 3, "coverage": 2 / 3, "risk": 0.0}
    )
    lines = (out / "risk-coverage.csv").read_text().splitlines()
    assert lines[0] == "questions,threshold,coverage,risk"
    assert lines[1].startswith("validation,") and ",1.000000,0.333333" in lines[1]
    page = (out / "report.html").read_text()
    assert "4 of 12; 95 % interval" in page
    assert "<svg" in page and "coverage 66.7%, risk 0.0%" in page
    same = calibrate(place, "--risk", "0.0", "--json")[1]
    assert json.loads(same)["min_score"] == pytest.approx(found["min_score"])


@pytest.mark.parametrize("options", [[], ["--risk", "0.1", "--abstain", "0.1"]])
def test_one_of_the_two_is_to_be_asked(place: Path, options: list[str]) -> None:
    code, said = calibrate(place, *options)
    assert code != 0 and "--abstain or --risk" in said


@pytest.mark.slow
def test_on_held_out_questions_of_the_lab_each_asked_share_is_met(tmp_path: Path) -> None:
    """400 questions each way: half a share too many or too few lies outside of what is allowed."""
    paths = write_world(tmp_path / "world", 3, train=1, validation=400, test=400)
    build_index(paths["corpus"], tmp_path / "index", encoder=load_encoder())
    thresholds = []
    for asked in (0.05, 0.10, 0.20):
        found = calibrate_index(
            tmp_path / "index",
            paths["validation"],
            abstain=asked,
            risk=None,
            held_out=paths["test"],
            top_k=3,
            settings=SearchSettings(),
            out=None,
        )
        assert found["validation"]["abstention"] == pytest.approx(asked, abs=0.005)
        held = found["held_out"]
        assert held["questions"] == 400
        assert held["abstention"] == held["not_answered"] / 400
        assert abs(held["abstention"] - asked) < min(0.03, asked / 2)
        assert held["interval"][0] < asked < held["interval"][1]
        thresholds.append(found["min_score"])
    assert thresholds == sorted(set(thresholds))
