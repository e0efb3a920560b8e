"""What is given back to the system, and what is kept where there is room."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from neurorit.model import memory

# Blocks of 8 MiB are freed between small ones that stay, as between what a step keeps.
FREED = """
import sys
from neurorit.model.memory import give_back_freed, keep_freed

def resident():
    kept = next(line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(kept.split()[1]) / 1024

if sys.argv[1] != "untold":
    give_back_freed()
if sys.argv[1] == "kept":
    keep_freed()
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
    for how in ("given", "kept", "untold"):
        done = subprocess.run(
            [sys.executable, "-c", FREED, how], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        left[how] = float(done.stdout)
    assert left["given"] < 20 < 100 < min(left["kept"], left["untold"]), left


def test_freed_memory_is_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    rooms: list[int | None] = []
    monkeypatch.setattr(memory, "give_back_freed", lambda: told.append("given back"))
    monkeypatch.setattr(memory, "keep_freed", lambda: told.append("kept"))
    monkeypatch.setattr(memory, "most_resident", lambda: 100)
    monkeypatch.setattr(memory, "free_memory", lambda: rooms[-1])
    freed = memory.FreedMemory()
    # Little room; enough; less, of which some went into holes; hardly any; a system that is silent.
    for room, wanted in ((79, False), (80, True), (25, True), (19, False), (None, False)):
        rooms.append(room)
        freed.mind()
        assert freed.kept is wanted
    assert told == ["given back", "kept", "given back"]
    # Stopped work leaves nothing kept to a process that goes on.
    with pytest.raises(KeyboardInterrupt), memory.giving_back():
        memory.keep_freed()
        raise KeyboardInterrupt
    assert told[3:] == ["given back", "kept", "given back"]
