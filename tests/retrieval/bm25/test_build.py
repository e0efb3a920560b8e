"""BM25 written in bounded memory: the scores of bm25s itself, and its bounds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.retrieval.bm25.bm25 import LexicalIndex
from neurorit.retrieval.bm25.build import write_bm25
from neurorit.retrieval.bm25.words import words_of


@pytest.mark.parametrize("memory", [2_000, 200_000, 2**30])
def test_scores_are_those_of_bm25s(tmp_path: Path, memory: int) -> None:
    import bm25s

    rng = random.Random(0)
    words = [f"w{rng.randrange(10**9)}" for _ in range(500)]
    texts = [
        " ".join(rng.choice(words[: rng.choice([3, 50, 500])]) for _ in range(rng.randrange(40)))
        for _ in range(700)
    ]
    write_bm25(tmp_path, iter(texts), memory)
    made = bm25s.BM25.load(tmp_path, mmap=True, show_progress=False)
    wanted = bm25s.BM25(method="lucene", k1=1.2, b=0.75, dtype="float32")
    wanted.index(words_of(texts), show_progress=False)
    for word in sorted(made.vocab_dict):
        np.testing.assert_allclose(
            made.get_scores([word]), wanted.get_scores([word]), rtol=1e-5, atol=1e-6
        )
    assert not (tmp_path / "runs").exists()


def test_texts_without_a_word_are_found_by_none(tmp_path: Path) -> None:
    from neurorit.data.examples import Passage

    passages = [Passage("a", "", "the"), Passage("b", "", "?")]
    lexical = LexicalIndex.of(tmp_path / "index", passages, "digest")
    assert lexical.search(["the", "otter"], 2) == [[], []]


def test_the_command_makes_it_with_the_index_and_elsewhere_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "a", "text": "An otter swims."}) + "\n")
    out = tmp_path / "index"
    done = CliRunner().invoke(app, ["index", str(corpus), "--out", str(out), "--bm25", "--json"])
    assert json.loads(done.stdout)["bm25"] == str(tmp_path / "index-bm25")

    def refused(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("neurorit.retrieval.bm25.bm25.write_bm25", refused)
    # It is there, so nothing is written.
    found = CliRunner().invoke(app, ["search", str(out), "otters", "--mode", "bm25", "--json"])
    assert json.loads(found.stdout)["passages"][0]["id"] == "a"
    with pytest.raises(BadInput, match=r"Read-only file system.*index --bm25"):
        LexicalIndex.of(out, [], "another")
