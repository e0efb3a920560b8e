"""The command line: a flat table of commands, and nothing of what they do.

One file holds one command: its docstring is the help, its function the options. It is read when the
command is named, and the body in `neurorit.pipelines` when it runs, so `--help` stays quick. stdout
carries the result, stderr everything else. Exit codes: 0 done, 1 failed, 2 wrong use or bad input,
3 a gate was missed, 129 ended by SIGHUP, 130 interrupted, 143 ended by SIGTERM (`serve` reads keys
and index again on SIGHUP, and ends with 0 on SIGTERM).
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from neurorit.cli.options import PLAIN, App
from neurorit.core import __version__
from neurorit.core.cores import wait_asleep
from neurorit.core.errors import NeuroritError
from neurorit.model.distributed import count

_ENDING = (signal.SIGTERM, signal.SIGHUP)
# Name -> where its function, or its table of commands, is.
COMMANDS = {
    "demo": "lab.demo:demo",
    "doctor": "lab.doctor:doctor",
    "index": "retrieval.index:index",
    "search": "retrieval.search:search",
    "update": "retrieval.update:update",
    "mix": "retrieval.mix:mix",
    "mine": "method.mine:mine",
    "tune": "method.tune:tune",
    "merge": "method.merge:merge",
    "serve": "serving.serve:serve",
    "ask": "serving.ask:ask",
    "adapters": "serving.adapters:adapters_app",
    "calibrate": "serving.calibrate:calibrate",
    "eval": "evaluation.evaluate:evaluate",
    "experiment": "method.experiment:experiment",
    "report": "evaluation.report:report",
    "trace": "evaluation.trace:trace",
    "atlas": "method.atlas:atlas_app",
    "bench": "serving.bench:bench_app",
    "data": "retrieval.data:data_app",
    "judge": "evaluation.judge:judge_app",
    "lab": "lab.lab:lab_app",
    "model": "model.model:model_app",
}


class _Commands(TyperGroup):
    """The table; typer's own would read every command to show one."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        place, _, attribute = COMMANDS[cmd_name].partition(":")
        module = import_module(f"neurorit.cli.{place}")
        table = getattr(module, attribute)
        if not isinstance(table, App):
            table = App(**PLAIN)
            table.command(cmd_name, help=module.__doc__)(getattr(module, attribute))
        return get_command(table)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _help(place)) for name, place in COMMANDS.items()])


def _help(place: str) -> str:
    """The first line of the docstring of a command's file, which is not imported."""
    file = Path(__file__).parent.joinpath(*place.partition(":")[0].split(".")).with_suffix(".py")
    return file.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]


app = App(
    cls=_Commands,
    help="Neuro-RIT: make a language model robust to noisy retrieval.",
    pretty_exceptions_enable=False,
    **PLAIN,
)


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()


def disk_failure(error: Exception) -> str | None:
    """One line for what SQLite and FAISS say of a disk, in errors of their own; else None."""
    said = str(error)
    if type(error).__module__ == "sqlite3" and any(
        word in said for word in ("full", "disk I/O", "readonly", "unable to open")
    ):
        return f"a database of an index cannot be written ({said}): is the disk full?"
    if isinstance(error, RuntimeError) and "faiss" in said and "rite" in said:
        reason = said.rpartition("failed: ")[2].splitlines()[0]
        return f"vectors of an index cannot be written ({reason[:200]}): is the disk full?"
    return None


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end this process as an exit does: what it started ends with it.

    One that is ignored (`nohup`) or has a handler stays as it is, and so do both in a process of
    torchrun: while it waits for another one it runs no handler.
    """
    if count() > 1:
        return
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _ended)


def _ended(number: int, _frame: Any) -> None:
    for other in _ENDING:  # a terminal or service that ends sends both
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; every error raised on purpose becomes one line and an exit code."""
    end_on_signals()
    wait_asleep()
    for library in ("HUB", "DATASETS"):  # commands show their own progress
        os.environ.setdefault(f"HF_{library}_DISABLE_PROGRESS_BARS", "1")
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
    except Exception as error:
        # None of these libraries is imported here only to name its error.
        if (told := disk_failure(error)) is not None:
            typer.echo(f"error: {told}", err=True)
            sys.exit(1)
        if type(error).__name__ != "OutOfMemoryError":
            raise
        typer.echo(
            f"error: the GPU's memory is full: {str(error).splitlines()[0]} Mining takes less with "
            "--memory, tuning with --set batch_size=1, gradient_checkpointing=true or shard=true; "
            "`tune --plan` says what is needed. Run the same command again to go on.",
            err=True,
        )
        sys.exit(1)
