"""Does tracing by halves name the passage that leaving out each names, and for how many tokens?

Wrong answers of the lab's base model under retrieved distractors (BM25 over the lab's corpus), each
traced both ways. Tokens are those of all prompts that a way asks, the first one too; computed are
those beyond the longest beginning that a prompt shares with an earlier one of its answer, which an
engine with prefix caching need not read again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
from harness.bench import Bench, options, table

from neurorit.data.answers import held_answer
from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import build_condition
from neurorit.eval.leave_one_out import Case, trace
from neurorit.eval.metrics.scoring import is_right
from neurorit.eval.metrics.settings import Analysis
from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world
from neurorit.model.generation import greedy_answers
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt
from neurorit.retrieval.bm25.bm25 import LexicalIndex
from neurorit.retrieval.bm25.build import write_bm25

CASES = 200
QUESTIONS = 2_000
NOISE = (4, 8)
ANSWER_TOKENS = 16
LEAST_EQUAL, MOST_TOKENS = 0.95, 1 / 3


def examples(folder: Path, count: int, most: int) -> list[Example]:
    """Test questions of the lab with their gold passage and `most` passages that rank high."""
    paths = write_world(folder, train=1, validation=1, test=count)
    corpus = [json.loads(line) for line in paths["corpus"].read_text().splitlines()]
    by_id = {record["id"]: record for record in corpus}
    (folder / "bm25").mkdir()
    write_bm25(folder / "bm25", (f"{r['title']} {r['text']}" for r in corpus), 10**8)
    index = LexicalIndex(bm25s.BM25.load(folder / "bm25", show_progress=False), len(corpus))
    asked = [json.loads(line) for line in paths["test"].read_text().splitlines()][:count]
    ranked = index.search([record["question"] for record in asked], 6 * most)
    made = []
    for record, rows in zip(asked, ranked, strict=True):
        gold = by_id[record["gold"][0]]
        found = [corpus[row] for row, _ in rows]
        noise = [r for r in found if held_answer(r["text"], record["answers"]) is None][:most]
        passages = [Passage(gold["id"], gold["title"], gold["text"], "gold")]
        passages += [Passage(r["id"], r["title"], r["text"], "distractor") for r in noise]
        if len(noise) == most:
            answers = tuple(record["answers"])
            made.append(Example(record["id"], record["question"], answers, tuple(passages)))
    return made


class Answers:
    """The base model's answers, with the tokens of every prompt that it was asked."""

    def __init__(self) -> None:
        self._model, self._tokenizer = load_model(base_model_dir(), device="cpu")
        self._template = PromptTemplate.of_checkpoint(base_model_dir())
        self.prompts: dict[str, list[list[int]]] = {}

    def __call__(self, asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        prompts = [
            render_prompt(self._tokenizer, self._template, question, list(shown))
            for question, shown in asked
        ]
        for (question, _), ids in zip(asked, prompts, strict=True):
            self.prompts.setdefault(question, []).append(ids)
        said = [""] * len(prompts)
        ends = [end_token_id(self._tokenizer)]
        for batch in greedy_answers(self._model, prompts, most=ANSWER_TOKENS, ends=ends):
            for i, ids in batch:
                said[i] = self._tokenizer.decode(ids, skip_special_tokens=True)
        return said

    def tokens(self) -> tuple[int, int]:
        """(of all prompts since the last call, of these the ones that must be computed)."""
        sent = computed = 0
        for prompts in self.prompts.values():
            for at, ids in enumerate(prompts):
                sent += len(ids)
                computed += len(ids) - max((_shared(ids, held) for held in prompts[:at]), default=0)
        self.prompts = {}
        return sent, computed


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return at
    return min(len(one), len(other))


def measure(bench: Bench, answer: Answers, held: Sequence[Example], noise: int, most: int) -> Any:
    """One row: cases, how many have a culprit, equal names, tokens of both ways."""
    name = f"distractor-{noise}"
    shown = [(example, build_condition(example, name)) for example in held]
    said = answer([(example.question, passages) for example, passages in shown])
    cases = [
        Case(example, name, passages, text.strip())
        for (example, passages), text in zip(shown, said, strict=True)
        if not is_right(text, example, Analysis())
    ][:most]
    answer.tokens()
    each = trace(cases, answer)
    sent, computed = answer.tokens()
    halved = trace(cases, answer, halves=True)
    sent_halved, computed_halved = answer.tokens()
    with_one = [(a, b) for a, b in zip(each, halved, strict=True) if a["culprits"]]
    same = sum(
        set(b["culprits"]) <= set(a["culprits"]) and bool(a["culprits"]) == bool(b["culprits"])
        for a, b in zip(each, halved, strict=True)
    )
    named = sum(bool(b["culprits"]) and b["culprits"][0] in a["culprits"] for a, b in with_one)
    figures = {
        "wrong answers": float(len(cases)),
        "with a culprit": float(len(with_one)),
        "same": same / len(cases),
        "same where there is one": named / max(1, len(with_one)),
        "tokens": sent_halved / sent,
        "tokens computed": computed_halved / sent,
        "one by one, computed": computed / sent,
    }
    for metric, value in figures.items():
        bench.add(name, metric, value, "share" if value <= 1 else "answers")
    return figures


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--noise", type=int, nargs="+", default=NOISE, help="distractors")
    chosen = parser.parse_args()
    bench = Bench("tracing", {"cases": chosen.cases, "answer tokens": ANSWER_TOKENS})
    answer = Answers()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        held = examples(Path(folder), chosen.questions, max(chosen.noise))
    for noise in chosen.noise:
        found = measure(bench, answer, held, noise, chosen.cases)
        rows.append([str(noise + 1), *(f"{value:.3g}" for value in found.values())])
    table("Tracing by halves against one by one", ["passages", *found], rows)
    bench.ratios = {"same": min(float(row[3]) for row in rows), "bound": LEAST_EQUAL}
    bench.finish(chosen.json)


if __name__ == "__main__":
    main()
