"""The rule of choice, to the digit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neurorit.pipelines.experiment.document import Experiment
from neurorit.pipelines.experiment.run import _select


def row(variant: str, clean: float, refused: float | None) -> dict[str, Any]:
    figures = {"clean, EM": clean, "clean, refused": refused, "distractor mean, EM": 0.7}
    return {"variant": variant, "figures": {name: {"mean": v} for name, v in figures.items()}}


@pytest.mark.parametrize(
    ("clean", "refused", "chosen"),
    [
        (0.98, 0.0, "sft"),
        (0.9799, 0.0, None),
        (1.0, 0.1 + 0.2, "sft"),
        (1.0, 0.3001, None),
        (1.0, None, None),
    ],
)
def test_a_variant_at_the_very_edge_keeps_to_the_rule(
    clean: float, refused: float | None, chosen: str | None
) -> None:
    experiment = Experiment(
        "lab",
        Path("train.jsonl"),
        Path("validation.jsonl"),
        methods=("sft",),
        select={"clean_within": 0.02, "refused_clean": 0.3},
    )
    assert _select([row("base", 1.0, 0.0), row("sft", clean, refused)], experiment) == {
        "sft": chosen
    }
