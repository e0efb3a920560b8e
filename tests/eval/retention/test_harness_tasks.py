"""Tasks of lm-evaluation-harness as parts of retention: its own figures, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput, MissingExtra
from neurorit.eval.retention import harness_tasks, measure
from neurorit.eval.retention.harness_tasks import HarnessTasks, TaskScores, task_scores
from neurorit.eval.retention.measure import Suite, measure_retention
from neurorit.model.load import load_model
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.evaluation.settings import EvalSettings, retention_of_options

WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath")


def write_own_tasks(folder: Path) -> Path:
    """A task of choices and one of generation, with questions in files beside them."""
    folder.mkdir()
    docs = [
        {
            "question": f"Which word goes with {WORDS[i % 8]} {i}?",
            "choices": [WORDS[(i + k) % 8] for k in range(4)],
            "label": i // 8,
            "answer": WORDS[i % 8][0],
        }
        for i in range(24)
    ]
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "metadata": {"version": 1},
    }
    choices = shared | {
        "task": "own_choices",
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ],
    }
    written = shared | {
        "task": "own_words",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (choices, written):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_tasks_are_the_harness_own_run_to_the_digit(tiny_model: Path, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = write_own_tasks(tmp_path / "tasks")
    names = ("own_choices", "own_words")
    own: Any = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tiny_model), "device": "cpu", "dtype": "float32"},
        tasks=list(names),
        task_manager=TaskManager(include_path=str(folder)),
        batch_size=8,
        bootstrap_iters=0,
    )
    model, tokenizer = load_model(tiny_model, device="cpu", dtype="float32")
    noisy = copy.deepcopy(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.add_(parameter.std() * torch.randn_like(parameter))
    loaded = {"base": model, "same": model, "noisy": noisy}
    settings = RetentionSettings(instructions=0, lm_eval=names, lm_eval_folder=str(folder))
    with Cache(tmp_path) as store:

        def measured() -> dict[str, Any]:
            return measure_retention(
                {"base": "b", "same": "s", "noisy": "n"},
                "base",
                settings.suite(),
                lambda name: (loaded[name], tokenizer),
                store,
            )

        found = measured()
        rows = {(row["system"], row["part"]): row for row in found["rows"]}
        for part, metric in zip(names, ("acc", "exact_match"), strict=True):
            row = rows["base", part]
            assert row["metric"] == metric and row["n"] == 24
            reported = {k: v for k, v in own["results"][part].items() if k in row["reported"]}
            assert row["reported"] == reported and f"{metric},none" in reported
            assert row["value"] == own["results"][part][f"{metric},none"]
            same = rows["same", part]
            assert (same["delta"], same["p"]) == (0, 1)
        assert 0 < rows["base", "own_choices"]["value"] < 1
        assert rows["noisy", "own_choices"]["n"] == 24
        # What was scored is not scored again.
        harness_tasks_run, harness_tasks._run = harness_tasks._run, None  # type: ignore[assignment]
        try:
            assert measured() == found
        finally:
            harness_tasks._run = harness_tasks_run
        with pytest.raises(BadInput, match=r"lm_eval=no_such_task: .* has no such task"):
            task_scores(HarnessTasks(["no_such_task"]), model, tokenizer, "b", store)


def sample(doc_id: int, kept: str = "none", **scores: Any) -> dict[str, Any]:
    return {"doc_id": doc_id, "filter": kept, "metrics": list(scores), **scores}


def test_scores_are_read_by_question_over_the_tasks_of_a_group() -> None:
    found = {
        "group_subtasks": {"g": ["a", "b"]},
        "results": {
            "g": {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": "g"},
            "a": {"acc,none": 0.5},
        },
        "samples": {
            "a": [sample(1, acc=1.0), sample(0, acc=False), sample(0, "strict", acc=1.0)],
            "b": [sample(0, pair=(1, 2), acc=0.7)],
        },
    }
    assert harness_tasks._of_task("a", found) == TaskScores([0.0, 1.0], "acc", {"acc,none": 0.5})
    assert harness_tasks._of_task("g", found) == TaskScores(
        [0.0, 1.0, 1.0], "acc", {"acc,none": 0.5}
    )
    found["samples"]["b"] = [sample(0, perplexity=31.5)]
    with pytest.raises(BadInput, match="b gives no question a score between 0 and 1"):
        harness_tasks._of_task("g", found)


def test_a_score_of_which_less_is_better_is_passed_over() -> None:
    scores = {"brier_score": 0.9, "acc": 0.2}
    found: dict[str, Any] = {
        "results": {},
        "samples": {"a": [sample(0, **scores)], "b": [sample(0, exact_match=1.0)]},
        "higher_is_better": {"a": {"brier_score": False, "acc": True}},
        "group_subtasks": {"g": ["a", "b"]},
    }
    assert harness_tasks._of_task("a", found) == TaskScores([0.0], "acc", {})
    assert harness_tasks._of_task("g", found) == TaskScores([0.0, 1.0], "acc, exact_match", {})
    found["higher_is_better"]["a"]["acc"] = False
    with pytest.raises(BadInput, match=r"a gives no question a score .* of which more is better"):
        harness_tasks._of_task("a", found)


def test_a_system_is_scored_as_the_base_is(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = load_model(tiny_model, device="cpu")
    metrics = iter(("likelihood", "acc"))

    def scored(*_: Any) -> dict[str, TaskScores]:
        return {"a": TaskScores([1.0] * 24, next(metrics), {})}

    monkeypatch.setattr(measure, "task_scores", scored)
    with (
        Cache(tmp_path) as store,
        pytest.raises(BadInput, match="lm_eval=a: s is scored by acc and base by likelihood"),
    ):
        measure_retention(
            {"base": "b", "s": "s"},
            "base",
            Suite(harness=HarnessTasks(["a"])),
            lambda name: (model, tokenizer),
            store,
        )


def test_what_is_said_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = retention_of_options(False, None, None, "arc_easy, ifeval", "tasks")
    assert given == {"lm_eval": ["arc_easy", "ifeval"], "lm_eval_folder": "tasks"}
    settings = EvalSettings.read(
        None, {"systems": {"base": "x"}, "data": "e", "retention": given, "root": str(tmp_path)}
    )
    chosen = settings.retention_settings()
    assert chosen is not None and chosen.lm_eval == ("arc_easy", "ifeval")
    with pytest.raises(BadInput, match=r"lm_eval_folder=.*tasks: no such folder"):
        chosen.suite()
    (tmp_path / "tasks").mkdir()
    held = chosen.suite().harness
    assert held == HarnessTasks(("arc_easy", "ifeval"), tmp_path / "tasks")
    assert Suite().harness is None

    def nothing(name: str) -> str:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(harness_tasks, "version", nothing)
    with Cache(tmp_path) as store, pytest.raises(MissingExtra, match="extra 'harness'"):
        task_scores(HarnessTasks(["arc_easy"]), None, None, "b", store)
