"""Statistics against scipy's and textbook values, and their coverage on simulated data."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from neurorit.eval.stats.intervals import (
    bootstrap_interval,
    holm,
    paired_comparison,
    rate_intervals,
    sign_flip_exact,
    sign_flip_score,
)
from neurorit.eval.stats.power import at_level, questions_needed


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
def test_sign_flips_of_answers_are_the_exact_mcnemar_test(only_a: int, only_b: int) -> None:
    a = np.array([1] * only_a + [0] * only_b + [1] * 5)
    b = np.array([0] * only_a + [1] * only_b + [1] * 5)
    total = only_a + only_b
    expected = binomtest(only_a, total).pvalue if total else 1.0
    assert sign_flip_exact(a - b) == pytest.approx(expected)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_nothing_to_resample() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])


def test_a_rate_has_its_own_interval_whatever_stands_beside_it() -> None:
    rng = np.random.default_rng(0)
    em = (rng.random(50) < 0.7).astype(float)
    f1 = np.maximum(em, rng.random(50))
    exact = binomtest(int(em.sum()), 50).proportion_ci(0.95, "wilson")
    alone, beside = rate_intervals(em[:, None])[0], rate_intervals(np.column_stack([em, f1]))[0]
    assert alone == beside == pytest.approx((exact.low, exact.high))


def test_signed_values_of_one_kind_are_not_certain() -> None:
    """A judge that calls every pair a tie, or always prefers one side."""
    margin = binomtest(0, 20).proportion_ci(0.95, "exact").high
    for value, expected in (
        (0.0, (-margin, margin)),
        (-1.0, (-1.0, -1 + 2 * margin)),
        (1.0, (1 - 2 * margin, 1.0)),
    ):
        found = bootstrap_interval(np.full(20, value), bounds=(-1.0, 1.0))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("k", [3, 5, 8, 20])
def test_exact_sign_flips_of_one_sided_differences(k: int) -> None:
    """k questions differ, all to one side: the sign test, also where halves are flipped."""
    difference = np.array([0.5] * k + [0.0] * 40)
    assert sign_flip_exact(difference, unit=0.25) == pytest.approx(2.0 ** (1 - k))
    assert sign_flip_exact(-difference, unit=0.5) == pytest.approx(2.0 ** (1 - k))
    # The score test does not undercut it by much, as a bootstrap's p did (0.011 at k = 5).
    assert sign_flip_score(difference) == pytest.approx(2 * norm.sf(np.sqrt(k)))
    with pytest.raises(ValueError, match="multiples"):
        sign_flip_exact(difference)


def test_exact_sign_flips_by_enumeration() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        steps = rng.integers(-4, 5, 9)
        signs = np.array(list(product((-1, 1), repeat=9)))
        expected = (np.abs(signs @ steps) >= abs(steps.sum())).mean()
        assert sign_flip_exact(steps / 4, unit=0.25) == pytest.approx(expected)


def test_clusters_flip_together() -> None:
    difference = np.repeat([1.0, 1.0, 1.0, 1.0, -1.0], 10)
    labels = [str(i // 10) for i in range(50)]
    assert sign_flip_score(difference) < 0.001
    assert sign_flip_score(difference, labels) == pytest.approx(2 * norm.sf(3 / np.sqrt(5)))


def test_the_paired_test_keeps_its_level_also_where_holm_looks() -> None:
    """4,000 null data sets with four answers a question and few that differ."""
    rng = np.random.default_rng(5)
    ps = []
    for _ in range(4_000):
        shared = rng.standard_normal((150, 1)) * 0.7
        a, b = (
            ((shared + rng.standard_normal((150, 4)) * 0.7) < -1.6).mean(axis=1) for _ in range(2)
        )
        ps.append(sign_flip_score(a - b))
    shares = [(np.array(ps) <= level).mean() for level in (0.05, 0.005)]
    assert 0.04 <= shares[0] <= 0.06
    assert shares[1] <= 0.008


def test_a_clustered_interval_agrees_with_its_test() -> None:
    """It holds zero exactly where the test at 0.05 sees no difference."""
    rng = np.random.default_rng(4)
    seen = set()
    for _ in range(200):
        labels = [str(label) for label in rng.integers(0, 12, 60)]
        a, b = rng.random(60) < 0.6, rng.random(60) < rng.choice([0.3, 0.6])
        found = paired_comparison(a.astype(float), b.astype(float), labels)
        assert found.ci95[0] <= found.delta <= found.ci95[1]
        assert (found.ci95[0] <= 0 <= found.ci95[1]) == (found.p > 0.05)
        seen.add(found.p > 0.05)
    assert seen == {True, False}
    few = paired_comparison([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], ["x", "x", "y"])
    assert few.ci95 == (-1.0, 1.0)


@pytest.mark.parametrize("flips", [(0.0, 0.0), (0.1, 0.1), (0.3, 0.6)])
@pytest.mark.parametrize("n", [3, 400])
def test_power_at_a_stricter_level_is_that_of_the_questions(
    flips: tuple[float, float], n: int
) -> None:
    lost, gained = flips
    drawn = np.random.default_rng(0).random(n)
    difference = np.where(drawn < lost, -1.0, np.where(drawn < lost + gained, 1.0, 0.0))
    alone = questions_needed(difference, 0.05, alpha=0.05)
    expected = questions_needed(difference, 0.05, alpha=0.05 / 12)
    found = at_level(alone, 0.05, 0.05, 0.05 / 12)
    assert found._replace(smallest=0.0) == expected._replace(smallest=0.0)
    assert found.smallest == pytest.approx(expected.smallest)
