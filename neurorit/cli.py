"""The command line: a flat table of commands, their options, and nothing of what they do.

Bodies live in `neurorit.commands` and are imported when a command runs, so `--help` stays quick.
stdout carries the result, stderr everything else. Exit codes: 0 done, 1 failed, 2 wrong use or bad
input, 3 a gate was missed, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from neurorit import __version__
from neurorit.cli_groups import atlas_app, data_app, lab_app
from neurorit.options import (
    PLAIN,
    Assign,
    Examples,
    IndexDir,
    Json,
    Model,
    Out,
    Overwrite,
    RecipeFile,
    Seed,
    run,
)
from retrieval.errors import NeuroritError

app = typer.Typer(
    help="Neuro-RIT: make a language model robust to noisy retrieval.",
    pretty_exceptions_enable=False,
    **PLAIN,
)


def index(
    corpus: Annotated[Path, typer.Argument(help='JSONL of {"id", "title", "text"}.')],
    out: Out,
    encoder: Annotated[str, typer.Option(help="minilm, a folder, or a Hugging Face name.")] = (
        "minilm"
    ),
    batch_size: Annotated[int, typer.Option(min=1, help="Passages encoded at once.")] = 64,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Build a FAISS index over a corpus."""
    from neurorit.commands import pipeline

    run(lambda: pipeline.index(corpus, out, encoder, batch_size, overwrite), as_json)


def mix(
    questions: Annotated[Path, typer.Argument(help='JSONL of {"id", "question", "answers"}.')],
    index_dir: IndexDir,
    out: Out,
    purpose: Annotated[
        str, typer.Option("--for", help="train, or eval: pools for every noise condition.")
    ] = "train",
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Mix questions with gold and noisy passages into typed examples."""
    from neurorit.commands import pipeline

    run(
        lambda: pipeline.mix(questions, index_dir, out, recipe, settings, purpose, seed, overwrite),
        as_json,
    )


def mine(
    model: Model,
    examples: Annotated[
        Path,
        typer.Option("--examples", "--data", help="What `mix` wrote, or an examples JSONL file."),
    ],
    out: Out,
    method: Annotated[
        str | None,
        typer.Option(help="integrated-gradients, gradient-activation, activation, ..."),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="first-token, answer-span or log-prob.")
    ] = None,
    irrelevant_target: Annotated[
        str | None, typer.Option(help="own-answer (when misled) or gold.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Budget for activations, such as 2GiB.")
    ] = None,
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Mine the neurons that serve and that follow noise, into an atlas."""
    from neurorit.commands import pipeline

    options = {
        "method": method,
        "objective": objective,
        "irrelevant_target": irrelevant_target,
        "memory": memory,
    }
    run(
        lambda: pipeline.mine(
            model, examples, out, recipe, settings, seed, overwrite, options=options
        ),
        as_json,
    )


def tune(
    model: Model,
    examples: Examples,
    out: Out,
    method: Annotated[
        str, typer.Option(help="neuro-rit; sft, lora, retrobust; or a control: see docs/method.md.")
    ] = "neuro-rit",
    atlas: Annotated[
        Path | None, typer.Option(help="What `mine` wrote; mined beside --out when not given.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Also write what changed, alone, to this directory.")
    ] = None,
    verify: Annotated[
        int, typer.Option(min=0, help="Prompts to answer by vLLM and Hugging Face afterwards.")
    ] = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what it would need: memory, steps, time.")
    ] = False,
    recipe: RecipeFile = None,
    settings: Assign = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Tune a model in two stages (or by a baseline) and write a plain checkpoint."""
    from neurorit.commands import pipeline

    if plan:
        run(
            lambda: pipeline.plan(model, examples, method, atlas, recipe, settings),
            as_json,
        )
        return
    run(
        lambda: pipeline.tune(
            model,
            examples,
            out,
            method,
            atlas,
            recipe,
            settings,
            seed,
            overwrite,
            adapter=adapter,
            verify=verify,
        ),
        as_json,
    )


def merge(
    model: Model,
    adapter: Annotated[Path, typer.Option(help="What `tune --adapter` wrote.")],
    out: Out,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Put an adapter into its base model and write the plain checkpoint."""
    from neurorit.commands import pipeline

    run(lambda: pipeline.merge(model, adapter, out, overwrite), as_json)


def serve(
    model: Model,
    index_dir: IndexDir,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    policy: Annotated[
        str, typer.Option(help="When the model abstains: abstain, closed-book or deeper.")
    ] = "abstain",
    top_k: Annotated[int, typer.Option(min=1, help="Passages for each question.")] = 5,
    max_model_len: Annotated[
        int | None, typer.Option(help="Tokens of prompt and answer together.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name for clients; its folder's by default.")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="Keys that clients must send, one a line.")
    ] = None,
    vllm_arg: Annotated[
        list[str] | None, typer.Option(help="A flag for vLLM itself; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start vLLM and the gateway with its web page; Ctrl-C ends both."""
    from neurorit.commands import serve as body

    run(
        lambda: body.serve(
            model,
            index_dir,
            host=host,
            port=port,
            policy=policy,
            top_k=top_k,
            max_model_len=max_model_len,
            served_name=name,
            api_key_file=api_key_file,
            vllm_args=tuple(vllm_arg or ()),
        ),
        as_json,
    )


def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    url: Annotated[str, typer.Option(help="Address of a running gateway.")] = (
        "http://127.0.0.1:8000"
    ),
    as_json: Json = False,
) -> None:
    """Ask a running gateway one question."""
    from neurorit.commands import serve as body

    run(lambda: body.ask(question, url), as_json)


def evaluate(
    system: Annotated[
        list[str], typer.Option(metavar="NAME=DIR", help="A checkpoint to evaluate; repeatable.")
    ],
    examples: Examples,
    out: Out,
    condition: Annotated[
        list[str] | None, typer.Option(help="A condition, such as distractor-2; repeatable.")
    ] = None,
    judge: Annotated[str, typer.Option(help="lab, none, or a judge's folder.")] = "none",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 24,
    seed: Seed = 0,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM:CONDITION:METRIC=VALUE", help="Exit 3 when below; repeatable."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer questions under noise with each system; write report.json and report.html."""
    from neurorit.commands import evaluate as body

    run(
        lambda: body.evaluate(
            system, examples, out, condition, judge, limit, max_tokens, seed, fail_under
        ),
        as_json,
    )


def report(
    directory: Annotated[Path, typer.Argument(help="Where `eval` or `demo` wrote its report.")],
    as_json: Json = False,
) -> None:
    """Show a finished report's table again."""
    from neurorit.commands import evaluate as body

    run(lambda: body.show_report(directory), as_json)


def demo(
    out: Annotated[Path, typer.Option(help="Directory of the run.")] = Path("runs/demo"),
    questions: Annotated[int, typer.Option(min=20, help="Test questions.")] = 500,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option(help="Keep stages whose inputs are the same.")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole job on the embedded world, from a corpus to a report."""
    from neurorit.commands import demo as body

    run(lambda: body.demo(out, questions, seed, resume=resume), as_json)


def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, what is missing and how to mend it."""
    from neurorit.commands import doctor as body

    run(lambda: body.examine(Path.cwd()), as_json, show=body.show)


def experiment(
    file: Annotated[Path, typer.Argument(help="YAML: what is tuned, how, and on what measured.")],
    out: Annotated[Path, typer.Option(help="Directory to write; goes on from what is there.")],
    as_json: Json = False,
) -> None:
    """Tune and evaluate methods x seeds; one table with intervals over seeds."""
    from neurorit.commands import experiment as body

    run(lambda: body.run(file, out), as_json)


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "doctor": doctor,
    "index": index,
    "mix": mix,
    "mine": mine,
    "tune": tune,
    "merge": merge,
    "serve": serve,
    "ask": ask,
    "eval": evaluate,
    "experiment": experiment,
    "report": report,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(atlas_app, name="atlas")
app.add_typer(data_app, name="data")
app.add_typer(lab_app, name="lab")


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """Run the command line; every error raised on purpose becomes one line and an exit code."""
    try:
        app()
    except NeuroritError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
