"""Scoring, journaling, summing up and writing a report: seconds and memory, without any model."""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from harness.bench import Bench, options

from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import CONDITIONS, build_condition
from neurorit.eval.metrics.scoring import score
from neurorit.eval.predictions import Journal
from neurorit.eval.report.summary import summarise
from neurorit.eval.report.write import write_report

SYSTEMS = ("base", "neuro-rit")
POOLS = (("gold", 1), ("distractor", 4), ("random", 4), ("counterfactual", 1))


def example(number: int) -> Example:
    """A question with full pools of passages of about 60 words."""
    filler = " ".join(f"word{(number * 31 + i) % 997}" for i in range(55))
    passages = tuple(
        Passage(f"{number}-{kind}-{i}", "Title", f"Born in {kind}{number}x{i}. {filler}", kind)
        for kind, count in POOLS
        for i in range(count)
    )
    return Example(f"q{number}", f"Where was {number} born?", (f"gold{number}x0",), passages)


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--questions", type=int, default=10_000)
    chosen = parser.parse_args()
    settings = {"questions": chosen.questions, "conditions": 8, "systems": len(SYSTEMS)}
    bench = Bench("report-scale", settings)
    rng = np.random.default_rng(0)
    examples = [example(i) for i in range(chosen.questions)]
    begun = time.perf_counter()
    shown = {(e.id, c): build_condition(e, c) for c in CONDITIONS for e in examples}
    bench.add("ours", "conditions", time.perf_counter() - begun, "s")
    begun = time.perf_counter()
    held = []
    for system in SYSTEMS:
        for name in CONDITIONS:
            hits = rng.random(len(examples)) < 0.7
            for e, hit in zip(examples, hits, strict=True):
                text = e.answers[0] if hit else f"distractor{e.id[1:]}x0"
                held.append(
                    score(system, name, e, shown[e.id, name], f"{system}{name}{e.id}", text)
                )
    bench.add("ours", "scoring", time.perf_counter() - begun, "s")
    with tempfile.TemporaryDirectory() as place:
        begun = time.perf_counter()
        journal = Journal(Path(place) / "predictions.jsonl")
        for start in range(0, len(held), 1_024):
            journal.append(held[start : start + 1_024])
        journal.replace_all(held)
        held = list(Journal(Path(place) / "predictions.jsonl").answered.values())
        bench.add("ours", "journal, written twice and read", time.perf_counter() - begun, "s")
        begun = time.perf_counter()
        document = summarise(held, SYSTEMS, CONDITIONS, shown)
        bench.add("ours", "summary", time.perf_counter() - begun, "s")
        begun = time.perf_counter()
        write_report(document, Path(place))
        bench.add("ours", "report", time.perf_counter() - begun, "s")
    total = sum(row["value"] for row in bench.results)
    bench.add("ours", "total", total, "s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    bench.add("ours", "peak memory", peak, "GiB")
    bench.ratios = {"share of 120 s": total / 120, "share of 2 GB": peak * 1.0737 / 2}
    bench.finish(chosen.json)


if __name__ == "__main__":
    main()
