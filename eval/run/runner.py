"""One evaluation run: systems x conditions, answered, judged, summed up, reported.

Checkpoints are answered by a callable, servers by their endpoints; verdicts come from a judge.
Every system gets the same prompts, and nothing is asked twice: not in a run, not after a crash, not
in another run with the same cache.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neurorit.core.artifact import hash_inputs
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import NeuroritError
from neurorit.data.examples import Passage
from neurorit.eval.judges.calibration import Labelled, calibrate
from neurorit.eval.judges.judge import (
    CachedJudge,
    Judge,
    confidence_in,
    failure_of,
    give_verdicts,
)
from neurorit.eval.judges.nuggets import judge_nuggets
from neurorit.eval.judges.support import Answered, judge_support, support_judge
from neurorit.eval.metrics.scoring import rescored
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import VERDICTS, Item, Journal, Prediction, Verdict, writing_alone
from neurorit.eval.report.summary import Passages, summarise
from neurorit.eval.report.write import write_report
from neurorit.eval.run.answering import Progress, Unanswered, answer, shown_by, source_of
from neurorit.eval.run.plan import (
    Plan,
    Retrieve,
    Sample,
    identify_all,
    library_versions,
    make_plan,
    prompt_digests,
)
from neurorit.eval.run.systems import Generate, Reply, System
from neurorit.eval.run.unscored import (
    MAX_UNSCORED,
    refuse_unanswered,
    refuse_unscored,
    unread_answers,
)


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
    retriever: Mapping[str, Any] | None = None,
    limit: int | None = None,
    sample: Sample = "random",
    analysis: Analysis | None = None,
    chunk_size: int = 16_384,
    max_unscored: float = MAX_UNSCORED,
    unended_as_wrong: bool = False,
    calibration: Sequence[Labelled] | None = None,
    mining: Mapping[str, Any] | None = None,
    atlas_plot: Path | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Evaluate and write predictions.jsonl, report.json and report.html into `out`.

    systems: name -> checkpoint directory, or systems of any kind, `base` first by custom; examples:
    an artifact of kind `examples` or a JSONL file whose examples carry pools of typed passages;
    generate: answers for checkpoints; engine: everything about generation that could change an
    answer, kept in the manifest and in the keys; calls: how servers are asked; cache: a directory
    that runs share (None: `out` itself); retrieve: for conditions `retrieved-K`, and retriever what
    the manifest says of it; limit: so many questions, a `sample` by the seed or the first;
    analysis: how answers are scored and compared, which asks nothing again; chunk_size: prompts per
    call of `generate`; max_unscored: share of calls without an answer, and of answers without a
    verdict, that is borne, in the run and in each system under each condition; mining and
    atlas_plot are shown in the report; say: is told what a person should know. Returns the report.

    A question with a call that failed for good, or with a reply that was cut, filtered or nothing
    but thinking, is left out for all systems, so that all are compared on the same ones;
    `unanswered` of the report names them with the reason. unended_as_wrong: such a reply counts as
    wrong by exact match and its like, where many models are compared of which some never end.
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
    analysis = analysis or Analysis()
    analysis.check([s.name for s in systems])
    calls = calls or CallSettings()
    unanswered: list[Unanswered] = []
    with writing_alone(out), Cache(cache or out) as store:
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
            identities=identify_all(systems, store),
        )
        analysis.check_clusters([prompt.example for prompt in plan.prompts])
        tell("prompts", len(plan.prompts), len(plan.prompts))
        if say is not None:
            for text in plan.warnings:
                say(text)
        names = [s.name for s in plan.systems]
        timings: dict[str, Any] = {"prepare": time.perf_counter() - started, "generate": {}}
        journal = Journal(out / "predictions.jsonl")
        asked = 0
        for system in plan.systems:
            begun = time.perf_counter()
            source = source_of(system, plan, generate, calls, chunk_size)
            made, missing = answer(system, plan, journal, store, source, tell, max_unscored)
            asked += made
            unread = [] if unended_as_wrong else _unread(system.name, plan, journal)
            refuse_unanswered(system.name, plan, [*missing, *unread], max_unscored)
            unanswered += missing
            timings["generate"][system.name] = time.perf_counter() - begun
        predictions = [
            rescored(journal.answered[key], prompt.example, analysis)
            for name in names
            for key, prompt in zip(plan.keys[name], plan.prompts, strict=True)
            if key in journal.answered
        ]
        begun = time.perf_counter()
        judged = CachedJudge(judge, store) if judge is not None else None
        predictions = _judge(judged, predictions, tell)
        asked_about = {p.example.id: p.example for p in plan.prompts}
        predictions = judge_nuggets(
            judged, predictions, asked_about, lambda done, total: tell("nuggets", done, total)
        )
        if not unended_as_wrong:
            unanswered += unread_answers(predictions)
        journal.replace_all(predictions)
        calibrated = calibrate(judged, calibration, seed=seed) if judged and calibration else None
        timings["judge"] = time.perf_counter() - begun
        if judged is not None:
            failed = [missing for missing in unanswered if missing.reason == "failed"]
            judgeable = [p for p in predictions if not p.unread]
            refuse_unscored(judged.name, judgeable, max_unscored, failed, failure_of(judged))
        passages, own = _passages(plan, store, journal.answered)
    begun = time.perf_counter()
    left_out = {missing.id for missing in unanswered}
    whole = [p for p in predictions if p.id not in left_out]
    if not whole:
        raise NeuroritError(f"no question was answered by all of {', '.join(names)}")
    report = summarise(
        whole,
        names,
        list(plan.conditions),
        passages,
        seed=seed,
        own=own,
        analysis=analysis,
        examples=asked_about,
    )
    with Cache(cache or out) as store:
        judged = CachedJudge(judge, store) if judge is not None else None
        report["support"] = _support(judged, report["examples"], passages, own, tell)
    timings["summary"] = time.perf_counter() - begun
    counted = Counter(p.verdict for p in predictions)
    counted["unscored"] += sum(missing.reason == "failed" for missing in unanswered)
    report["verdicts"] = {verdict: counted[verdict] for verdict in VERDICTS}
    report["unanswered"] = [missing._asdict() for missing in unanswered]
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
        "inputs": hash_inputs(examples=Path(examples), **_indexes(retriever)),
        "systems": {s.name: _described(plan, s) for s in plan.systems},
        "prompts": prompt_digests(plan),
        # Servers have engines of their own: what they were asked with stands beside each.
        "engine": {
            **(settings if any(s.kind == "checkpoint" for s in plan.systems) else {}),
            "max_tokens": max_tokens,
            **({"temperature": 0} if not any(s.request for s in plan.systems) else {}),
        },
        "retriever": {**retriever, "index": _shown(retriever["index"])} if retriever else None,
        "versions": library_versions(),
        "judge": {"name": judged.name, "fingerprint": judged.fingerprint} if judged else None,
        "questions": plan.questions,
        "left_out": sorted(left_out),
        "warnings": plan.warnings,
        "skipped": list(plan.skipped),
        "limit": limit,
        "sample": sample if limit else None,
        "analysis": asdict(analysis),
    }
    return write_report(report, out, atlas_plot=atlas_plot)


def _unread(system: str, plan: Plan, journal: Journal) -> list[Unanswered]:
    """A system's replies that cannot be scored."""
    answered = journal.answered
    return unread_answers([answered[key] for key in plan.keys[system] if key in answered])


def _passages(
    plan: Plan, store: Cache, answered: Mapping[str, Prediction]
) -> tuple[Passages, dict[str, Passages]]:
    """The passages that all systems were shown, and of each gateway those it found itself.

    A cache may hold what the gateway found for another run; an answer is read in its own alone.
    """
    shown = {(p.example.id, p.condition): p.passages for p in plan.prompts}
    own: dict[str, Passages] = {}
    for system in plan.systems:
        if system.kind != "gateway":
            continue
        calls = plan.calls[system.name]
        replies = store.find(calls)
        read: dict[tuple[str, str], Sequence[Passage]] = {}
        for key, call, prompt in zip(plan.keys[system.name], calls, plan.prompts, strict=True):
            if call in replies and key in answered:
                found = shown_by(prompt.example, Reply.of(replies[call]))
                if [p.id for p in found] == [p["id"] for p in answered[key].passages]:
                    read[prompt.example.id, prompt.condition] = found
        own[system.name] = read
    return shown, own


def _support(
    judge: CachedJudge | None,
    examples: Sequence[Mapping[str, Any]],
    passages: Passages,
    own: Mapping[str, Passages],
    tell: Progress,
) -> dict[str, Any]:
    """Mark what no passage supports in the answers that the report shows; returns the counts."""
    marked, answers = [], []
    for example in examples:
        for output in example["outputs"]:
            shown = own.get(output["system"], passages).get((example["id"], example["condition"]))
            if shown and not output["abstained"]:
                marked.append(output)
                answers.append(Answered(example["question"], output["output"], shown))
    found, counts = judge_support(
        support_judge(judge), answers, lambda done, total: tell("sentences", done, total)
    )
    for output, spans in zip(marked, found, strict=True):
        output["unsupported"] = [list(span) for span in spans]
    return counts


def _indexes(retriever: Mapping[str, Any] | None) -> dict[str, Path]:
    return {"index": Path(retriever["index"])} if retriever else {}


def _described(plan: Plan, system: System) -> dict[str, Any]:
    record = plan.described(system)
    return record | ({"model": _shown(system.place)} if system.kind == "checkpoint" else {})


def _shown(path: Path) -> str:
    """A path for a report that may be handed on: relative to here, or its last part alone."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _judge(
    judge: CachedJudge | None, predictions: Sequence[Prediction], tell: Progress
) -> list[Prediction]:
    mark = judge.fingerprint if judge else None
    known: dict[Item, Verdict] = {
        p.item: p.verdict
        for p in predictions
        if p.judged_by is not None and p.judged_by == mark and p.verdict in ("right", "wrong")
    }
    # A refusal in words is one to the judge too: it is asked about answers only.
    read = [p for p in predictions if not p.unread]
    items = [p.item._replace(answer="") if p.abstained else p.item for p in read]
    given = give_verdicts(judge, items, known, lambda done, total: tell("judge", done, total))
    verdicts = iter(given)
    made = []
    for p in predictions:
        if p.unread:
            made.append(p.judged("unscored", None))
            continue
        verdict, sure = next(verdicts), None
        if judge is not None and verdict in ("right", "wrong"):
            sure = confidence_in(judge, p.item)
            if sure is None and p.judged_by == mark:
                sure = p.confidence
        made.append(p.judged(verdict, mark, sure))
    return made
