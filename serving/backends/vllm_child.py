"""vLLM's OpenAI server as a child that does not outlive its parent; run with `python -m`.

It ends with whoever holds the other end of its standard input: no orphan holds memory or a GPU.
"""

from __future__ import annotations

import os
import runpy
import sys
from multiprocessing import spawn
from typing import Any

from neurorit.core.parent import end_with_parent
from neurorit.serving.backends.vllm_env import has_gpu

_THIS = "neurorit.serving.backends.vllm_child"
_MENDED = "NEURORIT_CPU_LORA"


def mend_loras() -> None:
    """Mend how vLLM computes LoRAs on a CPU, in this process and in all that it starts."""
    from neurorit.serving.backends import cpu_lora

    cpu_lora.install()
    os.environ[_MENDED] = "1"
    prepared = spawn.get_preparation_data

    def with_this_module(name: str) -> dict[str, Any]:
        # A process that is spawned imports its parent's main module, as `__mp_main__`.
        data = {key: value for key, value in prepared(name).items() if "init_main" not in key}
        return data | {"init_main_from_name": _THIS}

    spawn.get_preparation_data = with_this_module


if __name__ == "__mp_main__" and os.environ.get(_MENDED):
    mend_loras()

if __name__ == "__main__":
    end_with_parent()
    sys.argv[0] = "vllm"
    if "--enable-lora" in sys.argv and not has_gpu():
        mend_loras()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)
