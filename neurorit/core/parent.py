"""A child that does not outlive its parent: its standard input is a pipe of the parent's.

When the parent is gone, however it ended, the pipe ends too, and the child ends its whole group.
"""

from __future__ import annotations

import os
import signal
import threading
import time

_PATIENCE_SECONDS = 10.0


def end_with_parent() -> None:
    """Wait for the end of standard input in a thread, then end this process and its children."""
    threading.Thread(target=_wait, name="parent", daemon=True).start()


def _wait() -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(_PATIENCE_SECONDS)
    os.killpg(0, signal.SIGKILL)
