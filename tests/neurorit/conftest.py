"""Fixtures: a tiny random checkpoint with its tokenizer, and examples about nobody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retrieval.examples import Example, Passage, write_examples
from tests.serving.tiny import save_tiny_llama

WORDS = ("Karvel", "glassblower", "Mira", "Solden", "born", "works", "passages", "few")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny", layers=4)


def examples(count: int = 24) -> list[Example]:
    """Every third one without evidence."""
    made = []
    for i in range(count):
        word, other = WORDS[i % 8], WORDS[(i + 3) % 8]
        noise = Passage(f"n{i}", other, f"{other} works as a {WORDS[(i + 5) % 8]}.", "distractor")
        gold = Passage(f"g{i}", word, f"{word} was born in {WORDS[(i + 1) % 8]}.", "gold")
        passages = (noise,) if i % 3 == 0 else (noise, gold) if i % 2 else (gold, noise)
        made.append(Example(f"e{i}", f"Where was {word} born?", (WORDS[(i + 1) % 8],), passages))
    return made


@pytest.fixture(scope="session")
def examples_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "examples.jsonl"
    write_examples(path, examples())
    return path


def run_in_two_processes(code: str, *arguments: Path) -> None:
    """Run Python code as torchrun would start it, with two processes on the CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "1",
        # Sums are rounded alike only with as many threads as here.
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in running] == [0, 0]
