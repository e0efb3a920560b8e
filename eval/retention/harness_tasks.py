"""Tasks of lm-evaluation-harness as parts of retention: its prompts and scores, our models.

The harness is given the model that is in memory, so what it reports is what its own command would.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from neurorit.core.artifact import hash_file
from neurorit.core.endpoint.reply_cache import Cache, content_key
from neurorit.core.errors import BadInput, MissingExtra

_BATCH = 8
# From here on a graded score counts as a right answer.
_RIGHT = 0.5
# How the metric is chosen: what was scored by another rule is scored anew.
_RULE = "the first share of which more is better"


@dataclass(frozen=True)
class HarnessTasks:
    """names: tasks or groups; folder: of tasks of one's own (`--include_path`); limit: questions of
    each task, the first ones; chat: asked through the chat template.
    """

    names: Sequence[str]
    folder: Path | None = None
    limit: int | None = None
    chat: bool = False


class TaskScores(NamedTuple):
    """scores: of each question in the task's order, 0 or 1; metric: of the harness, by which they
    are, or several that the tasks of a group have; reported: the harness's own figures of the task.
    """

    scores: list[float]
    metric: str
    reported: dict[str, float]


def task_scores(
    tasks: HarnessTasks, model: Any, tokenizer: Any, print_: str, store: Cache
) -> dict[str, TaskScores]:
    """The scores of every task, in their order; what was scored before comes from the cache.

    print_: what the model's weights are known by. Raises MissingExtra without the harness, and
    BadInput for a task that it does not have, cannot load, or does not score question by question.
    """
    try:
        made_by = version("lm_eval")
    except ModuleNotFoundError as error:
        raise MissingExtra("lm_eval", "harness") from error
    asked = [str(getattr(model, "dtype", "")), tasks.limit, tasks.chat, made_by, _digest(tasks)]
    keys = {name: content_key("lm-eval", _RULE, print_, name, *asked) for name in tasks.names}
    held = store.find(keys.values())
    missing = [name for name, key in keys.items() if key not in held]
    if missing:
        fresh = dict(zip(missing, _run(tasks, missing, model, tokenizer), strict=True))
        store.keep({keys[name]: list(found) for name, found in fresh.items()})
        held |= {keys[name]: list(found) for name, found in fresh.items()}
    return {name: TaskScores(*held[key]) for name, key in keys.items()}


def _digest(tasks: HarnessTasks) -> str:
    files = sorted(p for p in tasks.folder.rglob("*") if p.is_file()) if tasks.folder else []
    digest = hashlib.sha256()
    for path in files:
        if path.suffix != ".pyc":
            digest.update(f"{path.name}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()[:16]


def _run(
    tasks: HarnessTasks, names: Sequence[str], model: Any, tokenizer: Any
) -> Iterator[TaskScores]:
    with warnings.catch_warnings():
        # The harness's and its libraries' are no matter of who asks for retention.
        warnings.simplefilter("ignore")
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=str(tasks.folder) if tasks.folder else None)
        for name in names:
            if name not in manager.all_tasks:
                raise BadInput(
                    f"‹lm_eval={name}›: lm-evaluation-harness has no such task; `lm_eval ls tasks` "
                    "lists them, and ‹lm_eval_folder› holds your own"
                )
        try:
            found: Any = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=_BATCH),
                tasks=list(names),
                task_manager=manager,
                limit=tasks.limit,
                apply_chat_template=tasks.chat,
                bootstrap_iters=0,
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInput(
                f"‹lm_eval={','.join(names)}›: lm-evaluation-harness cannot run it: {told}"
            ) from error
    return (_of_task(name, found) for name in names)


def _of_task(name: str, found: Mapping[str, Any]) -> TaskScores:
    leaves = _leaves(name, found.get("group_subtasks") or {})
    metrics: list[str] = []
    scores: list[float] = []
    for leaf in leaves:
        samples = sorted(found["samples"].get(leaf, ()), key=lambda sample: sample["doc_id"])
        first = [s for s in samples if s["filter"] == samples[0]["filter"]]
        better = (found.get("higher_is_better") or {}).get(leaf) or {}
        shares = [
            metric
            for metric in (first[0]["metrics"] if first else ())
            if better.get(metric) is not False and _is_share(first, metric)
        ]
        if not shares:
            raise BadInput(
                f"‹lm_eval={name}›: {leaf} gives no question a score between 0 and 1 of which more "
                "is better, and what is kept of the base cannot be told; leave it out"
            )
        metric = shares[0]
        metrics.append(metric)
        scores += [float(float(sample[metric]) >= _RIGHT) for sample in first]
    own = found["results"].get(name) or {}
    reported = {
        key: float(value)
        for key, value in own.items()
        if isinstance(value, (int, float)) and "stderr" not in key and "," in key
    }
    return TaskScores(scores, ", ".join(dict.fromkeys(metrics)), reported)


def _leaves(name: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    within = groups.get(name) or []
    return [leaf for one in within for leaf in _leaves(one, groups)] if within else [name]


def _is_share(samples: Sequence[Mapping[str, Any]], metric: str) -> bool:
    values = [sample.get(metric) for sample in samples]
    return all(isinstance(v, (bool, int, float)) and 0 <= v <= 1 for v in values)
