"""What systems keep of their base: texts, questions of another domain, instructions; asked once.

Models are read and answer in this process, one beside the base at a time; what was computed is
kept in the cache by the content of weights and text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from neurorit.core.endpoint.replies import read_reply
from neurorit.core.endpoint.reply_cache import Cache, content_key
from neurorit.core.errors import BadInput
from neurorit.data.examples import Example
from neurorit.data.plain_text import Text
from neurorit.eval.conditions import TooFewPassages, build_condition
from neurorit.eval.metrics.scoring import is_right
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.retention.figures import summarise, task_row, text_row
from neurorit.eval.retention.harness_tasks import HarnessTasks, task_scores
from neurorit.eval.retention.instructions import Instruction
from neurorit.eval.retention.text import TextDrift, check_vocabulary, drift
from neurorit.model.generation import greedy_answers
from neurorit.model.prompts import PromptTemplate, end_token_id, render_chat, render_prompt
from neurorit.model.text_rows import Row, encode_texts

Load = Callable[[str], tuple[Any, Any]]
"""System's name -> its model in evaluation mode and its tokenizer."""
Progress = Callable[[str, int, int], None]

ANSWER_TOKENS = 48
REPLY_TOKENS = 128
# Prompts between two writes to the cache.
_PART = 64


@dataclass(frozen=True)
class Suite:
    """What retention is measured on; none of it may have been tuned on.

    texts: plain text; examples: of another domain, asked without passages and with their gold ones;
    instructions: scored by their own programs; harness: tasks of lm-evaluation-harness. An empty
    one is left out.
    """

    texts: Sequence[Text] = ()
    examples: Sequence[Example] = ()
    instructions: Sequence[Instruction] = ()
    harness: HarnessTasks | None = None


@dataclass(frozen=True)
class _Task:
    part: str
    prompts: Sequence[Sequence[int]]
    right: Sequence[Callable[[str], bool]]
    most: int


def measure_retention(
    prints: Mapping[str, str],
    base: str,
    suite: Suite,
    load: Load,
    store: Cache,
    *,
    template: PromptTemplate | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The report's `retention` (`figures.summarise`) of every system against `base`.

    prints: system -> what its weights are known by; base is one of them. template: of prompts.
    A reply that was cut is not right. Raises BadInput for a suite with nothing in it, or a system
    whose tokenizer has other tokens than the base's or a task of which has another metric.
    """
    if not (suite.texts or suite.examples or suite.instructions or suite.harness):
        raise BadInput("retention: there is no text, example, instruction or task to measure on")
    if len(suite.texts) == 1:
        raise BadInput("retention: one text has no interval; give several")
    tell = progress or (lambda stage, done, total: None)
    base_model, tokenizer = load(base)
    rows = encode_texts(tokenizer, suite.texts)
    tasks = _tasks(suite, tokenizer, template or PromptTemplate(), seed)
    measured: list[dict[str, Any]] = []
    right_of_base: dict[str, list[float]] = {}
    metrics: dict[str, str] = {}
    model: Any = None
    for system in [base, *(name for name in prints if name != base)]:
        # The one before is let go of first: no more than the base and one other are held.
        model = None
        model, own = (base_model, tokenizer) if system == base else load(system)
        check_vocabulary(tokenizer, own, system)
        stage = f"retention of {system}"
        if rows:
            pair = (prints[base], prints[system])
            drifts = _drifts(base_model, model, rows, pair, store, partial(tell, stage))
            measured.append(text_row(system, drifts))
        for task in tasks:
            replies = _replies(model, tokenizer, task, prints[system], store)
            scores = [
                float(reply is not None and follows(reply))
                for follows, reply in zip(task.right, replies, strict=True)
            ]
            right_of_base.setdefault(task.part, scores)
            measured.append(task_row(system, task.part, right_of_base[task.part], scores))
        if suite.harness is not None:
            found = task_scores(suite.harness, model, tokenizer, prints[system], store)
            for part, scored in found.items():
                if metrics.setdefault(part, scored.metric) != scored.metric:
                    raise BadInput(
                        f"‹lm_eval={part}›: {system} is scored by {scored.metric} and {base} by "
                        f"{metrics[part]}, and what is kept cannot be told; leave it out"
                    )
                right_of_base.setdefault(part, scored.scores)
                row = task_row(system, part, right_of_base[part], scored.scores)
                measured.append(row | {"metric": scored.metric, "reported": scored.reported})
        tell(stage, 1, 1)
    return summarise(base, measured)


def _tasks(suite: Suite, tokenizer: Any, template: PromptTemplate, seed: int) -> list[_Task]:
    tasks = []
    for part, condition in (("closed-book", "closed-book"), ("clean passages", "clean")):
        asked: list[tuple[Example, Sequence[int]]] = []
        for example in suite.examples:
            try:
                passages = build_condition(example, condition, seed)
            except TooFewPassages:
                continue
            ids = render_prompt(tokenizer, template, example.question, passages)
            asked.append((example, ids))
        if asked:
            answered = [
                partial(is_right, example=one, analysis=Analysis(metric="match"))
                for one, _ in asked
            ]
            tasks.append(_Task(part, [ids for _, ids in asked], answered, ANSWER_TOKENS))
    if suite.instructions:
        prompts = [
            render_chat(tokenizer, [{"role": "user", "content": one.prompt}])
            for one in suite.instructions
        ]
        followed = [one.follows for one in suite.instructions]
        tasks.append(_Task("instructions", prompts, followed, REPLY_TOKENS))
    return tasks


def _drifts(
    base: Any,
    model: Any,
    rows: Sequence[Row],
    pair: tuple[str, str],
    store: Cache,
    tell: Callable[[int, int], None],
) -> list[TextDrift]:
    kind = str(getattr(model, "dtype", ""))
    keys = [content_key("text drift", *pair, kind, row.ids, row.start) for row in rows]
    known = {key: TextDrift(*held) for key, held in store.find(keys).items()}
    waiting = [i for i, key in enumerate(keys) if key not in known]
    # Long rows first: what does not fit into memory shows at once.
    waiting.sort(key=lambda i: -len(rows[i].ids))
    for start in range(0, len(waiting), _PART):
        part = waiting[start : start + _PART]
        found = drift(base, model, [rows[i] for i in part])
        fresh = {keys[i]: one for i, one in zip(part, found, strict=True)}
        store.keep({key: list(one) for key, one in fresh.items()})
        known |= fresh
        tell(len(known), len(rows))
    return [known[key] for key in keys]


def _replies(
    model: Any, tokenizer: Any, task: _Task, print_: str, store: Cache
) -> list[str | None]:
    """The model's replies, read as evaluation reads them; None for one that was cut."""
    keys = [
        content_key("retention reply", print_, str(model.dtype), task.most, list(ids))
        for ids in task.prompts
    ]
    known: dict[str, str | None] = store.find(keys)
    waiting = [i for i, key in enumerate(keys) if key not in known]
    prompts = [task.prompts[i] for i in waiting]
    ends = [end_token_id(tokenizer)]
    for batch in greedy_answers(model, prompts, most=task.most, ends=ends):
        fresh = {}
        for i, ids in batch:
            text = tokenizer.decode(ids, skip_special_tokens=True)
            reply = read_reply(text, "length" if len(ids) >= task.most else "stop")
            fresh[keys[waiting[i]]] = None if reply.unread else reply.text
        store.keep(fresh)
        known |= fresh
    return [known[key] for key in keys]
