"""Progress on stderr: bars on a terminal, one plain line per stage elsewhere.

stdout stays for the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_QUIET_SECONDS = 30.0
_RATED_SECONDS = 1.0


class Reporter:
    """Shows how far named pieces of work are. Call it with (what, done, total)."""

    def __init__(self, console: Console, bars: Progress | None) -> None:
        self.console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._begun: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` pieces of `what`; a new name starts a new line.

        total: 0 where nobody knows it. note: a figure to show beside it.
        """
        rate = self._rate(what, done)
        # A bar shows the time left itself.
        left = _duration((total - done) / rate) if rate and not self._bars and done < total else ""
        parts = (
            f"{rate:.{1 if rate >= 0.1 else 2}f}/s" if rate else "",
            f"{left} left" if left else "",
            note,
        )
        note = ", ".join(part for part in parts if part)
        if self._bars is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total or None, note="")
            self._bars.update(self._tasks[what], completed=done, total=total or None, note=note)
            return
        # A log is read later: a line when the work starts, ends, and every half minute between.
        now = time.monotonic()
        finished = total > 0 and done >= total
        if what not in self._told or finished or now - self._told[what] >= _QUIET_SECONDS:
            self._told[what] = now
            beside = f" ({note})" if note else ""
            whole = f"/{total}" if total else ""
            self.console.print(f"  {what}: {done}{whole}{beside}", highlight=False, markup=False)

    def _rate(self, what: str, done: int) -> float:
        """Pieces a second since the work began; what was done before is not counted.

        Work that stands at less than before has begun anew. 0 where too little is done to tell.
        """
        now = time.monotonic()
        if done < self._last.get(what, 0):
            self._begun.pop(what, None)
        self._last[what] = done
        started, before = self._begun.setdefault(what, (now, done))
        if done <= before or now - started < _RATED_SECONDS:
            return 0.0
        return (done - before) / (now - started)

    @property
    def keeps_lines(self) -> bool:
        """True on a terminal, where a name keeps its line; a changing name would add lines."""
        return self._bars is not None

    def named(self, what: str) -> NamedReporter:
        """A callable (done, total) for work that has one name."""
        return NamedReporter(self, what)

    def say(self, text: str) -> None:
        """One line for a person."""
        self.console.print(text, highlight=False, markup=False)


class NamedReporter:
    """A reporter for one piece of work. Call it with (done, total)."""

    def __init__(self, reporter: Reporter, what: str) -> None:
        self._reporter, self._what = reporter, what

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Report `done` of `total` pieces."""
        self._reporter(self._what, done, total, note)


def _duration(seconds: float) -> str:
    """40 s, 12 min or 3 h 5 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def reporting() -> Iterator[Reporter]:
    """A reporter on stderr for the time of the block."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield Reporter(console, None)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield Reporter(console, bars)
