"""Evaluation: systems x conditions, answered, judged and summed up, as one object or a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.atomic_files import write_text
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.errors import BadInput
from neurorit.core.work_folder import work_folder
from neurorit.data.example_files import ExampleSource, load_examples, write_examples
from neurorit.data.examples import Passage
from neurorit.eval.conditions import CONDITIONS
from neurorit.eval.judges.calibration import Labelled
from neurorit.eval.judges.judge import Judge
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import Prediction, read_predictions
from neurorit.eval.report.html import render_page
from neurorit.eval.report.tables import frame
from neurorit.eval.report.write import write_report
from neurorit.eval.retention.measure import Suite
from neurorit.eval.run.plan import Retrieve, Sample
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import Generate, System
from neurorit.eval.run.unscored import MAX_UNSCORED
from neurorit.model.load import load_tokenizer
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource
from neurorit.pipelines.evaluation.engines import (
    EngineName,
    choose_engine,
    engine_settings,
    in_formats,
    lay_out,
    transformers_engine,
    vllm_engine,
)
from neurorit.pipelines.evaluation.judge import make_judge
from neurorit.pipelines.evaluation.retention import RetentionSettings, add_retention
from neurorit.pipelines.evaluation.settings import JudgeSettings, RetrieverSettings
from neurorit.retrieval.retriever import Retriever

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import pandas as pd


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What an evaluation found.

    report: all figures, as `report.json` holds them; predictions: every answer with its scores;
    out: the folder it was written to, None where nothing was.
    """

    report: dict[str, Any]
    predictions: list[Prediction]
    out: Path | None = None
    atlas_plot: Path | None = None

    def to_pandas(self, metric: str | None = None) -> pd.DataFrame:
        """Every figure, a row each, with its 95 % interval; or of one metric a table.

        metric: such as em; the rows are then conditions, the columns systems.
        """
        rows = frame(self.report)
        if metric is None:
            return rows
        chosen = rows[rows["part"].isin(["results", "pooled"]) & (rows["metric"] == metric)]
        if chosen.empty:
            known = ", ".join(dict.fromkeys(rows.loc[rows["part"] == "results", "metric"]))
            raise BadInput(f"metric: {metric!r} was not measured; there are {known}")
        table = chosen.pivot(index="condition", columns="system", values="value")
        return table.loc[list(dict.fromkeys(chosen["condition"])), self.report["systems"]]

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the report's page, one file that asks the network for nothing."""
        write_text(Path(path), render_page(self.report, self.atlas_plot))
        return Path(path)

    def __repr__(self) -> str:
        metric = self.report["metric"]
        table = (100 * self.to_pandas(metric)).round(1).to_string()
        questions = self.report["results"][0]["n"]
        return f"{metric} in percent, {questions} questions\n{table}"

    def _repr_html_(self) -> str:
        metric = self.report["metric"]
        questions = self.report["results"][0]["n"]
        table = self.to_pandas(metric).rename_axis(index=None, columns=None)
        said = "".join(f"<li>{escape(line)}</li>" for line in self.report["findings"])
        return (
            f"<p>{escape(metric)} in percent, {questions} questions</p>"
            f"{(100 * table).to_html(float_format='%.1f')}<ul>{said}</ul>"
        )


def evaluate(
    systems: Mapping[str, Any] | Sequence[System],
    examples: ExampleSource,
    conditions: Sequence[str] = CONDITIONS,
    *,
    tokenizer: Any = None,
    template: PromptTemplate | None = None,
    engine: EngineName = "auto",
    dtype: str = "auto",
    judge: Judge | JudgeSettings | str | None = None,
    calibration: Sequence[Labelled] | None = None,
    retriever: Retriever | RetrieverSettings | None = None,
    analysis: Analysis | None = None,
    max_tokens: int = 24,
    limit: int | None = None,
    sample: Sample = "random",
    seed: int = 0,
    calls: CallSettings | None = None,
    max_unscored: float = MAX_UNSCORED,
    unended_as_wrong: bool = False,
    retention: RetentionSettings | Suite | None = None,
    out: str | PathLike[str] | None = None,
    cache: str | PathLike[str] | None = None,
    mining: Mapping[str, Any] | None = None,
    atlas_plot: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> Evaluation:
    """Ask every system every question under every condition, and compare them.

    systems: name -> a checkpoint's folder or hub name, a loaded model, or a pair of model and
    tokenizer, `base` first by custom; or `System`s of any kind, such as servers. examples: a file,
    what `mix` wrote, or examples in memory, with pools of typed passages (`PoolSettings`).
    conditions: names such as clean, distractor-4, noise-only-4, retrieved-5.

    tokenizer: of loaded models that come without one (None: what stands where the model was loaded
    from). template: the wording for loaded models (None: what each was tuned with, or the default);
    a folder has its own. engine: `vllm`, `transformers`
    in this process, or `auto`: see `engines.choose_engine`. dtype: what checkpoints compute in, see
    `neurorit.model.precision`. judge: a judge, its settings, a name
    such as lab, or none; calibration: labelled answers that say how far to trust it. retriever: for
    conditions `retrieved-K`. limit: so many questions, a `sample` by the seed or the first. out:
    where report.json, report.html and predictions.jsonl are written, and from where a killed run
    goes on; None writes nothing, and leaves its answers only where it fails. retention: also
    measure what the checkpoints keep of their base (`pipelines.evaluation.retention`). For the
    rest, and for what it raises, see `neurorit.eval.run.runner.run_evaluation`.
    """
    if isinstance(judge, (str, JudgeSettings)):
        named = JudgeSettings(model=judge) if isinstance(judge, str) else judge
        judge, calibration = make_judge(named, seed, calls)
    searched = None
    if isinstance(retriever, RetrieverSettings):
        searched = asdict(retriever)
        retriever = Retriever.load(retriever.index, retriever.search)
    elif retriever is not None:
        searched = {"index": str(retriever.directory), **asdict(retriever.settings)}
    with work_folder(out, "report", "predictions.jsonl") as (folder, place):
        asked, loaded = _systems(systems, tokenizer, template)
        name = choose_engine(engine, loaded)
        for i, system in enumerate(asked):
            if system.name in loaded:
                laid = folder / "systems" / f"{i}" / system.name.replace("/", "-")
                laid.mkdir(parents=True)
                lay_out(loaded[system.name], laid, weights=name == "vllm")
                computed = str(loaded[system.name].loaded.dtype).removeprefix("torch.")
                asked[i] = System(
                    system.name,
                    "checkpoint",
                    model=laid,
                    dtype="" if name == "vllm" else computed,  # its weights are alike in any
                )
        in_place = [] if name == "vllm" else list(loaded)  # these compute as they were loaded
        asked = [
            system if system.name in in_place else in_formats([system], dtype)[0]
            for system in asked
        ]
        if not isinstance(examples, (str, PathLike)):
            pool = load_examples(examples)
            examples = place / "examples.jsonl"
            examples.parent.mkdir(parents=True, exist_ok=True)
            write_examples(examples, pool)
        answering: AbstractContextManager[Generate] = (
            vllm_engine(place / "vllm.log", max_tokens, asked, say)
            if name == "vllm"
            else transformers_engine(loaded, max_tokens, asked)
        )
        with answering as generate:
            report = run_evaluation(
                asked,
                Path(examples),
                conditions,
                place,
                judge,
                seed,
                generate=generate,
                engine=engine_settings(name, max_tokens),
                max_tokens=max_tokens,
                calls=calls,
                cache=None if cache is None else Path(cache),
                retrieve=None if retriever is None else retrieve_with(retriever),
                retriever=searched,
                limit=limit,
                sample=sample,
                analysis=analysis,
                max_unscored=max_unscored,
                unended_as_wrong=unended_as_wrong,
                calibration=calibration,
                mining=mining,
                atlas_plot=atlas_plot,
                progress=progress,
                say=say,
            )
        if retention is not None:
            base = ""
            if isinstance(retention, RetentionSettings):
                base, retention = retention.base, retention.suite(seed=seed)
            add_retention(
                report,
                asked,
                loaded,
                retention,
                place if cache is None else Path(cache),
                base=base,
                seed=seed,
                progress=progress,
            )
            report = write_report(report, place, atlas_plot=atlas_plot)
        predictions = list(read_predictions(place / "predictions.jsonl").values())
    return Evaluation(report, predictions, None if out is None else place, atlas_plot)


def _systems(
    systems: Mapping[str, Any] | Sequence[System], tokenizer: Any, template: PromptTemplate | None
) -> tuple[list[System], dict[str, ModelSource]]:
    """Every system, and of those that are loaded what they are."""
    if not isinstance(systems, Mapping):
        return list(systems), {}
    asked: list[System] = []
    loaded: dict[str, ModelSource] = {}
    for name, given in systems.items():
        if isinstance(given, System):
            asked.append(given)
            continue
        model, own = given if isinstance(given, tuple) else (given, tokenizer)
        if not isinstance(model, (str, PathLike)) and own is None:
            own = _tokenizer_of(model, name)
        source = ModelSource.of(model, own, template)
        if source.folder is None:
            loaded[name] = source
        elif template is not None or isinstance(given, tuple):
            what = "‹template›" if template is not None else "a tokenizer"
            raise BadInput(
                f"systems[{name!r}]: {what} is for loaded models, and this is a folder, which is "
                "asked as its own files say; load it with load_model"
            )
        asked.append(System(name, "checkpoint", model=source.folder))
    return asked, loaded


def _tokenizer_of(model: Any, name: str) -> Any:
    place = getattr(getattr(model, "config", None), "_name_or_path", "")
    try:
        if not place:
            raise OSError("it was loaded from no folder")
        return load_tokenizer(place)
    except (OSError, BadInput) as error:
        raise BadInput(
            f"systems[{name!r}]: no tokenizer is known for this loaded model; give (model, "
            f"tokenizer), or tokenizer= for all: {str(error).splitlines()[0]}"
        ) from error


def retrieve_with(retriever: Retriever) -> Retrieve:
    """What answers `retrieved-K`: the retriever's passages, without scores."""

    def retrieve(questions: Sequence[str], k: int) -> list[list[Passage]]:
        return [[hit.passage for hit in hits] for hits in retriever.search(list(questions), k)]

    return retrieve
