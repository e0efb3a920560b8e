"""vLLM's OpenAI server as a child that does not outlive its parent; run with `python -m`.

Its standard input is a pipe of the parent's. When the parent is gone, however it ended, the pipe
ends too, and this process ends its whole group: no orphan holds memory or a GPU.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

from neurorit.serving.backends.vllm_env import has_gpu

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


if __name__ == "__main__":
    end_with_parent()
    sys.argv[0] = "vllm"
    if "--enable-lora" in sys.argv and not has_gpu():
        from neurorit.serving.backends import cpu_lora

        cpu_lora.install()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
