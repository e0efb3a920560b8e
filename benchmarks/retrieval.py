"""Indexing against its bare parts, 8-bit against float encoding, a graph against exact search.

Passages and questions are real ones where --data or NEURORIT_DATA names their folder, and else
those of the lab's invented world; the settings say which. Run it alone on the machine.
"""

from __future__ import annotations

import gzip
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from harness.ann import measure
from harness.bench import Bench, options
from harness.data import data_option, missing

from neurorit.data.example_files import read_examples
from neurorit.data.examples import Example
from neurorit.lab.world import write_world
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import Index, build_index, passage_text
from neurorit.retrieval.ranking_metrics import ranking_figures
from neurorit.retrieval.retriever import Retriever, SearchSettings


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    data_option(parser)
    parser.add_argument("--work", type=Path, help="keep and reuse the indexes of --data here")
    parser.add_argument("--passages", type=int, default=20_000, help="to index")
    parser.add_argument("--questions", type=int, default=1_000)
    parser.add_argument("--ann", type=int, default=1_000_000, help="vectors of the graph; 0: none")
    given = parser.parse_args()
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()}
    why = missing(given.data, ("corpus", "squad-dev"))
    settings["text"] = f"the lab's invented world ({why})" if why else "real"
    data = None if why else given.data
    bench = Bench("retrieval", settings)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = _corpus(data, folder, given.passages, "part.jsonl")
        _indexing(bench, corpus, folder)
        _int8(bench, corpus)
        work = given.work or folder / "loss"
        work.mkdir(parents=True, exist_ok=True)
        _loss(bench, *_asked(data, work, given.questions), work)
    if given.ann:
        rows, ratios = measure(given.ann)
        for row in rows:
            bench.add(*row)
        bench.ratios |= ratios
    bench.finish(given.json)


def _indexing(bench: Bench, corpus: Path, folder: Path) -> None:
    """The whole command against encoding and adding alone, on the same passages, in turns."""
    import faiss

    float32 = load_encoder()
    texts = [passage_text(p) for p in _passages(corpus)]
    part = len(texts) // 4
    lines = corpus.read_text(encoding="utf-8").splitlines(keepends=True)
    ratios = []
    seconds = {"bare": 0.0, "index": 0.0}
    model: Any = float32._model  # type: ignore[attr-defined]
    for turn in range(4):
        mine = folder / f"part-{turn}.jsonl"
        mine.write_text("".join(lines[turn * part : (turn + 1) * part]), encoding="utf-8")
        took = {}
        # Who goes first changes from turn to turn.
        for system in ("bare", "index") if turn % 2 else ("index", "bare"):
            started = time.perf_counter()
            if system == "index":
                build_index(mine, folder / f"index-{turn}", encoder=float32)
            else:
                flat = faiss.IndexFlatIP(float32.dimension)
                flat.add(
                    model.encode(
                        texts[turn * part : (turn + 1) * part],
                        batch_size=64,
                        normalize_embeddings=True,
                        show_progress_bar=False,
                    )
                )
            took[system] = time.perf_counter() - started
            seconds[system] += took[system]
        ratios.append(took["bare"] / took["index"])
    for system, total in seconds.items():
        bench.add(system, "throughput", 4 * part / total, "passages/s")
    bench.ratios["index_throughput_vs_bare"] = seconds["bare"] / seconds["index"]


def _int8(bench: Bench, corpus: Path) -> None:
    encoders = {"float32": load_encoder(), "int8": load_encoder("minilm+int8")}
    texts = [passage_text(p) for p in islice(_passages(corpus), 1_024)]
    rates: dict[str, list[float]] = {name: [] for name in encoders}
    size = min(192, len(texts) // 5)
    for turn in range(5):
        for name, encoder in encoders.items():
            part = texts[turn * size : (turn + 1) * size]
            started = time.perf_counter()
            encoder.encode_passages(part)
            if turn:
                rates[name].append(len(part) / (time.perf_counter() - started))
    for name, found in rates.items():
        bench.add(name, "encoding", statistics.median(found), "passages/s")
    bench.ratios["int8_vs_float32_throughput"] = statistics.median(
        b / a for a, b in zip(rates["float32"], rates["int8"], strict=True)
    )


def _asked(data: Path | None, folder: Path, questions: int) -> tuple[Path, list[Example]]:
    """A corpus and questions with gold passages in it."""
    if data is None:
        made = write_world(folder / "world", 0, train=1, validation=1, test=questions)
        return made["corpus"], list(islice(read_examples(made["test"]), questions))
    with gzip.open(data / "squad-dev.jsonl.gz", "rt", encoding="utf-8") as stream:
        (folder / "asked.jsonl").write_text("".join(islice(stream, questions)), encoding="utf-8")
    corpus = _corpus(data, folder, 10**9, "corpus.jsonl")
    return corpus, list(read_examples(folder / "asked.jsonl"))


def _loss(bench: Bench, corpus: Path, asked: list[Example], folder: Path) -> None:
    """nDCG@10 with each encoder, over the whole corpus."""
    gold = {e.id: set(e.meta["gold"]) for e in asked}
    found = {}
    for name in ("minilm", "minilm+int8"):
        place = folder / ("index" if name == "minilm" else "index-int8")
        if not place.is_dir():
            build_index(corpus, place, encoder=name)
        retriever = Retriever(Index.load(place), SearchSettings(), place)
        hits = retriever.search([e.question for e in asked], 10)
        rankings = {e.id: [h.passage.id for h in one] for e, one in zip(asked, hits, strict=True)}
        found[name] = float(ranking_figures(rankings, gold)["ndcg@10"] or 0.0)
        bench.add(name, "ndcg@10", found[name], "")
    bench.ratios["int8_ndcg_loss"] = found["minilm"] - found["minilm+int8"]


def _corpus(data: Path | None, folder: Path, most: int, name: str = "corpus.jsonl") -> Path:
    place = folder / name
    if data is not None:
        with gzip.open(data / "corpus.jsonl.gz", "rt", encoding="utf-8") as stream:
            place.write_text("".join(islice(stream, most)), encoding="utf-8")
        return place
    made = write_world(folder / "world", 0, train=most // 2, test=most // 8)["corpus"]
    with open(made, encoding="utf-8") as stream:
        place.write_text("".join(islice(stream, most)), encoding="utf-8")
    return place


def _passages(corpus: Path) -> Any:
    from neurorit.retrieval.corpus.reader import read_corpus

    return read_corpus(corpus)


if __name__ == "__main__":
    main()
