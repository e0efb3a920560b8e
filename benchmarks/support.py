"""How often is a sentence marked that no passage supports, and how often one that is supported?

Real questions of SQuAD and Natural Questions with the gold passage among five. Supported: the
answer in a sentence, the gold passage's own sentence with it, and that sentence with its words
outside the answer halved. Unsupported: another question's answer in a sentence, the gold sentence
with that answer in place of its own, and a sentence of a passage that was not shown. None of them
is a person's paraphrase, so the share that is marked wrongly is a lower bound. Also: how often the
words leave it in doubt, and what is then decided without a judge; with --judge, by that judge.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.bench import Bench, options, table
from harness.data import data_option, missing

from neurorit.core.endpoint.reply_cache import Cache
from neurorit.data.answers import held_answer, normalize_answer
from neurorit.data.examples import Passage
from neurorit.data.support import support_of
from neurorit.data.text import sentences
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.judges.judge import CachedJudge
from neurorit.eval.judges.support import Answered, judge_support, support_judge
from neurorit.eval.stats.intervals import rate_intervals

QUESTIONS = 2_000
FILES = ("corpus", "nq-dev", "squad-dev")
COLUMNS = [
    *("sentence", "it is", "n", "marked", "95 %", "in doubt", "wrong and sure"),
    *("with the judge", "unscored"),
]


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The records of one file."""
    with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def kind_of(answer: str) -> str:
    """Answers of one kind can stand in each other's place."""
    if re.search(r"\d", answer):
        return "number"
    return "name" if answer[:1].isupper() else "words"


def claims(
    question: dict[str, Any], gold: Passage, other: str, elsewhere: Passage, rng: random.Random
) -> Iterator[tuple[str, bool, str]]:
    """(what it is, whether a passage supports it, the sentence)."""
    answer = question["answers"][0]
    yield "answer in a sentence", True, f"The answer is {answer}."
    yield "another answer in a sentence", False, f"The answer is {other}."
    found = next((s for s in sentences(gold.text) if answer in s), None)
    if found is not None:
        yield "gold sentence", True, found
        before, _, after = found.partition(answer)
        kept = [word for word in after.split() if rng.random() < 0.5]
        yield "gold sentence, halved", True, f"{before}{answer} {' '.join(kept)}".strip()
        yield "gold sentence with another answer", False, f"{before}{other}{after}"
    said = sentences(elsewhere.text)
    if said:
        yield "sentence from elsewhere", False, rng.choice(said)


def main() -> None:
    parser = options(__doc__ or "")
    data_option(parser)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--judge", metavar="URL/v1#MODEL", help="a judge behind an address")
    chosen = parser.parse_args()
    bench = Bench("support", {"questions": chosen.questions})
    if reason := missing(chosen.data, FILES):
        bench.skipped = reason
        bench.finish(chosen.json)
        return
    rng = random.Random(0)
    corpus = [Passage(r["id"], r["title"], r["text"]) for r in read(chosen.data, "corpus")]
    by_id = {passage.id: passage for passage in corpus}
    by_title: dict[str, list[Passage]] = {}
    for passage in corpus:
        by_title.setdefault(passage.title, []).append(passage)
    asked = [q for name in FILES[1:] for q in read(chosen.data, name)]
    rng.shuffle(asked)
    by_kind: dict[str, list[str]] = {}
    for question in asked:
        by_kind.setdefault(kind_of(question["answers"][0]), []).append(question["answers"][0])
    said: dict[tuple[str, bool], list[Answered]] = {}
    for question in asked[: chosen.questions]:
        gold = by_id[question["gold"][0]]
        near = [p for p in by_title[gold.title] if p.id != gold.id]
        noise = rng.sample(near, min(2, len(near)))
        noise += rng.sample(corpus, 4 - len(noise))
        shown = [gold, *noise]
        other = rng.choice(by_kind[kind_of(question["answers"][0])])
        held = f" {normalize_answer(' '.join(p.text for p in shown))} "
        if held_answer(held, [other]) is not None:
            continue
        for name, supported, text in claims(question, gold, other, rng.choice(corpus), rng):
            said.setdefault((name, supported), []).append(
                Answered(question["question"], text, shown)
            )
    with tempfile.TemporaryDirectory() as folder, Cache(Path(folder)) as store:
        judge = support_judge(CachedJudge(judge_at(chosen.judge), store)) if chosen.judge else None
        table("Marked as unsupported", COLUMNS, list(measured(bench, said, judge)))
    bench.finish(chosen.json)


def judge_at(place: str) -> EndpointJudge:
    """A judge behind URL/v1#MODEL."""
    url, _, model = place.partition("#")
    return EndpointJudge(url, model)


def measured(
    bench: Bench, said: dict[tuple[str, bool], list[Answered]], judge: CachedJudge | None
) -> Iterator[list[str]]:
    """A row for each kind of sentence: marked by their words, in doubt, wrong and sure of it."""
    for (name, supported), answers in said.items():
        # Marked where any part of it is: abbreviations make several sentences of one.
        parts = [support_of(a.answer, a.passages, a.question) for a in answers]
        marked = [float(not all(part.supported for part in of)) for of in parts]
        doubtful = [any(part.doubtful for part in of) for of in parts]
        wrong = [m == supported for m in marked]
        sure = sum(w and not d for w, d in zip(wrong, doubtful, strict=True)) / len(parts)
        (low, high) = rate_intervals([[value] for value in marked])[0]
        share, doubt = sum(marked) / len(parts), sum(doubtful) / len(parts)
        for metric, value in (("marked", share), ("in doubt", doubt), ("wrong and sure", sure)):
            bench.add(name, metric, value, "share")
        row = [name, "supported" if supported else "unsupported", str(len(parts))]
        row += [f"{share:.3f}", f"{low:.3f} to {high:.3f}", f"{doubt:.3f}", f"{sure:.3f}"]
        if judge is not None:
            spans, counts = judge_support(judge, answers)
            settled = sum(map(bool, spans)) / len(spans)
            bench.add(name, "marked with the judge", settled, "share")
            bench.add(name, "unscored", counts["unscored"], "sentences")
            row += [f"{settled:.3f}", str(counts["unscored"])]
        yield row + [""] * (len(COLUMNS) - len(row))


if __name__ == "__main__":
    main()
