"""One evaluation run: systems x conditions, answered, judged, summed up, reported.

Checkpoints are answered by a callable, servers by their endpoints, verdicts come from a judge: it
knows nothing of engines. Every system gets the same prompts, and nothing is asked twice: not in a
run, not after a crash, not in another run with the same cache.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.analysis import Analysis
from eval.cache import Cache
from eval.calibration import Labelled, calibrate
from eval.journal import Journal, Prediction, gold_ids, rescored, score
from eval.judge import VERDICTS, CachedJudge, Item, Judge, Verdict, give_verdicts
from eval.planning import (
    Plan,
    Retrieve,
    Sample,
    library_versions,
    make_plan,
    prompt_digests,
)
from eval.report import write_report
from eval.summary import summarise
from eval.systems import Generate, Reply, System, ask_remote
from eval.unscored import MAX_UNSCORED, refuse_unscored
from retrieval.artifact import hash_inputs
from retrieval.endpoint import CallFailed, CallSettings
from retrieval.errors import BadInput, NeuroritError
from retrieval.examples import Passage

# So many failed calls one after another, and the server is taken for lost.
_LOST = 10
_REFUSED = frozenset({401, 403, 404})

Progress = Callable[[str, int, int], None]
"""(what is being done, how much is done, how much there is)"""


def run_evaluation(
    systems: Mapping[str, Path] | Sequence[System],
    examples: Path,
    conditions: Sequence[str],
    out: Path,
    judge: Judge | None,
    seed: int,
    *,
    generate: Generate | None = None,
    engine: Mapping[str, Any] | None = None,
    max_tokens: int = 24,
    calls: CallSettings | None = None,
    cache: Path | None = None,
    retrieve: Retrieve | None = None,
    limit: int | None = None,
    sample: Sample = "random",
    analysis: Analysis | None = None,
    chunk_size: int = 1_024,
    max_unscored: float = MAX_UNSCORED,
    calibration: Sequence[Labelled] | None = None,
    mining: Mapping[str, Any] | None = None,
    atlas_plot: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate and write predictions.jsonl, report.json and report.html into `out`.

    systems: name -> checkpoint directory, or systems of any kind, `base` first by custom; examples:
    an artifact of kind `examples` or a JSONL file whose examples carry pools of typed passages;
    generate: answers for checkpoints; engine: everything about generation that could change an
    answer, kept in the manifest and in the keys; calls: how servers are asked; cache: a directory
    that runs share (None: `out` itself); retrieve: for conditions `retrieved-K`; limit: so many
    questions, a `sample` by the seed or the first; analysis: how answers are scored and compared,
    which asks nothing again; chunk_size: prompts per call of `generate`, each followed by a write
    to disk; max_unscored: share of answers without a verdict that is borne, in the run and in each
    system under each condition; mining and atlas_plot are shown in the report. Returns the report.
    Raises BadInput for unusable input, NeuroritError when calls or too many verdicts fail: what was
    answered is kept, and the same command goes on from there.
    """
    started = time.perf_counter()
    tell = progress or (lambda stage, done, total: None)
    out = Path(out)
    if isinstance(systems, Mapping):
        systems = [System(name, "checkpoint", model=Path(m)) for name, m in systems.items()]
    settings = dict(engine or {})
    tell("prompts", 0, 0)
    plan = make_plan(
        systems,
        examples,
        conditions,
        seed,
        max_tokens=max_tokens,
        engine=settings,
        limit=limit,
        sample=sample,
        retrieve=retrieve,
    )
    analysis = analysis or Analysis()
    analysis.check([s.name for s in plan.systems])
    for prompt in plan.prompts:
        analysis.cluster_of(prompt.example)
    tell("prompts", len(plan.prompts), len(plan.prompts))
    names = [s.name for s in plan.systems]
    timings: dict[str, Any] = {"prepare": time.perf_counter() - started, "generate": {}}
    calls = calls or CallSettings()
    with Cache(cache or out) as store:
        journal = Journal(out / "predictions.jsonl")
        asked = 0
        for system in plan.systems:
            begun = time.perf_counter()
            source = _source(system, plan, generate, calls, chunk_size)
            asked += _answer(system, plan, journal, store, source, tell)
            timings["generate"][system.name] = time.perf_counter() - begun
        predictions = [
            rescored(journal.answered[key], prompt.example, analysis)
            for name in names
            for key, prompt in zip(plan.keys[name], plan.prompts, strict=True)
        ]
        begun = time.perf_counter()
        judged = CachedJudge(judge, store) if judge is not None else None
        predictions = _judge(judged, predictions, tell)
        journal.replace_all(predictions)
        calibrated = calibrate(judged, calibration, seed=seed) if judged and calibration else None
        timings["judge"] = time.perf_counter() - begun
        if judge is not None:
            refuse_unscored(judge.name, predictions, max_unscored)
        passages = _passages(plan, store)
    begun = time.perf_counter()
    examples_by_id = {p.example.id: p.example for p in plan.prompts}
    report = summarise(
        predictions,
        names,
        list(plan.conditions),
        passages,
        seed=seed,
        analysis=analysis,
        examples=examples_by_id,
    )
    timings["summary"] = time.perf_counter() - begun
    counted = Counter(p.verdict for p in predictions)
    report["verdicts"] = {verdict: counted[verdict] for verdict in VERDICTS}
    report["judge"] = calibrated
    report["mining"] = dict(mining) if mining else None
    report["atlas_plot"] = _shown(atlas_plot) if atlas_plot else None
    report["timings"] = timings | {
        "total": time.perf_counter() - started,
        "answers_asked": asked,
        "answers_from_journal": len(predictions) - asked,
    }
    report["manifest"] = {
        "kind": "report",
        "seed": seed,
        "examples": _shown(examples),
        "inputs": hash_inputs(examples=Path(examples)),
        "systems": {s.name: _described(plan, s) for s in plan.systems},
        "prompts": prompt_digests(plan),
        "engine": {**settings, "max_tokens": max_tokens, "temperature": 0},
        "versions": library_versions(),
        "judge": {"name": judge.name, "fingerprint": judge.fingerprint} if judge else None,
        "questions": plan.questions,
        "skipped": plan.skipped,
        "limit": limit,
        "sample": sample if limit else None,
        "analysis": asdict(analysis),
    }
    return write_report(report, out, atlas_plot=atlas_plot)


_Source = Callable[[list[int]], Iterator[list[tuple[int, Reply | CallFailed]]]]
"""Indices of prompts -> batches of (index, reply or why there is none), as they come."""


def _source(
    system: System, plan: Plan, generate: Generate | None, calls: CallSettings, chunk_size: int
) -> _Source:
    """Where a system's answers come from."""

    def local(indices: list[int]) -> Iterator[list[tuple[int, Reply | CallFailed]]]:
        if generate is None:
            raise BadInput(f"system {system.name} is a checkpoint, but no engine was given")
        for start in range(0, len(indices), chunk_size):
            part = indices[start : start + chunk_size]
            prompts = [list(plan.prompts[i].ids) for i in part]
            completions = generate(system.name, system.place, prompts)
            if len(completions) != len(part):
                raise NeuroritError(
                    f"the engine gave {len(completions)} answers to {len(part)} prompts of "
                    f"{system.name}"
                )
            yield [(i, Reply(c.text)) for i, c in zip(part, completions, strict=True)]

    def remote(indices: list[int]) -> Iterator[list[tuple[int, Reply | CallFailed]]]:
        prompts = [plan.prompts[i] for i in indices]
        for at, reply in ask_remote(system, prompts, max_tokens=plan.max_tokens, calls=calls):
            yield [(indices[at], reply)]

    return local if system.kind == "checkpoint" else remote


def _answer(
    system: System, plan: Plan, journal: Journal, store: Cache, source: _Source, tell: Progress
) -> int:
    """Bring every answer of one system into the journal; returns how many were asked for.

    Raises NeuroritError when calls failed, after all others were made.
    """
    keys, calls = plan.keys[system.name], plan.calls[system.name]
    places: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        if key not in journal.answered:
            places.setdefault(calls[i], []).append(i)
    known = {call: Reply.of(record) for call, record in store.find(places).items()}

    def lines(call: str, reply: Reply) -> Iterator[Prediction]:
        for i in places[call]:
            prompt = plan.prompts[i]
            shown = _shown_by(prompt.example, reply) if reply.passages else prompt.passages
            yield score(
                system.name, prompt.condition, prompt.example, shown, keys[i], reply.text, call
            )

    journal.append(line for call, reply in known.items() for line in lines(call, reply))
    waiting = [held[0] for call, held in places.items() if call not in known]
    what = f"answers of {system.name}"
    done = len(calls) - sum(len(held) for call, held in places.items() if call not in known)
    tell(what, done, len(calls))
    begun = synced = time.perf_counter()
    failed: list[tuple[int, CallFailed]] = []
    in_a_row = 0
    for batch in source(waiting):
        good = {calls[i]: r for i, r in batch if isinstance(r, Reply)}
        now = time.perf_counter()
        # A process that is killed loses nothing that was written; the disk is waited for at times.
        sync = len(batch) > 1 or now - synced > 1.0
        synced = now if sync else synced
        store.keep({call: reply.record() for call, reply in good.items()})
        journal.append((line for c, r in good.items() for line in lines(c, r)), sync=sync)
        done += sum(len(places[call]) for call in good)
        tell(what, done, len(calls))
        for i, reply in batch:
            if isinstance(reply, CallFailed):
                failed.append((i, reply))
                in_a_row += 1
                if reply.status in _REFUSED or in_a_row >= _LOST:
                    _report_failed(system, plan, failed, len(waiting), "stopped after")
            else:
                in_a_row = 0
    if failed:
        _report_failed(system, plan, failed, len(waiting), "without an answer:")
    store.note_pace(plan.prints[system.name], len(waiting), time.perf_counter() - begun)
    return len(waiting)


def _report_failed(
    system: System, plan: Plan, failed: Sequence[tuple[int, CallFailed]], of: int, how: str
) -> None:
    first, error = failed[0]
    prompt = plan.prompts[first]
    raise NeuroritError(
        f"system {system.name}, {how} {len(failed)} of {of} calls failed, first on question "
        f"{prompt.example.id!r} under {prompt.condition}: {error}; the answers so far are kept: "
        "run again with the same --out to go on"
    )


def _shown_by(example: Any, reply: Reply) -> list[Passage]:
    """The passages that a gateway showed its model, gold where the example says so."""
    gold = gold_ids(example)
    return [
        Passage(str(p["id"]), p["title"], p["text"], "gold" if str(p["id"]) in gold else None)
        for p in reply.passages or ()
    ]


def _passages(plan: Plan, store: Cache) -> dict[tuple[str, ...], list[Passage]]:
    """(question, condition) -> passages as shown, a gateway's own where nobody else has any.

    What a gateway showed its model also stands under (question, condition, system).
    """
    shown: dict[tuple[str, ...], list[Passage]] = {
        (p.example.id, p.condition): p.passages for p in plan.prompts
    }
    for system in plan.systems:
        if system.kind != "gateway":
            continue
        calls = plan.calls[system.name]
        replies = store.find(calls)
        for call, prompt in zip(calls, plan.prompts, strict=True):
            place = (prompt.example.id, prompt.condition)
            if call in replies:
                own = _shown_by(prompt.example, Reply.of(replies[call]))
                shown[*place, system.name] = own
                shown[place] = shown[place] or own
    return shown


def _described(plan: Plan, system: System) -> dict[str, Any]:
    record = plan.described(system)
    return record | ({"model": _shown(system.place)} if system.kind == "checkpoint" else {})


def _shown(path: Path) -> str:
    """A path for a report that may be handed on: relative to here, or its last part alone."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _judge(
    judge: Judge | None, predictions: Sequence[Prediction], tell: Progress
) -> list[Prediction]:
    mark = judge.fingerprint if judge else None
    known: dict[Item, Verdict] = {
        p.item: p.verdict
        for p in predictions
        if p.judged_by is not None and p.judged_by == mark and p.verdict in ("right", "wrong")
    }
    # A refusal in words is one to the judge too: it is asked about answers only.
    items = [p.item._replace(answer="") if p.abstained else p.item for p in predictions]
    verdicts = give_verdicts(judge, items, known, lambda done, total: tell("judge", done, total))
    return [p.judged(v, mark) for p, v in zip(predictions, verdicts, strict=True)]
