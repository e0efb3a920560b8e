"""The end of a demonstration on the terminal: one answer, the table, where to look, what to try."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from neurorit.eval.report.findings import told_of
from neurorit.eval.report.write import print_table


def close(
    documents: Mapping[str, Mapping[str, Any]],
    served: Mapping[str, Any],
    reports: Sequence[Path],
    commands: Sequence[str],
) -> None:
    """Show what was answered, every report's table, where the reports are and what to run next.

    documents: name of a set of questions ("" for the only one) -> its report. served: what
    `ask_served` gave.
    """
    console = Console(file=sys.stderr)

    def say(line: str = "") -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    say()
    say(f"served:           {told_of(served['tuned'])}")
    say(f"asked the server: {served['question']}")
    say(f"it answered:      {served['answer']}")
    say(f"the right answer: {' or '.join(served['expected'])}")
    say(f"from passages on: {served['sources']}")
    for name, document in documents.items():
        say()
        if name:
            say(f"{name}:")
        print_table(document, console)
    for report in reports:
        say(f"report: {report.resolve()}")
    say("next:")
    for line in (*_entered(), *commands):
        say(f"  {line}")


def _entered() -> list[str]:
    """What makes the commands below work as they stand, where they are not on the path."""
    activate = Path(sys.executable).parent / "activate"
    if shutil.which("neurorit-rag") is not None or not activate.is_file():
        return []
    return [f"source {os.path.relpath(activate)}"]
