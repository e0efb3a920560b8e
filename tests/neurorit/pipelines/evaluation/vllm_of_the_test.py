"""In vLLM's place: an engine that notes each answer it finishes, a few a step and out of order.

A test puts this file as `vllm/__init__.py` before the installed package.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any


class SamplingParams:
    def __init__(self, **given: Any) -> None:
        self.given = given


class Engine:
    """What the worker uses of vLLM's engine."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str, list[int]]] = []
        self._random = random.Random(0)

    def add_request(self, number: str, prompt: dict[str, list[int]], _: SamplingParams) -> None:
        self._waiting.append((number, prompt["prompt_token_ids"]))

    def get_num_unfinished_requests(self) -> int:
        return len(self._waiting)

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting)

    def step(self) -> list[Any]:
        time.sleep(0.02)
        count = min(len(self._waiting), self._random.randrange(4))
        ended = [
            self._waiting.pop(self._random.randrange(min(16, len(self._waiting))))
            for _ in range(count)
        ]
        with open(os.environ["LEDGER"], "a", encoding="ascii") as ledger:
            ledger.writelines(f"{digest(ids)}\n" for _, ids in ended)
        return [
            SimpleNamespace(
                request_id=number,
                finished=True,
                outputs=[
                    SimpleNamespace(
                        text=f"Town{sum(ids) % 50}x0", token_ids=[1], finish_reason="stop"
                    )
                ],
            )
            for number, ids in ended
        ]


class LLM:
    def __init__(self, **_: Any) -> None:
        self.llm_engine = Engine()


def digest(ids: list[int]) -> str:
    return hashlib.sha256(str(ids).encode()).hexdigest()


def _module(name: str, **members: Any) -> None:
    module = ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


_module("vllm.sampling_params", RequestOutputKind=SimpleNamespace(FINAL_ONLY="final"))
_module("vllm.distributed")
_module("vllm.distributed.parallel_state", cleanup_dist_env_and_memory=lambda: None)
