"""Dense, BM25 and hybrid search over real text: success and nDCG on Natural Questions and SQuAD.

Takes a folder with corpus.jsonl.gz and questions with gold passage ids (nq-dev, squad-dev, and
squad-train, on which alone the hybrid's fusion and weight are chosen); without one it says that it
was skipped. What is made in --work stays there and is used again, so that a killed run goes on.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from harness.bench import Bench, options, table
from harness.data import data_option, missing

from neurorit.core.atomic_files import write_text
from neurorit.data.example_files import read_examples
from neurorit.data.examples import Example
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.ranking_metrics import ranking_figures
from neurorit.retrieval.retriever import FUSIONS, Retriever, SearchSettings

SETS = {"NQ": "nq-dev", "SQuAD dev": "squad-dev"}
QUESTIONS, CHOOSING = 2000, 1000
WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def unpacked(data: Path, work: Path, name: str) -> Path:
    """A plain copy of NAME.jsonl.gz in the work folder."""
    place = work / f"{name}.jsonl"
    if not place.is_file():
        with gzip.open(data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as stream:
            write_text(place, stream.read())
    return place


def figures(retriever: Retriever, asked: list[Example]) -> dict[str, float]:
    """Recall, success and nDCG of the questions, and how many were searched in a second."""
    started = time.perf_counter()
    hits = retriever.search([example.question for example in asked], 10)
    seconds = time.perf_counter() - started
    rankings = {e.id: [h.passage.id for h in found] for e, found in zip(asked, hits, strict=True)}
    gold = {example.id: set(example.meta["gold"]) for example in asked}
    found = {k: float(v or 0.0) for k, v in ranking_figures(rankings, gold).items()}
    return {**found, "questions a second": len(asked) / seconds}


def main() -> None:
    """Index, choose the weight on training questions, measure on the others."""
    parser = options(__doc__ or "")
    data_option(parser)
    parser.add_argument("--work", type=Path, help="folder to work in and keep")
    chosen = parser.parse_args()
    if why := missing(chosen.data):
        Bench("real_text", {}, skipped=why).finish(chosen.json)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(chosen.data, chosen.work or Path(folder), chosen.json)


def measure(data: Path, work: Path, as_json: bool) -> None:
    """Print the table and the figures of every set and way to search."""
    work.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    index = work / "index"
    if not index.is_dir():
        build_index(
            unpacked(data, work, "corpus"),
            index,
            progress=lambda done, total: print(f"  {done}/{total}", end="\r", file=sys.stderr),
        )
    loaded = Index.load(index, encoder=load_encoder())

    def by(mode: str, fusion: str = "scores", weight: float = 0.5) -> Retriever:
        settings = SearchSettings(mode=mode, fusion=fusion, dense_weight=weight)
        return Retriever(loaded, settings, index)

    training = list(islice(read_examples(unpacked(data, work, "squad-train")), CHOOSING))
    tried = {
        fusion: {w: figures(by("hybrid", fusion, w), training)["ndcg@10"] for w in WEIGHTS}
        for fusion in FUSIONS
    }
    best = {fusion: max(found, key=lambda w: found[w]) for fusion, found in tried.items()}
    systems = {
        "dense": by("dense"),
        "BM25": by("bm25"),
        **{f"hybrid, {f} {weight:.1f}": by("hybrid", f, weight) for f, weight in best.items()},
    }
    chosen_settings = {"passages": len(loaded), "encoder": "minilm", "tried": tried}
    bench = Bench("real_text", chosen_settings)
    rows = []
    for title, file in SETS.items():
        path = unpacked(data, work, file)
        asked = list(islice(read_examples(path), QUESTIONS))
        for name, system in systems.items():
            measured = figures(system, asked)
            for metric, value in measured.items():
                if metric not in ("questions", "unscored"):
                    bench.add(f"{name}, {title}", metric, value, "1")
            shown = ("success@1", "success@5", "success@10", "ndcg@10")
            rows.append([title, name, *(f"{100 * measured[metric]:.1f}" for metric in shown)])
    table("Real text", ["questions", "search", "S@1", "S@5", "S@10", "nDCG@10"], rows)
    print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr)
    bench.finish(as_json)


if __name__ == "__main__":
    main()
