"""The page: text from data stays text, and each part stands or falls with what the report holds."""

from __future__ import annotations

from typing import Any

import pytest

from neurorit.eval.report.html import render_page
from neurorit.eval.report.summary import summarise
from tests.eval.report.test_report import CONDITIONS, SYSTEMS, make_run


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    predictions, passages = make_run(12)
    return summarise(predictions, SYSTEMS, CONDITIONS, passages)


def silenced(interval: list[float] | None) -> dict[str, Any]:
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


def causal_figure(report: dict[str, Any], causal: dict[str, Any]) -> str:
    page = render_page(report | {"mining": {"causal": causal}})
    return page.partition("Do the mined neurons matter?")[2].partition("</figure>")[0]


def test_changes_stand_with_their_intervals(report: dict[str, Any]) -> None:
    figure = causal_figure(report, silenced([-0.04, -0.02]))
    assert "<b>70.0 %</b>" in figure
    assert "<b>-5.0</b><small>-9.0 to -1.0</small>" in figure
    assert "P_irrel &lt;b&gt;" in figure
    assert "P_irrel minus random: -3.0 points, -4.0 to -2.0" in figure


def test_what_could_not_be_measured_has_no_figure(report: dict[str, Any]) -> None:
    figure = causal_figure(report, silenced(None))
    assert figure.count("\u2013</td>") == 2  # no context was followed: no probability in either row
    assert "minus random" not in figure


def test_no_text_from_data_becomes_markup(report: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>&\"'"
    example = report["examples"][0]
    passage = example["passages"][0] | {"title": evil, "text": f"{evil} {example['answers'][0]}"}
    report = report | {
        "examples": [example | {"question": evil, "passages": [passage]}],
        "findings": [evil],
        "manifest": {"systems": {evil: {"model": evil, "fingerprint": evil}}},
        "mining": {"causal": silenced(None) | {"verdict": evil}},
    }
    page = render_page(report)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 8
    assert f"<mark>{example['answers'][0]}</mark>" in page


def test_the_page_names_the_interval_that_was_used(report: dict[str, Any]) -> None:
    assert "a paired bootstrap for differences, with the question as" in render_page(report)
    clustered = render_page(report | {"cluster": "title", "clusters": 4})
    assert "the sign-flip score test inverted for differences, clustered by title (4" in clustered
    # Every question has a title of its own: nothing was resampled by it.
    alone = render_page(report | {"cluster": "title", "clusters": None})
    assert "with the question as the cluster" in alone


def test_what_no_passage_supports_is_underlined(report: dict[str, Any]) -> None:
    example = report["examples"][0]
    said = "It is <b>x</b>. So there."
    output = example["outputs"][0] | {"output": said, "em": False, "abstained": False}
    shown = report | {"examples": [example | {"outputs": [output | {"unsupported": [[0, 15]]}]}]}
    page = render_page(shown)
    marked = '<span class="unsupported" title="no passage supports it">{}</span> So there.'
    assert marked.format("It is &lt;b&gt;x&lt;/b&gt;.") in page
    bare = {name: value for name, value in output.items() if name != "unsupported"}
    page = render_page(report | {"examples": [example | {"outputs": [bare]}]})
    assert "It is &lt;b&gt;x&lt;/b&gt;. So there." in page  # a report of before
