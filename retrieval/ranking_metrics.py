"""How good a ranking is: recall and nDCG of questions whose gold passages are known."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

CUTS = (1, 5, 10)


def recall_at(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """1 if a gold passage is among the first k ids, else 0 (success at k, as DPR counts it)."""
    return float(any(one in gold for one in ranked[:k]))


def ndcg_at(ranked: Sequence[str], gold: Collection[str], k: int) -> float:
    """nDCG of the first k with a gain of 1 for each gold passage (Jarvelin & Kekalainen 2002)."""
    gained = sum(1 / math.log2(i + 2) for i, one in enumerate(ranked[:k]) if one in gold)
    best = sum(1 / math.log2(i + 2) for i in range(min(k, len(gold))))
    return gained / best if best else 0.0


def ranking_figures(
    rankings: Mapping[str, Sequence[str]], gold: Mapping[str, Collection[str]]
) -> dict[str, float | int | None]:
    """Means over the questions that have gold passages; `unscored` counts those that have none."""
    scored = [question for question in rankings if gold.get(question)]
    figures: dict[str, float | int | None] = {
        "questions": len(scored),
        "unscored": len(rankings) - len(scored),
    }
    for k in CUTS:
        values = [recall_at(rankings[q], gold[q], k) for q in scored]
        figures[f"recall@{k}"] = sum(values) / len(values) if values else None
    values = [ndcg_at(rankings[q], gold[q], 10) for q in scored]
    figures["ndcg@10"] = sum(values) / len(values) if values else None
    return figures
