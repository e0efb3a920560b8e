"""The end of a gateway's process: libraries in C have no last word."""

from __future__ import annotations

import subprocess
import sys


def test_what_libraries_write_at_the_very_end_is_not_seen() -> None:
    program = """
import atexit, os, sys
from neurorit.pipelines.serving.serve import end_quietly

class Leaking:
    def __del__(self, write=os.write):
        write(2, b"leaked 17 functions\\n")

atexit.register(end_quietly)
sys.leaking = Leaking()
print("the last word", file=sys.stderr)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stderr == "the last word\n"
