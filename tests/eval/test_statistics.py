"""Statistics against scipy's and textbook values, and their coverage on simulated data."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from eval.statistics import bootstrap_interval, holm, mcnemar, paired_comparison


def test_interval_covers_the_true_mean() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.random(150) < 0.3, resamples=400, seed=trial)
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 300 <= 0.985


def test_clusters_widen_the_interval() -> None:
    per_question = np.random.default_rng(0).random(60) < 0.5
    values = np.repeat(per_question, 8)
    labels = [f"q{i // 8}" for i in range(len(values))]
    low, high = bootstrap_interval(values)
    wide_low, wide_high = bootstrap_interval(values, labels)
    assert wide_high - wide_low > 2 * (high - low)


def test_no_false_certainty_at_zero_and_one() -> None:
    exact = binomtest(0, 50).proportion_ci(0.95, "exact")
    assert bootstrap_interval(np.zeros(50)) == pytest.approx((0, exact.high))
    assert bootstrap_interval(np.ones(50)) == pytest.approx((1 - exact.high, 1))


def test_same_seed_same_interval() -> None:
    values = np.arange(20) / 20
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)


def test_paired_comparison() -> None:
    a, b = np.array([1] * 80 + [0] * 20), np.array([1] * 50 + [0] * 50)
    found = paired_comparison(a, b)
    assert found.delta == pytest.approx(0.3)
    assert 0.2 < found.ci95[0] < 0.3 < found.ci95[1] < 0.4
    assert found.p < 0.01
    assert paired_comparison(a, a).p == 1
    with pytest.raises(ValueError, match="shape"):
        paired_comparison(a, b[:-1])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (10, 2), (3, 3), (900, 780)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    a = np.array([1] * only_a + [0] * only_b + [1] * 5)
    b = np.array([0] * only_a + [1] * only_b + [1] * 5)
    total = only_a + only_b
    expected = binomtest(only_a, total).pvalue if total else 1.0
    assert mcnemar(a, b) == pytest.approx(expected)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_nothing_to_resample() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
