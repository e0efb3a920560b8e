"""The report's table of silenced neurons."""

from __future__ import annotations

from typing import Any

from neurorit.eval.report.html_ablation import causal_figure


def found(interval: list[float] | None) -> dict[str, Any]:
    plain = {"silenced": "nothing", "misled_irrelevant": 0.7, "accuracy_relevant": 1.0}
    changed = {
        **plain,
        "silenced": "P_irrel <b>",
        "misled_irrelevant_change": -0.05,
        "misled_irrelevant_change_ci95": [-0.09, -0.01],
        "accuracy_relevant_change": 0.0,
        "accuracy_relevant_change_ci95": [0.0, 0.0],
    }
    return {
        "contexts": 150,
        "silencing": [plain, changed],
        "p_irrel_minus_random": {
            "probability": -0.03 if interval else None,
            "probability_ci95": interval,
        },
        "verdict": "silencing P_irrel weakens misled answers",
    }


def test_changes_stand_with_their_intervals() -> None:
    page = causal_figure(found([-0.04, -0.02]))
    assert "<b>70.0 %</b>" in page
    assert "<b>-5.0</b><small>-9.0 to -1.0</small>" in page
    assert "P_irrel &lt;b&gt;" in page
    assert "P_irrel minus random: -3.0 points, -4.0 to -2.0" in page


def test_what_could_not_be_measured_has_no_figure() -> None:
    page = causal_figure(found(None))
    assert page.count("\u2013</td>") == 2  # no context was followed: no probability in either row
    assert "minus random" not in page
