"""The threshold on similarity: what it gives on the questions it was chosen on, and others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.core.errors import BadInput
from neurorit.retrieval.sufficiency import Found, at, curve, for_abstention, for_risk

_scores = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.booleans()).map(lambda pair: Found(*pair)), min_size=1
)


@given(_scores)
def test_each_step_of_the_curve_is_what_its_threshold_gives(found: list[Found]) -> None:
    steps = curve(found)
    assert steps[0].coverage == 1
    assert [step.coverage for step in steps] == sorted({s.coverage for s in steps}, reverse=True)
    for step in steps:
        assert at(found, step.threshold) == pytest.approx(step)


@given(_scores, st.floats(0, 1))
def test_the_abstention_is_the_nearest_that_there_is(found: list[Found], share: float) -> None:
    chosen = for_abstention(found, share)
    assert all(
        abs(1 - chosen.coverage - share) <= abs(1 - step.coverage - share) for step in curve(found)
    )


def test_a_risk_is_kept_with_the_most_answers_or_said_to_be_out_of_reach() -> None:
    found = [Found(0.1, False), Found(0.2, True), Found(0.3, False), Found(0.4, True)]
    assert for_risk(found, 0.5).coverage == 1
    assert for_risk(found, 0.1) == pytest.approx((0.35, 0.25, 0.0))
    with pytest.raises(BadInput, match=r"risk=0\.1.*the least is 1\.000"):
        for_risk([Found(0.5, False)], 0.1)
    with pytest.raises(BadInput, match="no question"):
        for_abstention([], 0.1)


def test_on_other_questions_of_the_same_kind_it_gives_about_what_was_asked() -> None:
    draw = random.Random(0)
    questions = [Found(draw.gauss(0.5, 0.1), draw.random() < 0.8) for _ in range(4000)]
    threshold = for_abstention(questions[:2000], 0.15).threshold
    assert abs(1 - at(questions[2000:], threshold).coverage - 0.15) < 0.03
