"""Runs the real server on a checkpoint, with the word-overlap retriever; for the slow tests.

Arguments: model, port, vLLM's log, and an upstream's address, which answers in place of an own
vLLM and also plays the second system of comparisons, or NAME=DIR of adapters of the own vLLM.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from neurorit.core.errors import NeuroritError
from neurorit.serving.gateway.server import ServeSettings, serve
from tests.serving.fakes import Hit, WordRetriever
from tests.serving.tiny_llama import CONTEXT

# A question that no retriever was made for: what fails unexpectedly is logged.
BREAKS = "break the retriever"


class Breaking(WordRetriever):
    """The word-overlap retriever, but for one question."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if BREAKS in queries:
            raise RuntimeError("the retriever is broken")
        return super().search(queries, k)


if __name__ == "__main__":
    model, port, log = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    upstream = next((given for given in sys.argv[4:] if "://" in given), None)
    adapters = tuple(given for given in sys.argv[4:] if given != upstream)
    settings = ServeSettings(
        port=port,
        top_k=3,
        vllm_log=log,
        max_model_len=CONTEXT,
        max_tokens=12,
        drain_seconds=300,
        upstream=(upstream,) if upstream else (),
        base=upstream,
        adapters=adapters,
        max_adapters=3 if adapters else 0,
    )
    try:
        serve(model, lambda before: Breaking(), settings, tell=lambda text: print(text, flush=True))
    except NeuroritError as error:
        print(f"error: {error}", flush=True)
        sys.exit(error.exit_code)
