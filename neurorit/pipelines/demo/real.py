"""The demonstration on a real model: a reader that has never seen noise, and what makes it robust.

The model as it comes (`instruct`) reads badly in a few words, so it is first tuned on gold passages
alone (`reader`); that model is mined and tuned by the method and its rivals, and all are asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput
from neurorit.eval.metrics.settings import METHOD, Analysis
from neurorit.pipelines import method as tuning
from neurorit.pipelines import retrieval
from neurorit.pipelines.demo.closing import close
from neurorit.pipelines.demo.data import CORPUS, TRAIN, Sources, find_sources, lay_out
from neurorit.pipelines.demo.serving import ask_served
from neurorit.pipelines.demo.settings import DemoSettings
from neurorit.pipelines.evaluation.evaluate import evaluate
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.model import MODELS, fetch
from neurorit.pipelines.progress import reporting
from neurorit.pipelines.recipe import Recipe, find_recipe
from neurorit.pipelines.stages import Stages, stages_in

READER = "reader"
READER_SECTIONS = ("mix-reader", "tune-reader")
WITHOUT_DATA = "lab"  # the recipe's variant for the embedded world
_CAUSAL = "causal.json"


def demo(
    model: str,
    out: Path,
    *,
    data: Path | None = None,
    recipe: Path | None = None,
    questions: int | None = None,
    seed: int = 0,
    resume: bool = False,
) -> dict[str, Any]:
    """Run every stage below `out`; returns where the reports are, and the stages' seconds.

    model: one of `MODELS`, or a checkpoint's folder. data: a folder with a corpus and questions
    (`demo.data`); None takes the embedded world's English. recipe: None is the model's own.
    questions: of each test set, in place of the recipe's.
    """
    wanted, recipe = recipe, find_recipe(recipe or model)
    if not recipe.is_file() and wanted is not None:
        raise BadInput(f"‹recipe={wanted}›: no such file, and no packaged recipe of that name")
    if not recipe.is_file():
        raise BadInput(
            f"‹model={model}›: known by name is {', '.join(MODELS)}; beside a checkpoint's folder "
            "name a recipe with ‹recipe›, such as smollm2"
        )
    read = Recipe(recipe)
    for section in READER_SECTIONS:
        if not read.section(section):
            raise BadInput(
                f"{recipe}: the section `{section}` is missing: the reader is tuned on gold "
                "passages alone, at a rate of its own, as in the packaged recipe smollm2"
            )
    asked, variant = {"questions": questions}, WITHOUT_DATA if data is None else ""
    settings = read.settings(DemoSettings, "demo", asked, variant)
    sources = None if data is None else find_sources(data)
    with reporting() as report:
        tell = report.say
    with stages_in(out, resume=resume, tell=tell) as stages:
        job = _Job(stages, recipe, settings, seed)
        instruct = job.model(model)
        sets = job.data(sources)
        job.mixed(sets, "" if data is not None else "split")
        job.tuned(instruct)
        job.causal(sets[0])
        answer = job.served(sets[0])
        documents = {name: job.evaluated(instruct, name, answer) for name in sets}
        return job.ended(documents, answer, model, data)


class _Job:
    """The stages of one demonstration. `instruct` is the model as it comes."""

    def __init__(self, stages: Stages, recipe: Path, settings: DemoSettings, seed: int) -> None:
        self.stages, self.recipe, self.settings, self.seed = stages, recipe, settings, seed
        self.out = stages.out
        self.reader = self.out / READER

    def model(self, name: str) -> Path:
        """The checkpoint: fetched, where it is one of those that a registry holds."""
        if name not in MODELS:
            from neurorit.model.checkpoint import checkpoint_dir

            return checkpoint_dir(name)
        made = self.out / "instruct"
        self.stages.run("model", lambda: fetch(name, made, "auto", False, True), outputs=[made])
        return made

    def data(self, sources: Sources | None) -> list[str]:
        """Passages and questions; returns the names of the test sets."""
        made, settings = self.out / "data", self.settings
        if sources is not None:

            def work() -> Mapping[str, Any]:
                with reporting() as report:
                    return lay_out(sources, made, settings, report)

            chosen = {
                "words": [settings.least_words, settings.most_words],
                "test_share": settings.test_share,
                "tests": list(sources.tests),
            }
            read = [sources.corpus, sources.train, *sources.tests.values()]
            found = self.stages.run("data", work, inputs=read, settings=chosen, outputs=[made])
            return list(found["tests"])
        from neurorit.lab.world import write_world

        people = settings.questions + settings.questions // 5

        def world() -> Mapping[str, Any]:
            found = write_world(made, self.seed, train=settings.people, test=people)
            found["test"].replace(made / "lab.jsonl")
            return {"corpus": made / CORPUS}

        self.stages.run(
            "data",
            world,
            settings={"seed": self.seed, "train": settings.people, "test": people},
            outputs=[made],
        )
        return ["lab"]

    def mixed(self, sets: list[str], within: str) -> None:
        """An index, examples with gold passages alone, with noise, and with pools to ask of."""
        out, recipe, seed = self.out, self.recipe, self.seed
        corpus, index = out / "data" / CORPUS, out / "index"
        self.stages.run(
            "index",
            # An unfinished one of other passages is this run's own, and of no use to it.
            lambda: retrieval.index(
                corpus, index, self.settings.encoder, overwrite=True, restart=True
            ),
            inputs=[corpus],
            settings={"encoder": self.settings.encoder},
            outputs=[index],
        )
        apart = [f"within={within}"] if within else []
        train = out / "data" / TRAIN
        jobs: list[tuple[str, Path, str, str, list[str]]]
        jobs = [(READER, train, "train", READER, []), ("train", train, "train", "", [])]
        asked = f"limit={self.settings.questions}"
        jobs += [(name, out / "data" / f"{name}.jsonl", "eval", "", [asked]) for name in sets]
        for name, source, purpose, variant, more in jobs:
            made = out / f"examples-{name}"
            # The reader's questions are drawn by themselves.
            drawn = seed + 1 if variant else seed
            self.stages.run(
                f"mix {name}",
                partial(
                    retrieval.mix,
                    source,
                    index,
                    made,
                    recipe,
                    [*apart, *more],
                    purpose,
                    drawn,
                    True,
                    variant=variant,
                ),
                inputs=[source, index],
                settings={
                    "seed": drawn,
                    "for": purpose,
                    "more": [*apart, *more],
                    "recipe": self._sections("mix", purpose, variant),
                },
                outputs=[made],
            )

    def tuned(self, instruct: Path) -> None:
        """The reader, its atlas, and the methods on the same examples."""
        from neurorit.mining.mine import given_files
        from neurorit.mining.settings import MiningSettings

        out, seed = self.out, self.seed
        self._tune(instruct, READER, "sft", out / f"examples-{READER}", None, variant=READER)
        examples, atlas = out / "examples-train", out / "atlas"
        mining = Recipe(self.recipe).settings(MiningSettings, "mine", {})
        self.stages.run(
            "mine",
            lambda: tuning.mine(self.reader, examples, atlas, self.recipe, None, seed, True),
            inputs=[self.reader, examples, *given_files(mining).values()],
            settings={"seed": seed, "recipe": self._sections("mine")},
            outputs=[atlas],
        )
        self._tune(self.reader, METHOD, METHOD, examples, atlas)
        for rival in self.settings.rivals:
            self._tune(self.reader, rival, rival, examples, None)

    def _tune(
        self,
        model: Path,
        name: str,
        method: str,
        examples: Path,
        atlas: Path | None,
        variant: str = "",
    ) -> None:
        from neurorit.tuning.settings import TuneSettings, settings_inputs

        made, own = self.out / name, variant or method
        settings = Recipe(self.recipe).settings(TuneSettings, "tune", {"method": method}, own)
        self.stages.run(
            f"tune {name}",
            partial(
                tuning.tune,
                model,
                examples,
                made,
                method,
                atlas,
                self.recipe,
                None,
                self.seed,
                True,
                variant=variant,
            ),
            inputs=[model, examples, *([atlas] if atlas else [])],
            settings={
                "seed": self.seed,
                "recipe": self._sections("tune", own),
                **settings_inputs(settings),
            },
            outputs=[made],
        )

    def causal(self, name: str) -> None:
        """Silence the mined neurons of the reader, on questions that nothing learned from."""
        from neurorit.pipelines.atlas import verify

        out, settings = self.out, self.settings
        atlas, examples, made = out / "atlas", out / f"examples-{name}", out / _CAUSAL
        contexts, draws = settings.causal_contexts, settings.causal_draws

        def work() -> dict[str, Any]:
            found = dict(verify(atlas, self.reader, examples, contexts, draws, self.seed))
            write_text(made, json.dumps(found, indent=2) + "\n")
            return {"verdict": found["verdict"]}

        self.stages.run(
            "verify",
            work,
            inputs=[atlas, self.reader, examples],
            settings={"seed": self.seed, "contexts": contexts, "draws": draws},
            outputs=[made],
        )

    def served(self, name: str) -> dict[str, Any]:
        """One question of the test, asked of a server that a user would start."""
        out = self.out
        model, index = out / self.settings.to_serve, out / "index"
        asked = out / f"examples-{name}"
        with open(asked / "examples.jsonl", encoding="utf-8") as stream:
            record = json.loads(stream.readline())
        return self.stages.run(
            "serve",
            lambda: ask_served(model, index, record, out),
            inputs=[model, index, asked],
            settings={"tuned": model.name},
            outputs=[out / "served.json"],
        )

    def evaluated(self, instruct: Path, name: str, answer: Mapping[str, Any]) -> dict[str, Any]:
        """One test set's report. What was answered already is never asked again.

        answer: what the served model said.
        """
        from neurorit.eval.report.write import write_report
        from neurorit.pipelines.atlas import describe, draw

        out, settings = self.out, self.settings
        made, examples, picture = (
            out / f"report-{name}",
            out / f"examples-{name}",
            out / "atlas.svg",
        )
        # In the order of comparison: the first, of the method with the reader, is the headline.
        rivals = settings.rivals
        systems = {READER: self.reader, **{name: out / name for name in (METHOD, *rivals)}}
        systems["instruct"] = instruct
        draw(out / "atlas", picture)
        causal = json.loads((out / _CAUSAL).read_text(encoding="utf-8"))

        def work() -> dict[str, Any]:
            with reporting() as report:
                found = evaluate(
                    systems,
                    examples,
                    settings.conditions,
                    engine="vllm",
                    max_tokens=settings.max_tokens,
                    unended_as_wrong=True,
                    analysis=Analysis(compare=(READER, *((METHOD, rival) for rival in rivals))),
                    seed=self.seed,
                    out=made,
                    mining={**describe(out / "atlas"), "causal": causal},
                    atlas_plot=picture,
                    retention=self._retention(name),
                    progress=report,
                ).report
            write_report({**found, "served": dict(answer)}, made, atlas_plot=picture)
            return {"questions": found["manifest"]["questions"]}

        self.stages.run(
            f"eval {name}",
            work,
            inputs=[*systems.values(), examples, out / _CAUSAL],
            settings={
                "seed": self.seed,
                "conditions": settings.conditions,
                "max_tokens": settings.max_tokens,
                "retention": [settings.retained, settings.instructions],
                "served": dict(answer),
            },
            outputs=[made / "predictions.jsonl", made / "report.json"],
        )
        document: dict[str, Any] = json.loads((made / "report.json").read_text(encoding="utf-8"))
        return document

    def _retention(self, name: str) -> RetentionSettings | None:
        """What the reader could before: the embedded world is unseen, where it is not the data."""
        unseen = "" if name == "lab" else "lab"
        settings = self.settings
        if not unseen and not settings.instructions:
            return None
        return RetentionSettings(
            text=unseen,
            examples=unseen,
            instructions=settings.instructions,
            limit=settings.retained,
            base=READER,
        )

    def ended(
        self,
        documents: Mapping[str, Mapping[str, Any]],
        answer: Mapping[str, Any],
        model: str,
        data: Path | None,
    ) -> dict[str, Any]:
        """Write the table of all sets, and say what was made and what to run next."""
        out = self.out
        from neurorit.eval.report.tables import as_markdown

        table = "\n".join(f"## {name}\n\n{as_markdown(d)}" for name, d in documents.items())
        write_text(out / "table.md", table + "\n")
        reports = [out / f"report-{name}" / "report.html" for name in documents]
        more = "" if data is None else f" --data {data}"
        commands = (
            f"neurorit-rag serve --model {out / self.settings.to_serve} --index {out / 'index'}",
            f"neurorit-rag atlas plot {out / 'atlas'} --out atlas.svg",
            f"neurorit-rag demo --model {model}{more} --out {out} --resume",
        )
        named = documents if len(documents) > 1 else {"": next(iter(documents.values()))}
        close(named, answer, reports, commands)
        return {
            "out": str(out),
            "table": str(out / "table.md"),
            "reports": {name: str(path) for name, path in zip(documents, reports, strict=True)},
            "results": {name: document["results"] for name, document in documents.items()},
            "served": dict(answer),
            "seconds": self.stages.timings,
        }

    def _sections(self, section: str, *variants: str) -> dict[str, Any]:
        """What the recipe says to a stage: another recipe for another stage makes nothing anew."""
        read = Recipe(self.recipe)
        names = [section, *(f"{section}-{variant}" for variant in variants if variant)]
        return {name: read.section(name) for name in names}
