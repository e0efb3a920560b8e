"""What an experiment draws: accuracy of every variant, and robustness against what is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurorit.eval.metrics.settings import BASE
from neurorit.pipelines.experiment.table import DISTRACTORS, of_a_share, wide


def draw_accuracy(table: Mapping[str, Any], path: Path) -> None:
    """Draw clean and distractor accuracy of every variant, with intervals over seeds."""
    pyplot = _pyplot()
    wanted = [
        figure
        for figure in (f"{DISTRACTORS}, EM", "clean, EM", "closed-book, EM")
        if figure in table["rows"][0]["figures"]
    ]
    if not wanted:
        return
    drawn = sorted(table["rows"], key=lambda row: row["figures"][wanted[0]]["mean"] or 0.0)
    height = 1.2 + 0.32 * len(drawn)
    figure, axes = pyplot.subplots(
        1, len(wanted), figsize=(4 * len(wanted), height), sharey=True, layout="constrained"
    )
    for axis, name in zip([axes] if len(wanted) == 1 else axes, wanted, strict=True):
        for place, row in enumerate(drawn):
            found = row["figures"][name]
            if found["mean"] is None:
                continue
            low, high = of_a_share(found["ci95"] or (found["mean"], found["mean"]))
            colour = "black" if row["variant"] == BASE else "tab:blue"
            axis.plot([100 * low, 100 * high], [place, place], color=colour, linewidth=1.5)
            axis.plot([100 * v for v in found["values"]], [place] * len(found["values"]), ".",
                      color=colour, alpha=0.4)  # fmt: skip
            axis.plot(100 * found["mean"], place, "o", color=colour)
        axis.set_title(name.removesuffix(", EM"))
        axis.set_xlabel("exact match, %")
        axis.grid(axis="x", alpha=0.3)
        axis.set_yticks(range(len(drawn)), [row["variant"] for row in drawn])
    _save(figure, path)


def draw_frontier(table: Mapping[str, Any], families: Mapping[str, str], path: Path) -> None:
    """Draw robustness against retention, in percent; nothing where retention was not measured.

    families: variant -> what it shares with those of other rates, whose validation figures are
    joined by a line. Named points are the test's where there is one, with intervals over seeds;
    they are what the picture reaches to, hollow where another one is better.
    """
    named = (table["test"] or table)["frontier"]
    if not named:
        return
    pyplot = _pyplot()
    figure, axis = pyplot.subplots(figsize=(9, 6), layout="constrained")
    shades = pyplot.get_cmap("tab20")
    kinds = list(dict.fromkeys(families.get(row["system"], row["system"]) for row in named))
    colours = {kind: shades(place % 20) for place, kind in enumerate(kinds)} | {BASE: "black"}
    lines: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in table["frontier"]:
        lines[families.get(row["system"], row["system"])].append(row)
    for kind, rows in lines.items():
        if len(rows) > 1:
            places = [[100 * row[name] for row in rows] for name in ("retention", "robustness")]
            axis.plot(*places, ".-", color=colours.get(kind, "grey"), alpha=0.35, linewidth=1)
    for row in named:
        kind = families.get(row["system"], row["system"])
        x, y = 100 * row["retention"], 100 * row["robustness"]
        axis.errorbar(
            x,
            y,
            xerr=_whiskers(row, "retention"),
            yerr=_whiskers(row, "robustness"),
            color=colours[kind],
            elinewidth=0.8,
            marker="o",
            markersize=6,
            markerfacecolor="white" if row["dominated_by"] else None,
            linestyle="none",
            label=kind if table["test"] else row["system"],
        )
    axis.set_xlabel("kept of what the base could, %")
    axis.set_ylabel("robustness, %")
    axis.grid(alpha=0.3)
    for name, limit in (("retention", axis.set_xlim), ("robustness", axis.set_ylim)):
        values = [100 * row[name] for row in named]
        margin = 2 + 0.1 * (max(values) - min(values))
        limit(min(values) - margin, min(100.0, max(values) + margin) + 0.5)
    figure.legend(loc="outside right upper", fontsize=8)
    _save(figure, path)


def _whiskers(row: Mapping[str, Any], axis: str) -> Sequence[Sequence[float]] | None:
    """How far an interval reaches below and above its figure, in percent."""
    interval = wide(row[f"{axis}_ci95"])
    if interval is None:
        return None
    low, high = of_a_share(interval)
    return [[max(0.0, 100 * (row[axis] - low))], [max(0.0, 100 * (high - row[axis]))]]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    _pyplot().close(figure)
