"""Fixtures: a tiny random checkpoint with its tokenizer, and examples about nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

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
