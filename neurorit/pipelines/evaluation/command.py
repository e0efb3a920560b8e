"""The body of `eval`: what a file and options say, evaluated and held to gates."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from neurorit.core.atomic_files import write_text
from neurorit.core.endpoint.reply_cache import FILE, Cache
from neurorit.eval.predictions import read_predictions
from neurorit.eval.report.macro import join_families, macro_average, macro_markdown
from neurorit.eval.report.write import print_table, write_report
from neurorit.eval.run.plan import estimate, identify_all, make_plan
from neurorit.pipelines.evaluation.engines import engine_settings, in_formats
from neurorit.pipelines.evaluation.evaluate import evaluate, retrieve_with
from neurorit.pipelines.evaluation.gates import check_gates, parse_gates
from neurorit.pipelines.evaluation.judge import judge_of_run
from neurorit.pipelines.evaluation.settings import EvalSettings
from neurorit.pipelines.progress import Reporter, reporting
from neurorit.retrieval.retriever import Retriever


def evaluate_settings(
    settings: EvalSettings,
    out: Path,
    gates: Iterable[str] | None,
    *,
    cache: Path | None = None,
    dry_run: bool = False,
    seconds_per_call: float | None = None,
    by_interval: bool = False,
) -> Mapping[str, Any]:
    """Evaluate every data set and return the report, or `datasets` with one for each.

    With several data sets each has its report in `out`/NAME, the tests of all are one family, and
    means over the sets stand in `out`/macro.json and macro.md. dry_run: return what would be asked,
    and ask nothing. Raises GateMissed when a gate is missed on any of them; by_interval: as soon as
    the interval does not exclude it.
    """
    wanted = parse_gates(gates)
    documents: dict[str, dict[str, Any]] = {}
    with reporting() as report:
        for name, examples in settings.data_sets().items():
            place = out / name if name else out
            documents[name] = _one(
                settings, examples, place, report, cache, dry_run, seconds_per_call
            )
    several = {} if dry_run or len(documents) < 2 else {"macro": _join(documents, out)}
    for name, document in documents.items() if not dry_run else ():
        print_table(document, Console(file=sys.stderr))
        check_gates(document, wanted, out / name / "report.html", by_interval=by_interval)
    if "" in documents:
        return documents[""]
    return {"datasets": documents, **several}


def _join(documents: Mapping[str, dict[str, Any]], out: Path) -> dict[str, Any]:
    """Correct all sets' tests together, write their reports anew and the means over the sets."""
    join_families(documents)
    for name, document in documents.items():
        write_report(document, out / name)
    macro = macro_average(documents)
    write_text(out / "macro.json", json.dumps(macro, indent=1, allow_nan=False) + "\n")
    text = macro_markdown(macro)
    write_text(out / "macro.md", text)
    print(text, file=sys.stderr)
    return macro


def show_estimate(document: Mapping[str, Any]) -> None:
    """A dry run's numbers for a person, on stdout."""
    for name, found in document.get("datasets", {"": document}).items():
        print(f"{name + ': ' if name else ''}{found['questions']} questions x ", end="")
        print(f"{len(found['conditions'])} conditions, {found['calls']} calls to make")
        for text in found["warnings"]:
            print(f"  {text}")
        for row in found["systems"]:
            time = "unknown" if row["seconds"] is None else f"{row['seconds']:.0f} s"
            print(
                f"  {row['system']}: {row['calls']} of {row['answers']} to ask, "
                f"{row['prompt_tokens']} prompt tokens, at most "
                f"{row['answer_tokens_at_most']} of answers, time {time}"
            )
        if found["judge_calls_at_most"]:
            print(
                f"  judge: at most {found['judge_calls_at_most']} calls, "
                f"about {found['judge_prompt_tokens']} prompt tokens"
            )
        if found["seconds"] is None:
            print("  time: no run with this cache was timed; give --seconds-per-call")


def _one(
    settings: EvalSettings,
    examples: Path,
    out: Path,
    report: Reporter,
    cache: Path | None,
    dry_run: bool,
    seconds_per_call: float | None,
) -> dict[str, Any]:
    """One data set: its report, or what would be asked."""
    if dry_run:
        return _estimate(settings, examples, out, cache, seconds_per_call)
    judge, calibration = judge_of_run(settings)
    return evaluate(
        settings.all_systems(fetch=True),
        examples,
        settings.all_conditions(),
        engine="vllm",
        dtype=settings.dtype,
        judge=judge,
        calibration=calibration,
        retriever=settings.retriever_settings(),
        analysis=settings.analysis(),
        max_tokens=settings.reply_tokens,
        limit=settings.limit,
        sample=settings.sample,
        seed=settings.seed,
        calls=settings.call_settings(),
        max_unscored=settings.max_unscored,
        retention=settings.retention_settings(),
        out=out,
        cache=cache,
        progress=report,
        say=report.say,
    ).report


def _estimate(
    settings: EvalSettings,
    examples: Path,
    out: Path,
    cache: Path | None,
    seconds_per_call: float | None,
) -> dict[str, Any]:
    chosen = settings.retriever_settings()
    retrieve = retrieve_with(Retriever.load(chosen.index, chosen.search)) if chosen else None
    place = cache or out
    # A dry run leaves nothing behind: without a cache, an empty one elsewhere is looked into.
    with (
        tempfile.TemporaryDirectory() as nowhere,
        Cache(place if (place / FILE).is_file() else Path(nowhere)) as store,
    ):
        systems = in_formats(settings.all_systems(fetch=True), settings.dtype)
        plan = make_plan(
            systems,
            examples,
            settings.all_conditions(),
            settings.seed,
            max_tokens=settings.reply_tokens,
            engine=engine_settings("vllm", settings.reply_tokens),
            limit=settings.limit,
            sample=settings.sample,
            retrieve=retrieve,
            identities=identify_all(systems, store),
        )
        return estimate(
            plan,
            read_predictions(out / "predictions.jsonl"),
            store,
            judge=judge_of_run(settings)[0],
            seconds_per_call=seconds_per_call,
        )
