"""demo: the whole job on the embedded world, from a corpus to a report, each stage for real.

Settings come from the packaged recipe, which was chosen on validation questions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import write_text
from neurorit.eval.conditions import CONDITIONS
from neurorit.eval.metrics.settings import METHOD
from neurorit.pipelines import method as tuning
from neurorit.pipelines import retrieval
from neurorit.pipelines.demo.closing import close
from neurorit.pipelines.demo.serving import ask_served
from neurorit.pipelines.evaluation.evaluate import evaluate
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.progress import reporting
from neurorit.pipelines.recipe import LAB_RECIPE
from neurorit.pipelines.stages import Stages, stages_in

SERVED = "retrobust"  # what the evidence supports best (docs/results.md)
METHODS = (METHOD, "sft", SERVED)
CAUSAL = "causal.json"
_MAX_TOKENS = 16
_CAUSAL_CONTEXTS = 150
_CAUSAL_DRAWS = 3


def demo(out: Path, questions: int, seed: int, *, resume: bool) -> dict[str, Any]:
    """Run every stage below `out` and return the report, with the stages' seconds in it."""
    with reporting() as report:
        tell = report.say
    with stages_in(out, resume=resume, tell=tell) as stages:
        return _run(stages, questions, seed)


def _run(stages: Stages, questions: int, seed: int) -> dict[str, Any]:
    from neurorit.lab import base_model_dir

    out, base = stages.out, base_model_dir()
    _data(stages, questions, seed)
    _models(stages, base, seed)
    _causal_check(stages, base, seed)
    answer = _serving(stages)
    systems = {"base": base, **{method: out / method for method in METHODS}}
    document = _evaluation(stages, systems, questions, seed)
    document["timings"] = {**document["timings"], "stages": stages.timings}
    document["served"] = answer
    _write(document, out)
    commands = (
        f"neurorit-rag serve --model {out / SERVED} --index {out / 'index'}",
        f"neurorit-rag atlas plot {out / 'atlas'} --out atlas.svg",
        f"neurorit-rag demo --out {out} --resume",
        "your own data: docs/using-your-own-data.md",
    )
    close({"": document}, answer, [out / "report.html"], commands)
    return document


def _data(stages: Stages, questions: int, seed: int) -> None:
    """world -> index -> mixed examples of the training and the test split."""
    from neurorit.lab.world import write_world

    out, world = stages.out, stages.out / "world"
    # A few questions more than asked for: some may lack enough noisy passages.
    people = questions + questions // 5
    stages.run(
        "world",
        lambda: write_world(world, seed, test=people),
        settings={"seed": seed, "test": people},
        outputs=[world],
    )
    corpus, index = world / "corpus.jsonl", out / "index"
    stages.run(
        "index",
        lambda: retrieval.index(corpus, index, "minilm", overwrite=True),
        inputs=[corpus],
        outputs=[index],
    )
    for split in ("train", "test"):
        source, made = world / f"questions-{split}.jsonl", out / f"examples-{split}"
        purpose = "eval" if split == "test" else "train"
        stages.run(
            f"mix {split}",
            partial(retrieval.mix, source, index, made, LAB_RECIPE, None, purpose, seed, True),
            inputs=[source, index, LAB_RECIPE],
            settings={"seed": seed, "for": purpose},
            outputs=[made],
        )


def _models(stages: Stages, base: Path, seed: int) -> None:
    """mine, then the method and its rivals on the same examples."""
    out, examples = stages.out, stages.out / "examples-train"
    atlas = out / "atlas"
    stages.run(
        "mine",
        lambda: tuning.mine(base, examples, atlas, LAB_RECIPE, None, seed, True),
        inputs=[base, examples, LAB_RECIPE],
        settings={"seed": seed},
        outputs=[atlas],
    )
    for method in METHODS:
        made, neurons = out / method, atlas if method == METHOD else None
        stages.run(
            f"tune {method}",
            partial(
                tuning.tune, base, examples, made, method, neurons, LAB_RECIPE, None, seed, True
            ),
            inputs=[base, examples, LAB_RECIPE, *([neurons] if neurons else [])],
            settings={"seed": seed},
            outputs=[made],
        )


def _causal_check(stages: Stages, base: Path, seed: int) -> None:
    """Silence the mined neurons of the base model, on questions that nothing learned from."""
    from neurorit.pipelines.atlas import verify

    out = stages.out
    atlas, examples, made = out / "atlas", out / "examples-test", out / CAUSAL

    def work() -> dict[str, Any]:
        found = dict(verify(atlas, base, examples, _CAUSAL_CONTEXTS, _CAUSAL_DRAWS, seed))
        write_text(made, json.dumps(found, indent=2) + "\n")
        return {"verdict": found["verdict"]}

    stages.run(
        "verify",
        work,
        inputs=[atlas, base, examples],
        settings={"seed": seed, "contexts": _CAUSAL_CONTEXTS, "draws": _CAUSAL_DRAWS},
        outputs=[made],
    )


def _serving(stages: Stages) -> dict[str, Any]:
    """Start `neurorit-rag serve` as a user would, and ask it one question of the test split."""
    out = stages.out
    model, index = out / SERVED, out / "index"
    with open(out / "world" / "questions-test.jsonl", encoding="utf-8") as stream:
        record = json.loads(stream.readline())
    return stages.run(
        "serve",
        lambda: ask_served(model, index, record, out),
        inputs=[model, index],
        settings={"tuned": model.name},
        outputs=[out / "served.json"],
    )


def _evaluation(
    stages: Stages, systems: Mapping[str, Path], questions: int, seed: int
) -> dict[str, Any]:
    from neurorit.pipelines.atlas import describe, draw

    out = stages.out
    picture = out / "atlas.svg"
    draw(out / "atlas", picture)

    def work() -> dict[str, Any]:
        with reporting() as report:
            return evaluate(
                systems,
                out / "examples-test",
                CONDITIONS,
                engine="vllm",
                judge="lab",
                max_tokens=_MAX_TOKENS,
                unended_as_wrong=True,
                limit=questions,
                sample="first",
                seed=seed,
                out=out,
                mining={
                    **describe(out / "atlas"),
                    "causal": json.loads((out / CAUSAL).read_text(encoding="utf-8")),
                },
                atlas_plot=picture,
                retention=RetentionSettings(text="lab", examples="lab", instructions=0),
                progress=report,
            ).report

    stages.run(
        "eval",
        lambda: {"questions": work()["manifest"]["questions"]},
        inputs=[*systems.values(), out / "examples-test", out / CAUSAL],
        settings={"seed": seed, "questions": questions, "conditions": CONDITIONS, "retention": 1},
        outputs=[out / "predictions.jsonl"],
    )
    document: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return document


def _write(document: Mapping[str, Any], out: Path) -> None:
    from neurorit.eval.report.write import write_report

    write_report(document, out, atlas_plot=out / "atlas.svg")
