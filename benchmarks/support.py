"""How often is a sentence marked that no passage supports, and how often one that is supported?

Real questions of SQuAD and Natural Questions with the gold passage among five. Supported: the
answer in a sentence, the gold passage's own sentence with it, and that sentence with its words
outside the answer halved. Unsupported: another question's answer in a sentence, the gold sentence
with that answer in place of its own, and a sentence of a passage that was not shown. None of them
is a person's paraphrase, so the share that is marked wrongly is a lower bound.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.bench import Bench, options, table
from harness.data import data_option, missing

from neurorit.data.answers import held_answer, normalize_answer
from neurorit.data.examples import Passage
from neurorit.data.support import unsupported_spans
from neurorit.data.text import sentences
from neurorit.eval.stats.intervals import rate_intervals

QUESTIONS = 2_000
FILES = ("corpus", "nq-dev", "squad-dev")


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
    marked: dict[tuple[str, bool], list[float]] = {}
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
            # Marked where any part of it is: abbreviations make several sentences of one.
            found = bool(unsupported_spans(text, shown, question["question"]))
            marked.setdefault((name, supported), []).append(float(found))
    rows = []
    for (name, supported), values in marked.items():
        (low, high) = rate_intervals([[value] for value in values])[0]
        share = sum(values) / len(values)
        bench.add(name, "marked", share, "share")
        side = "supported" if supported else "unsupported"
        rows.append([name, side, str(len(values)), f"{share:.3f}", f"{low:.3f} to {high:.3f}"])
    table("Marked as unsupported", ["sentence", "it is", "n", "marked", "95 %"], rows)
    bench.finish(chosen.json)


if __name__ == "__main__":
    main()
