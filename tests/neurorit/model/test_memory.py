"""What is given back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Blocks of 8 MiB are freed between small ones that stay, as between what a step keeps.
FREED = """
import sys
from neurorit.model.memory import give_back_freed

def resident():
    kept = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(kept.split()[1]) / 1024

if sys.argv[1] == "given":
    give_back_freed()
bytes(31 * 2**20)
before = resident()
blocks, small = [], []
for _ in range(20):
    blocks.append(b"x" * (8 * 2**20))
    small.append(b"x" * 2**16)
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep their ways")
def test_freed_blocks_go_back_to_the_system() -> None:
    left = {}
    for how in ("given", "kept"):
        done = subprocess.run(
            [sys.executable, "-c", FREED, how], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        left[how] = float(done.stdout)
    assert left["given"] < 20 < 100 < left["kept"], left
