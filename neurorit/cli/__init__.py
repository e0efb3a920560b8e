"""The command line: a flat table of commands, their options, and nothing of what they do.

One file holds the options of one command; its body lives in `neurorit.pipelines` and is imported
when the command runs, so `--help` stays quick. stdout carries the result, stderr everything
else. Exit codes: 0 done, 1 failed, 2 wrong use or bad input, 3 a gate was missed, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from neurorit.cli.evaluation.evaluate import evaluate
from neurorit.cli.evaluation.judge import judge_app
from neurorit.cli.evaluation.report import report
from neurorit.cli.evaluation.trace import trace
from neurorit.cli.lab.demo import demo
from neurorit.cli.lab.doctor import doctor
from neurorit.cli.lab.lab import lab_app
from neurorit.cli.method.atlas import atlas_app
from neurorit.cli.method.experiment import experiment
from neurorit.cli.method.merge import merge
from neurorit.cli.method.mine import mine
from neurorit.cli.method.tune import tune
from neurorit.cli.model.model import model_app
from neurorit.cli.options import PLAIN
from neurorit.cli.retrieval.data import data_app
from neurorit.cli.retrieval.index import index
from neurorit.cli.retrieval.mix import mix
from neurorit.cli.retrieval.search import search
from neurorit.cli.retrieval.update import update
from neurorit.cli.serving.ask import ask
from neurorit.cli.serving.bench import bench_app
from neurorit.cli.serving.serve import serve
from neurorit.core import __version__
from neurorit.core.errors import NeuroritError

app = typer.Typer(
    help="Neuro-RIT: make a language model robust to noisy retrieval.",
    pretty_exceptions_enable=False,
    **PLAIN,
)

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "doctor": doctor,
    "index": index,
    "search": search,
    "update": update,
    "mix": mix,
    "mine": mine,
    "tune": tune,
    "merge": merge,
    "serve": serve,
    "ask": ask,
    "eval": evaluate,
    "experiment": experiment,
    "report": report,
    "trace": trace,
}
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
app.add_typer(atlas_app, name="atlas")
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")
app.add_typer(judge_app, name="judge")
app.add_typer(lab_app, name="lab")
app.add_typer(model_app, name="model")


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
    except OSError as error:
        # A full disk or a folder that may not be written: the machine's fault, and no bug's trace.
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{where}", err=True)
        sys.exit(1)
    except RuntimeError as error:
        # torch is not imported here only to name its error.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        typer.echo(
            f"error: the GPU's memory is full: {str(error).splitlines()[0]} Mining takes less with "
            "--memory, tuning with --set batch_size=1, gradient_checkpointing=true or shard=true; "
            "`tune --plan` says what is needed. Run the same command again to go on.",
            err=True,
        )
        sys.exit(1)
