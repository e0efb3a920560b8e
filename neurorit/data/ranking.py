"""How good a ranking is, by which of its passages are relevant: recall, success, nDCG.

Relevance is binary. A passage is one that a question names as gold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def recall(relevant: Sequence[bool], total: int) -> float:
    """Share of the `total` relevant passages that were retrieved, in [0, 1]; 0 without any.

    relevant: of each retrieved passage, whether it is. Recall at k is that of the first k.
    """
    return sum(relevant) / total if total else 0.0


def success(relevant: Sequence[bool]) -> float:
    """1 if any retrieved passage is relevant, else 0: the top-k accuracy of Karpukhin et al. 2020.

    It equals recall where a question has one relevant passage.
    """
    return float(any(relevant))


def ndcg(relevant: Sequence[bool], total: int | None = None, k: int | None = None) -> float:
    """Normalised discounted cumulative gain of a ranking's first k passages, in [0, 1].

    total: how many relevant passages there are to find (default: those in the ranking); k: default
    the ranking's length. The ideal ranking has as many as possible on top; with none the gain is 0.
    Source: Jarvelin and Kekalainen, 2002.
    """
    shown = relevant[:k]
    gain = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(shown, 1) if hit)
    wanted = min(sum(relevant) if total is None else total, len(relevant) if k is None else k)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, wanted + 1))
    return gain / ideal if ideal else 0.0
