"""BM25 in other languages than English: stems, stop words, and scripts without spaces."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.retrieval.bm25.bm25 import LexicalIndex, lexical_place
from neurorit.retrieval.bm25.words import words_of
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.settings import BuildSettings
from tests.retrieval.corpus.test_fuzz import QuickEncoder

CAPITAL = "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002"
RIVER = "\u5ddd\u3092\u6cf3\u3050\u3002"


def found(folder: Path, texts: list[str], language: str, query: str) -> list[str]:
    """Ids by BM25 in an index of that language."""
    (folder / "a.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts))
    )
    encoder, out = QuickEncoder(), folder / "index"
    settings = BuildSettings(language=language)
    build_index(folder / "a.jsonl", out, encoder=encoder, settings=settings, overwrite=True)
    index = Index.load(out, encoder=encoder)
    hits = LexicalIndex.of(out, index.passages, index.digest).search([query], 5)[0]
    return [index.passages[row].id for row, _ in hits]


def test_words_are_those_of_the_index_language(tmp_path: Path) -> None:
    texts = ["Ein Haus am Fluss.", "Die Bahn und der Zug.", "Running and the trains."]
    assert found(tmp_path, texts, "german", "H\u00e4user und der") == ["0"]
    made = json.loads((lexical_place(tmp_path / "index") / "manifest.json").read_text())
    assert (made["settings"]["stemmer"], made["settings"]["stopwords"]) == ("german", "german")
    assert found(tmp_path, texts, "english", "train") == ["2"]
    assert found(tmp_path, texts, "none", "train") == []
    assert found(tmp_path, texts, "none", "the") == ["2"], "no stop words without a language"


def test_a_script_without_spaces_is_searched_by_its_characters(tmp_path: Path) -> None:
    assert found(tmp_path, [CAPITAL, RIVER], "none", CAPITAL[6:8])[0] == "0"
    assert words_of(["NASA\u306f1958\u5e74 a x2"], "none") == [
        ["nasa", "\u306f", "1958", "\u5e74", "x2"]
    ]


def test_an_unknown_language_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "x"}\n')
    settings = BuildSettings(language="klingon")
    with pytest.raises(BadInput, match=r"language=klingon: it is one of arabic, .*none"):
        build_index(tmp_path / "a.jsonl", tmp_path / "i", encoder=QuickEncoder(), settings=settings)
