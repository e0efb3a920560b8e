"""What is told of work that takes long, where there is no terminal."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from neurorit.pipelines.progress import Reporter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_rate_and_time_left_are_of_the_work_that_runs(clock: list[float]) -> None:
    said = io.StringIO()
    report = Reporter(Console(file=said, width=80), None)
    for seconds, done, total in ((0, 10, 110), (50, 60, 110), (50, 110, 110)):
        clock[0] += seconds
        report("contexts", done, total)
    # More of the same name: what went before says nothing of it.
    clock[0] += 1000
    report("contexts", 0, 40)
    clock[0] += 40
    report("contexts", 20, 40)
    assert said.getvalue().splitlines() == [
        "  contexts: 10/110",
        "  contexts: 60/110 (1.0/s, 50 s left)",
        "  contexts: 110/110 (1.0/s)",
        "  contexts: 0/40",
        "  contexts: 20/40 (0.5/s, 40 s left)",
    ]
