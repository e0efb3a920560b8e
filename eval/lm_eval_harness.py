"""Noisy-QA conditions as tasks of EleutherAI's lm-evaluation-harness.

The folder that is written holds one task for each condition, a group of them all, the prompts, and
a small Python file by which the harness reads both and
scores with `metrics.answers`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from neurorit.core.artifact import Manifest, hash_inputs, writing
from neurorit.core.errors import BadInput
from neurorit.data.example_files import examples_file, read_examples
from neurorit.data.refusals import refusal_of
from neurorit.eval.metrics.answers import exact_match, exact_match_all, f1
from neurorit.eval.metrics.matching import match_all
from neurorit.eval.run.rendering import render_prompts

GROUP = "neurorit_noisy_qa"
METRICS = ("em", "match", "f1", "abstain_rate")
_PROMPTS = "prompts.jsonl"
_CODE = '''"""Read by lm-evaluation-harness, where neurorit-rag is installed too."""

from pathlib import Path

from neurorit.eval.lm_eval_harness import load_prompts, score

HERE = Path(__file__).parent


def load(condition: str, **_: object) -> object:
    """The prompts of one condition."""
    return load_prompts(HERE, condition)


process_results = score
'''


def write_tasks(
    examples: Path,
    conditions: Sequence[str],
    out: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    max_tokens: int = 24,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the tasks of these conditions over the examples into `out`; returns their names.

    The prompts are those of `neurorit-rag eval` for the same examples, conditions and seed; the
    harness wraps them in the model's chat template (`--apply_chat_template`). Raises BadInput for
    unusable examples.
    """
    read = read_examples(examples_file(examples))
    shown, skipped = render_prompts({}, list(read)[:limit], conditions, seed)
    manifest = Manifest(
        kind="lm-eval-tasks",
        command="neurorit-rag data lm-eval",
        settings={"conditions": list(conditions), "max_tokens": max_tokens, "limit": limit},
        seed=seed,
        inputs=hash_inputs(examples=Path(examples)),
        made={"skipped": list(skipped)},
    )
    names = {condition: _name(condition) for condition in conditions}
    with writing(out, manifest, overwrite=overwrite) as folder:
        with open(folder / _PROMPTS, "w", encoding="utf-8") as stream:
            for prompt in shown:
                record = {
                    "id": prompt.example.id,
                    "condition": prompt.condition,
                    "prompt": prompt.turn,
                    "answers": list(prompt.example.answers),
                    "parts": [list(forms) for forms in prompt.example.parts],
                }
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        (folder / "noisy_qa.py").write_text(_CODE, encoding="utf-8")
        for condition, name in names.items():
            (folder / f"{name}.yaml").write_text(_task(name, condition, max_tokens), "utf-8")
        group = {
            "group": GROUP,
            "task": list(names.values()),
            "aggregate_metric_list": [{"metric": metric} for metric in METRICS],
            "metadata": {"version": 1},
        }
        text = yaml.safe_dump(group, sort_keys=False)
        (folder / f"{GROUP}.yaml").write_text(text, encoding="utf-8")
    return {
        "tasks": list(names.values()),
        "group": GROUP,
        "questions": len(shown) // len(names),
        "skipped": len(skipped),
    }


def load_prompts(directory: Path, condition: str) -> Any:
    """A `datasets.DatasetDict` with the prompts of one condition, as the harness wants it."""
    from datasets import Dataset, DatasetDict

    with open(directory / _PROMPTS, encoding="utf-8") as stream:
        records = [json.loads(line) for line in stream]
    chosen = [record for record in records if record["condition"] == condition]
    if not chosen:
        raise BadInput(f"{directory / _PROMPTS}: holds no prompt of condition {condition!r}")
    return DatasetDict({"test": Dataset.from_list(chosen)})


def score(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The metrics of one answer, each in [0, 1]."""
    answer, accepted, parts = results[0], list(doc["answers"]), list(doc["parts"])
    exact = exact_match(answer, accepted) or (len(parts) > 1 and exact_match_all(answer, parts))
    matched = match_all(answer, parts)
    return {
        "em": float(exact),
        "match": float(matched),
        "f1": f1(answer, accepted),
        "abstain_rate": float(not matched and not exact and bool(refusal_of(answer))),
    }


def _name(condition: str) -> str:
    return f"neurorit_{re.sub('[-@+]', '_', condition)}"


def _task(name: str, condition: str, max_tokens: int) -> str:
    made = {
        "task": name,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "{{answers[0]}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_tokens},
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": metric != METRICS[-1]}
            for metric in METRICS
        ],
        # The harness hands the metadata to `load`.
        "metadata": {"version": 1, "condition": condition},
    }
    functions = (
        "custom_dataset: !function noisy_qa.load\n"
        "process_results: !function noisy_qa.process_results\n"
    )
    return yaml.safe_dump(made, sort_keys=False) + functions
