"""calibrate from the command line: a threshold, what it gives, and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import build_index

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
