"""How good a retriever's rankings are, of questions whose gold passages are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from neurorit.data.ranking import ndcg, recall, success

CUTS = (1, 5, 10)


def ranking_figures(
    rankings: Mapping[str, Sequence[str]], gold: Mapping[str, Collection[str]]
) -> dict[str, float | int | None]:
    """Means over the questions that have gold passages; `unscored` counts those that have none.

    rankings: question -> ids of passages, best first. recall@k is the share of a question's gold
    passages among the first k, success@k whether there is any (`neurorit.data.ranking`).
    """
    scored = [
        ([passage in gold[question] for passage in ranked], len(set(gold[question])))
        for question, ranked in rankings.items()
        if gold.get(question)
    ]
    figures: dict[str, float | int | None] = {
        "questions": len(scored),
        "unscored": len(rankings) - len(scored),
    }
    for k in CUTS:
        figures[f"recall@{k}"] = _mean([recall(hits[:k], total) for hits, total in scored])
    for k in CUTS:
        figures[f"success@{k}"] = _mean([success(hits[:k]) for hits, _ in scored])
    figures["ndcg@10"] = _mean([ndcg(hits, total, 10) for hits, total in scored])
    return figures


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
