"""Fixtures: a tiny random checkpoint with its tokenizer, and examples about nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage
from neurorit.mining.mine import mine
from neurorit.mining.settings import MiningSettings
from tests.serving.tiny_llama import save_tiny_llama

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


@pytest.fixture(scope="session")
def atlas_dir(
    checkpoint: Path, examples_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("mined") / "atlas"
    settings = MiningSettings(
        samples=8, contexts="all", steps=10, share=0.2, resamples=5, force=True
    )
    mine(checkpoint, None, examples_path, settings, out=out)
    return out


def run_by_torchrun(code: str, *arguments: Path, processes: int = 2) -> None:
    """As `tests.forks.run_in_processes`, in new processes: what they take is theirs alone."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "work.py"
        script.write_text(code, encoding="utf-8")
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                f"--nproc-per-node={processes}", str(script), *map(str, arguments),
            ],
            env={
                **os.environ,
                "ACCELERATE_USE_CPU": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "OMP_NUM_THREADS": str(torch.get_num_threads()),
            },
            capture_output=True,
            check=False,
            text=True,
            timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
