"""trace: ask a model again without each passage, to name the one that made an answer wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.endpoint.replies import read_reply
from neurorit.core.errors import BadInput
from neurorit.core.settings import fit
from neurorit.data.example_files import examples_file, read_examples
from neurorit.data.examples import Example, Passage
from neurorit.pipelines.evaluation.report import read_report
from neurorit.retrieval.noise.mix import LEDGER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from neurorit.eval.leave_one_out import Answerer, Case
    from neurorit.eval.predictions import Metric
    from neurorit.eval.run.systems import System

Opened = Callable[[Path, int], Any]
"""(model directory, tokens of an answer) -> context manager that gives an Answerer."""
_MAX_TOKENS = 24


def trace_run(
    run: Path,
    model: str | Path,
    examples: Path,
    system: str,
    condition: str | None,
    question: Sequence[str] | None,
    limit: int,
    max_tokens: int | None,
    out: Path | None,
    *,
    index: Path | None = None,
    key: str = "",
    halves: bool = False,
    opened: Opened | None = None,
) -> Mapping[str, Any]:
    """Trace a run's wrong answers; returns counts and traces, and writes them as JSONL to `out`.

    model: a checkpoint's directory or URL/v1#MODEL, whose key stands in the environment variable
    `key`. question: ids to look at (default: the first `limit` wrong ones). max_tokens: None for
    the run's own. index: where passages that were retrieved are found. halves: leave out parts of
    the passages in place of each (`eval.leave_one_out.trace`). opened: how a checkpoint's answers
    are made (default: vLLM). Raises BadInput for what the run or the examples do not hold.
    """
    from neurorit.eval.leave_one_out import trace
    from neurorit.eval.metrics.settings import Analysis
    from neurorit.eval.run.systems import parse_system

    report = read_report(run)
    made = report.get("manifest") or {}
    analysis = fit(Analysis, made.get("analysis") or {}, f"{run}: analysis")
    asked = parse_system(f"{system}={model}", key)
    if asked.kind == "gateway":
        raise BadInput(
            f"‹model={model}›: a gateway retrieves by itself, so no passage can be left out; name "
            "the server or the checkpoint behind it"
        )
    if asked.kind == "endpoint":
        asked.check([])
    limit_tokens = max_tokens or made.get("engine", {}).get("max_tokens") or _MAX_TOKENS
    seed = int(made.get("seed") or 0)
    cases = _cases(run, examples, system, condition, question, limit, index, analysis.metric, seed)
    why = _ledger(examples)
    answers = (
        endpoint_answers(asked, limit_tokens, seed)
        if asked.kind == "endpoint"
        else (opened or vllm_answers)(asked.place, limit_tokens)
    )
    with answers as answer:
        traces = trace(cases, answer, why=why, analysis=analysis, halves=halves)
    if out is not None:
        from neurorit.core.atomic_files import write_text

        write_text(out, "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in traces))
    kinds: dict[str, int] = {}
    for found in traces:
        for number in found["culprits"]:
            kind = str(found["passages"][number - 1]["kind"])
            kinds[kind] = kinds.get(kind, 0) + 1
    _print(traces)
    return {
        "traced": len(traces),
        "with_culprit": sum(bool(t["culprits"]) for t in traces),
        "not_repeated": sum(not t["repeated"] for t in traces),
        "culprit_kinds": kinds,
        "prompts": sum(t["asked"] for t in traces),
        "passages_read": sum(t["read"] for t in traces),
        "passages_read_one_by_one": sum(t["read_one_by_one"] for t in traces),
        "traces": traces,
    }


@contextmanager
def vllm_answers(model: Path, max_tokens: int) -> Iterator[Answerer]:
    """Answers by one offline vLLM engine, with the prompts that evaluation uses."""
    from neurorit.model.checkpoint import checkpoint_dir
    from neurorit.model.load import load_tokenizer
    from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt
    from neurorit.serving.backends.offline import OfflineEngine

    model = checkpoint_dir(model)
    if not (model / "config.json").is_file():
        raise BadInput(f"no checkpoint at {model}: it has no config.json")
    tokenizer = load_tokenizer(model)
    template = PromptTemplate.of_checkpoint(model)
    with OfflineEngine() as engine:

        def answer(asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
            prompts = [render_prompt(tokenizer, template, q, list(shown)) for q, shown in asked]
            stop = [end_token_id(tokenizer)]
            done = engine.generate(model, prompts, max_tokens=max_tokens, stop_token_ids=stop)
            return [read_reply(one.text, one.finish_reason).text for one in done]

        yield answer


@contextmanager
def endpoint_answers(system: System, max_tokens: int, seed: int) -> Iterator[Answerer]:
    """Answers by a server, with the prompts that evaluation sends where no checkpoint is by."""
    from neurorit.core.endpoint.call_settings import CallSettings
    from neurorit.eval.run.rendering import Prompt
    from neurorit.eval.run.systems import Reply, ask_remote
    from neurorit.model.prompts import PromptTemplate

    template = PromptTemplate()

    def answer(asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        prompts = [
            Prompt(
                Example(str(i), question, ()),
                "trace",
                list(shown),
                template.user_turn(question, list(shown)),
                [],
                question,
            )
            for i, (question, shown) in enumerate(asked)
        ]
        found = [""] * len(prompts)
        replies = ask_remote(
            system, prompts, max_tokens=max_tokens, seed=seed, calls=CallSettings()
        )
        for i, reply in replies:
            if not isinstance(reply, Reply):
                raise reply
            found[i] = reply.text
        return found

    yield answer


def _cases(
    run: Path,
    examples: Path,
    system: str,
    condition: str | None,
    question: Sequence[str] | None,
    limit: int,
    index: Path | None,
    metric: Metric,
    seed: int,
) -> list[Case]:
    from neurorit.eval.conditions import asked_question
    from neurorit.eval.leave_one_out import Case
    from neurorit.eval.report.compare_runs import read_run

    cells = read_run(run, run.name).cells
    systems = list(dict.fromkeys(name for name, _ in cells))
    if system not in systems:
        raise BadInput(f"‹system={system}›: {run} holds {', '.join(systems)}")
    conditions = [name for held, name in cells if held == system]
    if condition is not None and condition not in conditions:
        raise BadInput(f"‹condition={condition}›: {run} holds {', '.join(conditions)}")
    wrong = [
        p
        for name in ([condition] if condition else conditions)
        for p in cells[system, name].values()
        if not p.right_by(metric) and p.passages and (not question or p.id in question)
    ]
    if not wrong:
        raise BadInput(f"{run}: {system} gave no such wrong answer with passages")
    wanted = {p.id for p in wrong[:limit]}
    held = {
        e.id: e
        for e in read_examples(examples_file(examples), unanswered="unanswerable")
        if e.id in wanted
    }
    cases = []
    searched = _Searched(index)
    for p in wrong[:limit]:
        example = held.get(p.id)
        if example is None:
            raise BadInput(f"‹examples={examples}›: no example {p.id!r}, which {run} asked")
        passages = _passages(example, p.passages, examples, searched)
        example = replace(example, question=asked_question(example, p.condition, seed))
        cases.append(Case(example, p.condition, passages, p.output))
    return cases


class _Searched:
    """The passages of an index, loaded when the first one is asked for."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._index: Any = None

    def passage(self, identity: str, kind: str | None) -> Passage | None:
        """The passage of that id as the run showed it; None without an index."""
        if self._directory is None:
            return None
        if self._index is None:
            from neurorit.retrieval.index.index import Index

            self._index = Index.load(self._directory)
        found: Passage = self._index.passage(identity)
        return replace(found, kind=kind)


def _passages(
    example: Example, shown: Sequence[Mapping[str, Any]], examples: Path, searched: _Searched
) -> list[Passage]:
    """The passages that the run showed, in its order: from the example's pools, else the index."""
    held = {(passage.id, passage.kind): passage for passage in example.passages}
    found = []
    for p in shown:
        identity, kind = str(p["id"]), p["kind"]
        passage = held.get((identity, kind)) or searched.passage(identity, kind)
        if passage is None:
            raise BadInput(
                f"‹examples={examples}›: example {example.id!r} lacks passage {identity!r}; give "
                "the examples that the run was made from, or the ‹index› it was retrieved from"
            )
        found.append(passage)
    return found


def _ledger(examples: Path) -> dict[tuple[str, str], str]:
    """(question id, passage id) -> why it was mixed in; empty for a bare JSONL file."""
    path = examples / LEDGER
    if not path.is_file():
        return {}
    why = {}
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                record = json.loads(line)
                why.update({(record["id"], p["id"]): p["why"] for p in record["passages"]})
            except (ValueError, KeyError, TypeError) as error:
                raise BadInput(f"{path}:{number}: no line of a ledger: {error}") from error
    return why


def _print(traces: Sequence[Mapping[str, Any]]) -> None:
    for found in traces:
        names = [
            f"passage {p['number']} ({p['kind']}: {p['why'] or 'no ledger'})"
            for p in found["passages"]
            if p["culprit"]
        ]
        said = found["output"] or "(refused)"
        cause = " or ".join(names) if names else "no single passage"
        print(
            f"{found['question']} -> {said} [{found['condition']}]: right without {cause}"
            if names
            else f"{found['question']} -> {said} [{found['condition']}]: {cause} makes it right",
            file=sys.stderr,
        )
