"""demo: the whole job on the embedded world, from a corpus to a report, each stage for real.

Settings come from the packaged recipe, which was chosen on validation questions.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import write_text
from neurorit.core.errors import NeuroritError
from neurorit.eval.conditions import CONDITIONS
from neurorit.pipelines import method as tuning
from neurorit.pipelines import retrieval
from neurorit.pipelines.evaluation.evaluate import evaluate
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.progress import reporting
from neurorit.pipelines.recipe import LAB_RECIPE
from neurorit.pipelines.serving.serve import ask
from neurorit.pipelines.stages import Stages

METHODS = ("neuro-rit", "sft", "lora")
CAUSAL = "causal.json"
_START_SECONDS = 600.0
_STOP_SECONDS = 30.0
_MAX_TOKENS = 16
_CAUSAL_CONTEXTS = 150
_CAUSAL_DRAWS = 3


def demo(out: Path, questions: int, seed: int, *, resume: bool) -> dict[str, Any]:
    """Run every stage below `out` and return the report, with the stages' seconds in it."""
    with reporting() as report:
        stages = Stages(out, resume=resume, tell=report.say)
    from neurorit.lab import base_model_dir

    base = base_model_dir()
    _data(stages, questions, seed)
    _models(stages, base, seed)
    _causal_check(stages, base, seed)
    served = _serving(stages)
    systems = {"base": base, **{method: stages.out / method for method in METHODS}}
    document = _evaluation(stages, systems, questions, seed)
    document["timings"] = {**document["timings"], "stages": stages.timings}
    document["served"] = served
    _write(document, stages.out)
    _close(document, served, stages.out)
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
        made, neurons = out / method, atlas if method == "neuro-rit" else None
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
    model, index, answer = out / "neuro-rit", out / "index", out / "served.json"

    def work() -> dict[str, Any]:
        with open(out / "world" / "questions-test.jsonl", encoding="utf-8") as stream:
            record = json.loads(stream.readline())
        with _served(model, index, out / "serve.log") as url:
            found = {**ask(record["question"], url), "expected": record["answers"]}
        answer.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        return found

    return stages.run("serve", work, inputs=[model, index], outputs=[answer])


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


@contextmanager
def _served(model: Path, index: Path, log: Path) -> Iterator[str]:
    """The address of a gateway in a process of its own, for the time of the block."""
    import httpx

    from neurorit.serving.backends.vllm_server import free_port

    port = free_port()
    command = [sys.executable, "-m", "neurorit.cli", "serve", "--model", str(model)]
    command += ["--index", str(index), "--port", str(port)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if process.poll() is not None:
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                cause = lines[-1] if lines else "it said nothing"
                raise NeuroritError(f"serve ended by itself: {cause} (log: {log})")
            try:
                if httpx.get(f"{url}/ready", timeout=2.0).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if time.monotonic() > deadline:
                raise NeuroritError(f"serve was not ready in {_START_SECONDS:.0f} s (log: {log})")
            time.sleep(0.5)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _write(document: Mapping[str, Any], out: Path) -> None:
    from neurorit.eval.report.write import write_report

    write_report(document, out, atlas_plot=out / "atlas.svg")


def _close(document: Mapping[str, Any], served: Mapping[str, Any], out: Path) -> None:
    """The end of the demo on the terminal: one answer, the table, where to look, what to try."""
    from rich.console import Console

    from neurorit.eval.report.write import print_table

    console = Console(file=sys.stderr)
    console.print()
    console.print(f"asked the server: {served['question']}", markup=False, highlight=False)
    console.print(f"it answered:      {served['answer']}", markup=False, highlight=False)
    truth = " or ".join(served["expected"])
    console.print(f"the right answer: {truth}", markup=False, highlight=False)
    console.print(f"from passages on: {served['sources']}", markup=False, highlight=False)
    console.print()
    print_table(document, console)
    for line in (
        f"report: {(out / 'report.html').resolve()}",
        "next:",
        *_entered(),
        f"  neurorit-rag serve --model {out / 'neuro-rit'} --index {out / 'index'}",
        f"  neurorit-rag atlas plot {out / 'atlas'} --out atlas.svg",
        f"  neurorit-rag demo --out {out} --resume",
        "  your own data: docs/using-your-own-data.md",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _entered() -> list[str]:
    """What makes the commands below work as they stand, where they are not on the path."""
    activate = Path(sys.executable).parent / "activate"
    if shutil.which("neurorit-rag") is not None or not activate.is_file():
        return []
    return [f"  source {os.path.relpath(activate)}"]
