"""Asking the system for many connections, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource")
SCRIPT = """
import resource, sys
from neurorit.serving.gateway.connection_limits import allow_many
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(allow_many(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "told"),
    [(256, 1024, (896, 1024, 1024)), (1024, 1024, (896, 1024, 1024)), (100, 100, (16, 100, 100))],
)
def test_the_soft_limit_is_raised_to_the_hard_one(
    soft: int, hard: int, told: tuple[int, int, int]
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(soft), str(hard)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert tuple(map(int, output.split())) == told
