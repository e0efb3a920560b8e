"""The table of an experiment: which conditions each of its figures is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from neurorit.eval.conditions import build_condition
from neurorit.eval.metrics.scoring import score
from neurorit.eval.predictions import Prediction
from neurorit.eval.report.summary import summarise
from neurorit.pipelines.experiment.table import markdown, paired, rows
from tests.conftest import make_example

CONDITIONS = ("clean", "distractor-1", "distractor-4", "distractor-4@last", "distractor-2+typos")
CONDITIONS += ("distractor-only-4", "counterfactual-only-1", "noise-only-2")
ASKED = [make_example(i) for i in range(10)]


def answers(system: str, right: Sequence[int]) -> list[Prediction]:
    """right: of how many questions the answer is right, under each condition; else it refuses."""
    return [
        score(system, c, e, build_condition(e, c), f"{system}{c}{e.id}", e.answers[0] * (i < hits))
        for c, hits in zip(CONDITIONS, right, strict=True)
        for i, e in enumerate(ASKED)
    ]


@pytest.fixture(scope="module")
def held() -> list[Prediction]:
    return answers("base", (9, 8, 6, 5, 7, 0, 1, 2)) + answers("sft-0", (9, 9, 8, 1, 2, 0, 0, 1))


def test_the_distractor_mean_is_that_of_the_report(held: list[Prediction]) -> None:
    document = summarise(held, ["base", "sft-0"], CONDITIONS, {})
    pooled = {row["system"]: row["em"] for row in document["pooled"]}
    table = {row["variant"]: row["figures"] for row in rows(document, ["sft"], [0], CONDITIONS)}
    assert table["base"]["distractor mean, EM"]["mean"] == pytest.approx(pooled["base"]) == 0.7
    assert table["sft"]["distractor mean, EM"]["mean"] == pytest.approx(pooled["sft-0"])
    refused = {name: figure["mean"] for name, figure in table["base"].items() if "refused" in name}
    assert refused == {
        "clean, refused": 0.1,
        "distractor-only-4, refused": 1.0,
        "counterfactual-only-1, refused": 0.9,
        "noise-only-2, refused": 0.8,
    }


def test_refusals_on_clean_are_those_of_what_has_an_answer() -> None:
    asked = [replace(e, answers=()) if i < 4 else e for i, e in enumerate(ASKED)]
    # The four without an answer are refused, and three of the six others.
    said = ["", "", "", "", "", "", "", *(e.answers[0] for e in ASKED[7:])]
    found = [
        score("base", c, e, build_condition(e, c), f"{c}{e.id}", text)
        for c in ("clean", "noise-only-2")
        for e, text in zip(asked, said, strict=True)
    ]
    document = summarise(found, ["base"], ["clean", "noise-only-2"], {})
    (row,) = rows(document, [], [0], ["clean", "noise-only-2"])
    assert row["figures"]["clean, refused"]["mean"] == pytest.approx(0.5)
    assert row["figures"]["noise-only-2, refused"]["mean"] == pytest.approx(0.7)


def test_every_other_condition_is_paired_alone(held: list[Prediction], tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(asdict(p)) + "\n" for p in held))
    found: list[dict[str, Any]] = paired(path, ["sft"], [0], CONDITIONS)
    deltas = {row["figure"]: row["delta"] for row in found}
    assert deltas.pop("distractor mean") == pytest.approx(0.15)
    assert deltas == pytest.approx(
        {
            "clean": 0.0,
            "distractor-4@last": -0.4,
            "distractor-2+typos": -0.5,
            "distractor-only-4": 0.0,
            "counterfactual-only-1": -0.1,
            "noise-only-2": -0.1,
        }
    )


def test_told_intervals_of_shares_end_at_0_and_1() -> None:
    systems = {"base": (0.9, 0.0), "sft-0": (0.9, -0.2), "sft-1": (1.0, 0.1)}
    document = {
        "results": [
            {"system": name, "condition": "clean", "em": em, "abstain_rate": 1 - em}
            for name, (em, _) in systems.items()
        ],
        "retention": {
            "rows": [
                {"system": name, "part": "text", "delta": lost, "kl": 0.0}
                for name, (_, lost) in systems.items()
            ]
        },
    }
    held = rows(document, ["sft"], [0, 1], ["clean"])
    text = markdown({"rows": held, "selected": None, "test": None})
    line = next(line for line in text.splitlines() if line.startswith("| sft"))
    # By t of one degree of freedom 31.5 to 158.5, and of the refusals -58.5 to 68.5.
    assert "95.0 (31.5 to 100.0)" in line and "5.0 (0.0 to 68.5)" in line
    assert "-0.050 (-1.956 to 1.856)" in line  # nats are no share
    assert held[1]["figures"]["clean, EM"]["ci95"][1] == pytest.approx(1.585, abs=1e-3)
