"""A run: same prompts for all, nothing asked twice, crashes survived, the contract's report."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.artifact import Manifest, writing
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example
from neurorit.eval.conditions import CONDITIONS
from neurorit.eval.predictions import Item, Verdict
from neurorit.eval.report.write import print_table
from neurorit.eval.run.runner import run_evaluation


@dataclass
class Answer:
    text: str


class Scripted:
    """Answers per system; it can read the question's number in the prompt's bytes."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []
        self._fail_after = fail_after

    def __call__(
        self, system: str, directory: Path, prompts: list[list[int]]
    ) -> Iterator[list[tuple[int, Answer]]]:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(directory)
        # A few end together, and not those first that were begun first.
        numbers = [i for start in range(7) for i in range(start, len(prompts), 7)]
        for part in (numbers[at : at + 5] for at in range(0, len(numbers), 5)):
            if self._fail_after is not None and len(self.asked) >= self._fail_after:
                raise KeyboardInterrupt
            self.asked += [(system, tuple(prompts[i])) for i in part]
            yield [(i, Answer(self._answer(system, tokenizer.decode(prompts[i])))) for i in part]

    @staticmethod
    def _answer(system: str, prompt: str) -> str:
        gold = re.search(r"Town\d+x0", prompt)
        if gold and (system == "neuro-rit" or "distractor" not in prompt):
            return gold[0]
        noise = re.search(r"distractor\d+x\d", prompt)
        return "" if system == "neuro-rit" or noise is None else noise[0]


class EqualJudge:
    name = fingerprint = "equal"

    def __init__(self, broken: bool = False) -> None:
        self.asked = 0
        self._broken = broken

    def decide(self, items: Sequence[Item], progress: Any = None) -> list[Verdict]:
        self.asked += len(items)
        if self._broken:
            return ["unscored"] * len(items)
        return ["right" if i.answer in i.answers else "wrong" for i in items]


@pytest.fixture
def systems(tiny_model: Path, tmp_path: Path) -> dict[str, Path]:
    shutil.copytree(tiny_model, tmp_path / "tuned")
    (tmp_path / "tuned" / "generation_config.json").write_text("{}")
    shutil.copytree(tiny_model, tmp_path / "rival")
    (tmp_path / "rival" / "generation_config.json").write_text('{"top_k": 1}')
    return {"base": tiny_model, "neuro-rit": tmp_path / "tuned", "sft": tmp_path / "rival"}


def test_report_follows_the_contract(
    systems: dict[str, Path], examples_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    report = run_evaluation(
        systems, examples_file, CONDITIONS, out, EqualJudge(), 7, generate=Scripted()
    )
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["schema"] == 1
    assert report["systems"] == list(systems)
    assert report["conditions"] == list(CONDITIONS)
    assert len(report["results"]) == len(systems) * len(CONDITIONS)
    row = next(
        r for r in report["results"] if (r["system"], r["condition"]) == ("base", "distractor-4")
    )
    assert (row["n"], row["em"], row["judge"], row["unscored"]) == (6, 0.0, 0.0, 0)
    assert set(row["ci95"]) >= {"em", "match", "f1", "abstain_rate", "judge"}
    for row in report["results"]:
        assert sum(row["verdicts"].values()) == row["n"]
    pairs = {(c["a"], c["b"]) for c in report["comparisons"]}
    assert pairs == {("neuro-rit", "base"), ("sft", "base"), ("neuro-rit", "sft")}
    pooled = next(c for c in report["comparisons"] if c["condition"] == "distractor-mean")
    assert pooled["delta"] == 1.0
    # Six questions, all of them won, cannot carry 27 tests: the least p they can have is 0.014.
    assert report["findings"][0].startswith(
        "neuro-rit is above base by 100.0 points with distractors among the passages, which among "
        "27 comparisons can be chance: "
    )
    assert (pooled["family"], pooled["metric"]) == (27, "em")
    assert pooled["p_holm"] > 0.05 and pooled["ci95"][0] < 1.0
    metrics = {c["metric"] for c in report["comparisons"]}
    assert metrics == {"em", "match", "f1"}
    lines = (out / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 6 * len(systems) * len(CONDITIONS)
    assert {"system", "condition", "id", "output", "em", "verdict"} <= set(json.loads(lines[0]))
    print_table(report)


def test_page_is_self_contained_and_escaped(
    systems: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    hostile = Example("x", "<script>alert(1)</script>?", ("Town0x0",), examples[0].passages)
    write_examples(tmp_path / "e.jsonl", [hostile, *examples[1:]])
    out = tmp_path / "run"
    run_evaluation(
        systems,
        tmp_path / "e.jsonl",
        CONDITIONS,
        out,
        None,
        0,
        generate=Scripted(),
        mining={"per_layer": {"rel": [1, 2], "irrel": [0, 3], "shared": [4, 0]}, "samples": 9},
    )
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)|url\(|@import|https?://", page)
    assert str(tmp_path) not in page


def test_every_system_gets_the_same_prompts(
    systems: dict[str, Path], examples_file: Path, tmp_path: Path
) -> None:
    engine = Scripted()
    run_evaluation(systems, examples_file, ["clean"], tmp_path / "r", None, 0, generate=engine)
    by_system = {name: [ids for s, ids in engine.asked if s == name] for name in systems}
    assert by_system["base"] == by_system["neuro-rit"] == by_system["sft"]
    (systems["neuro-rit"] / "neurorit_prompt.json").write_text('{"question": "Q: {question}"}')
    with pytest.raises(BadInput, match="neuro-rit renders other prompts than base"):
        run_evaluation(systems, examples_file, ["clean"], tmp_path / "r2", None, 0, generate=engine)


def test_a_killed_run_goes_on_and_ends_the_same(
    systems: dict[str, Path], examples_file: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    args = (systems, examples_file, CONDITIONS)
    run_evaluation(*args, whole, EqualJudge(), 0, generate=Scripted())
    first = Scripted(fail_after=60)
    with pytest.raises(KeyboardInterrupt):
        run_evaluation(*args, cut, EqualJudge(), 0, generate=first)
    # What had ended is in the journal, and nothing else.
    lines = (cut / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == len(first.asked) >= 60
    with open(cut / "predictions.jsonl", "a") as stream:
        stream.write('{"system": "base", "cond')
    second, judge = Scripted(), EqualJudge()
    report = run_evaluation(*args, cut, judge, 0, generate=second)
    assert (cut / "predictions.jsonl").read_text() == (whole / "predictions.jsonl").read_text()
    assert len(first.asked) + len(second.asked) == 6 * 3 * len(CONDITIONS)
    assert report["timings"]["answers_from_journal"] == len(first.asked)
    third, again = Scripted(), EqualJudge()
    run_evaluation(*args, cut, again, 0, generate=third)
    assert (third.asked, again.asked) == ([], 0)
    changed = Scripted()
    run_evaluation(*args, cut, None, 0, generate=changed, engine={"max_tokens": 3})
    assert len(changed.asked) == 6 * 3 * len(CONDITIONS)


def test_questions_with_small_pools_are_left_out_everywhere(
    systems: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    bare = Example("bare", "Who?", ("x",), examples[0].passages[:3])
    write_examples(tmp_path / "e.jsonl", [bare, *examples])
    report = run_evaluation(
        systems, tmp_path / "e.jsonl", CONDITIONS, tmp_path / "r", None, 0, generate=Scripted()
    )
    assert report["manifest"]["skipped"] == ["bare"]
    assert {row["n"] for row in report["results"]} == {6}
    with pytest.raises(BadInput, match=r"no question can be evaluated.*needs 5"):
        run_evaluation(
            systems,
            tmp_path / "e.jsonl",
            ["distractor-5"],
            tmp_path / "r2",
            None,
            0,
            generate=Scripted(),
        )


def test_a_silent_judge_stops_the_run_and_keeps_the_answers(
    systems: dict[str, Path], examples_file: Path, tmp_path: Path
) -> None:
    args = (systems, examples_file, ["clean"], tmp_path / "r")
    with pytest.raises(NeuroritError, match="gave no verdict on 18 of 18"):
        run_evaluation(*args, EqualJudge(broken=True), 0, generate=Scripted())
    assert not (tmp_path / "r" / "report.json").exists()
    engine = Scripted()
    report = run_evaluation(*args, EqualJudge(), 0, generate=engine)
    assert engine.asked == []
    assert report["results"][0]["judge"] == 1.0


def test_a_foreign_journal_is_refused(
    systems: dict[str, Path], examples_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "predictions.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(BadInput, match=r"predictions\.jsonl:1: no line of an evaluation journal"):
        run_evaluation(systems, examples_file, ["clean"], tmp_path, None, 0, generate=Scripted())


def test_a_real_model_answers(tiny_model: Path, examples_file: Path, tmp_path: Path) -> None:
    def generate(
        system: str, directory: Path, prompts: list[list[int]]
    ) -> Iterator[list[tuple[int, Answer]]]:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        model = AutoModelForCausalLM.from_pretrained(directory)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        for at, ids in enumerate(prompts):
            made = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
            yield [(at, Answer(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)))]

    args = ({"base": tiny_model}, examples_file, ["closed-book", "clean"])
    one = run_evaluation(*args, tmp_path / "a", None, 0, generate=generate, limit=2)
    two = run_evaluation(*args, tmp_path / "b", None, 0, generate=generate, limit=2)
    assert one["results"] == two["results"]
    assert one["manifest"]["questions"] == 2


def test_a_changed_or_missing_checkpoint_is_refused(
    tiny_model: Path, examples_file: Path, tmp_path: Path
) -> None:
    sealed = tmp_path / "sealed"
    with writing(sealed, Manifest("checkpoint", "tune")) as folder:
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    (sealed / "config.json").write_text((sealed / "config.json").read_text() + " ")
    for directory, words in ((sealed, "was changed after"), (tmp_path, "no checkpoint at")):
        with pytest.raises(BadInput, match=words):
            run_evaluation(
                {"base": directory},
                examples_file,
                ["clean"],
                tmp_path / "r",
                None,
                0,
                generate=Scripted(),
            )
