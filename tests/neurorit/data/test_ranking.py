"""Recall, success and nDCG of one ranking."""

from __future__ import annotations

import numpy as np
import pytest

from neurorit.data.ranking import ndcg, recall, success


def test_ndcg_equals_scikit_learn() -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(0)
    for _ in range(200):
        relevant = rng.random(int(rng.integers(2, 12))) < 0.3
        scores = -np.arange(len(relevant), dtype=float)
        held = list(map(bool, relevant))
        cut = int(rng.integers(1, len(relevant) + 1))
        for k in (None, cut):
            wanted = ndcg_score(relevant[None].astype(float), scores[None], k=k)
            assert ndcg(held, k=k) == pytest.approx(wanted)


def test_what_was_not_found_counts() -> None:
    held = [True, False, False]
    assert (recall(held, 2), success(held)) == (0.5, 1.0)
    assert ndcg(held, 2) == pytest.approx(1 / (1 + 1 / np.log2(3)))
    # A search that gave one passage where ten were asked for is measured against the ten.
    assert ndcg([True], 3, 10) == pytest.approx(1 / (1 + 1 / np.log2(3) + 0.5))
    assert (recall([], 2), success([]), ndcg([], 2, 10)) == (0.0, 0.0, 0.0)
    assert (recall([False], 0), ndcg([False], 0)) == (0.0, 0.0)
