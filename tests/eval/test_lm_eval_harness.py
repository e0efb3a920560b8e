"""lm-evaluation-harness runs the noisy-QA tasks: its own loader, its own scoring, a real model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.example_files import read_examples, write_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.lm_eval_harness import load_prompts, score, write_tasks
from neurorit.eval.run.rendering import render_prompts

CONDITIONS = ["closed-book", "clean", "distractor-2"]


@pytest.fixture
def lab_examples(tmp_path: Path) -> Path:
    """Questions of the embedded world with their gold passage and two others."""
    from neurorit.lab.world import write_world

    paths = write_world(tmp_path / "world", train=1, validation=1, test=16)
    corpus = {r["id"]: r for r in map(json.loads, paths["corpus"].read_text().splitlines())}
    made = []
    for line in paths["test"].read_text().splitlines():
        asked = json.loads(line)
        others = [key for key in corpus if key[:-2] != asked["gold"][0][:-2]][-2:]
        kinds = [(asked["gold"][0], "gold"), *((key, "distractor") for key in others)]
        passages = tuple(
            Passage(key, corpus[key]["title"], corpus[key]["text"], kind) for key, kind in kinds
        )
        made.append(Example(asked["id"], asked["question"], tuple(asked["answers"]), passages))
    write_examples(tmp_path / "lab.jsonl", made)
    return tmp_path / "lab.jsonl"


def test_the_prompts_are_those_of_eval(examples_file: Path, tmp_path: Path) -> None:
    made = write_tasks(examples_file, CONDITIONS, tmp_path / "tasks", seed=3, limit=4)
    assert made["tasks"] == ["neurorit_closed_book", "neurorit_clean", "neurorit_distractor_2"]
    shown, _ = render_prompts({}, list(read_examples(examples_file))[:4], CONDITIONS, 3)
    for name in CONDITIONS:
        held = load_prompts(tmp_path / "tasks", name)["test"]
        assert held["prompt"] == [p.turn for p in shown if p.condition == name]
        assert len(held) == made["questions"] == 4
    with pytest.raises(BadInput, match="random-4"):
        load_prompts(tmp_path / "tasks", "random-4")


def test_scores_are_those_of_eval() -> None:
    forms = ["Karvel", "the town of Karvel"]
    doc = {"answers": forms, "parts": [forms]}
    assert score(doc, ["Karvel."]) == {"em": 1.0, "match": 1.0, "f1": 1.0, "abstain_rate": 0.0}
    assert score(doc, [" "]) == {"em": 0.0, "match": 0.0, "f1": 0.0, "abstain_rate": 1.0}
    two = {"answers": ["Karvel", "Dorin"], "parts": [["Karvel"], ["Dorin"]]}
    assert [score(two, [said])["match"] for said in ("Karvel and Dorin", "Karvel")] == [1.0, 0.0]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_harness_finds_runs_and_scores_them(lab_examples: Path, tmp_path: Path) -> None:
    import torch
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from neurorit.eval.metrics.answers import exact_match
    from neurorit.lab import base_model_dir
    from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt

    write_tasks(lab_examples, ["clean", "distractor-2"], tmp_path / "tasks", max_tokens=8)
    found: Any = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(base_model_dir()), "device": "cpu", "dtype": "float32"},
        tasks=["neurorit_noisy_qa"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
        apply_chat_template=True,
        batch_size=8,
    )
    model = AutoModelForCausalLM.from_pretrained(base_model_dir())
    tokenizer = AutoTokenizer.from_pretrained(base_model_dir())
    template = PromptTemplate.of_checkpoint(base_model_dir())
    examples = list(read_examples(lab_examples))
    for condition in ("clean", "distractor-2"):
        shown, _ = render_prompts({"base": base_model_dir()}, examples, [condition], 0)
        hits = 0
        for prompt in shown:
            ids = render_prompt(tokenizer, template, prompt.example.question, prompt.passages)
            assert list(prompt.ids) == ids
            made = model.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=end_token_id(tokenizer),
            )
            answer = tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True)
            hits += exact_match(answer, prompt.example.answers)
        assert hits > 0
        row = found["results"][f"neurorit_{condition.replace('-', '_')}"]
        assert row["em,none"] == pytest.approx(hits / len(shown))
    assert 0 <= found["groups"]["neurorit_noisy_qa"]["em,none"] <= 1
