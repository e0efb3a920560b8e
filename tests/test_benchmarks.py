"""Benchmarks: one that lacks its data says so and stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("place", ["", "nowhere"])
def test_without_its_data_a_benchmark_is_skipped_and_says_so(place: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NEURORIT_DATA": place}
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "real_text.py"), "--json"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["name"], found["results"], found["ratios"]) == ("real_text", [], {})
    assert ("nowhere has no corpus" if place else "NEURORIT_DATA is not set") in found["skipped"]
