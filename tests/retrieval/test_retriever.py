"""Search: BM25, fusion, filters and reranking over one small index, with the real encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.retrieval.bm25.bm25 import LexicalIndex
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import Hit, Index, build_index
from neurorit.retrieval.ranking_metrics import ranking_figures
from neurorit.retrieval.retriever import Retriever, SearchSettings

PASSAGES = [
    ("a", "Otters", "The otter swims in cold rivers and eats fish.", {"lang": "en", "year": 1}),
    ("b", "Bridges", "An arch bridge carries its load to both banks.", {"lang": "en", "year": 2}),
    ("c", "Zirkonium", "The part number XK-4471 fits the pump.", {"lang": "de", "year": 1}),
    ("d", "Fish", "Trout live in cold rivers, as do salmon.", {"lang": "de", "year": 2}),
    ("e", "", "Bread is baked from flour, water and yeast.", {}),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    corpus = folder / "corpus.jsonl"
    corpus.write_text(
        "".join(
            json.dumps({"id": i, "title": title, "text": text, "meta": meta}) + "\n"
            for i, title, text, meta in PASSAGES
        )
    )
    build_index(corpus, folder / "index", encoder=load_encoder())
    return folder / "index"


@pytest.fixture(scope="module")
def loaded(place: Path) -> Index:
    return Index.load(place, encoder=load_encoder())


def retriever(loaded: Index, place: Path, **settings: Any) -> Retriever:
    return Retriever(loaded, SearchSettings(**settings), place)


def ids(hits: list[Hit]) -> list[str]:
    return [hit.passage.id for hit in hits]


def test_bm25_finds_the_rare_word_and_dense_the_meaning(loaded: Index, place: Path) -> None:
    lexical = retriever(loaded, place, mode="bm25")
    assert ids(lexical.search(["XK 4471 pump"], 3)[0]) == ["c"]
    dense = retriever(loaded, place)
    assert ids(dense.search(["How do I make a loaf?"], 1)[0]) == ["e"]
    assert lexical.search(["qwertz"], 3) == [[]]
    assert lexical.search([], 3) == []
    # Word forms are one word: "river" stands only as "rivers".
    assert set(ids(lexical.search(["a river"], 5)[0])) == {"a", "d"}


def test_hybrid_fuses_by_reciprocal_ranks(loaded: Index, place: Path) -> None:
    settings: dict[str, Any] = {"fusion": "ranks", "rrf": 10.0, "dense_weight": 0.25}
    both = retriever(loaded, place, mode="hybrid", **settings)
    hits = both.search(["cold rivers with trout"], 5)[0]
    assert hits[0].passage.id == "d"
    for hit in hits:
        weights = {"dense": 0.25, "bm25": 0.75}
        wanted = sum(weights[part] / (10.0 + rank) for part, rank in hit.ranks.items())
        assert hit.score == pytest.approx(wanted)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert "bm25" not in hits[-1].ranks


def test_hybrid_fuses_scores_with_bm25_as_shares_of_its_best(loaded: Index, place: Path) -> None:
    query = "cold rivers with trout"
    dense = retriever(loaded, place).search([query], 5)[0]
    lexical = retriever(loaded, place, mode="bm25").search([query], 5)[0]
    both = retriever(loaded, place, mode="hybrid", dense_weight=0.6).search([query], 5)[0]
    wanted = {hit.passage.id: 0.6 * hit.score for hit in dense}
    for hit in lexical:
        wanted[hit.passage.id] += 0.4 * hit.score / lexical[0].score
    assert {hit.passage.id: hit.score for hit in both} == pytest.approx(wanted)
    # Of a list that was cut off, the last one is where all others begin.
    cut = retriever(loaded, place, mode="hybrid", dense_weight=1.0, depth=2).search([query], 2)[0]
    assert [hit.score for hit in cut] == pytest.approx([dense[0].score - dense[1].score, 0.0])


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_filters_hold_in_every_mode(loaded: Index, place: Path, mode: str) -> None:
    filtered = retriever(loaded, place, mode=mode, filters={"lang": "de", "year": "2"})
    for query in ("cold rivers", "trout", "An arch bridge"):
        assert set(ids(filtered.search([query], 5)[0])) <= {"d"}
    assert ids(filtered.search(["trout"], 1)[0]) == ["d"]
    with pytest.raises(BadInput, match="lang=fr"):
        retriever(loaded, place, mode=mode, filters={"lang": "fr"})


def test_a_cross_encoder_has_the_last_word(
    loaded: Index, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ByLength:
        def predict(self, pairs: list[tuple[str, str]], **_: Any) -> list[float]:
            return [-float(len(text)) for _, text in pairs]

    monkeypatch.setattr("neurorit.retrieval.retriever.load_cross_encoder", lambda name: ByLength())
    hits = retriever(loaded, place, mode="hybrid", rerank="x").search(["cold rivers"], 5)[0]
    lengths = [len(f"{hit.passage.title}: {hit.passage.text}") for hit in hits]
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert len(lengths) == 5 and hits[0].ranks


def test_a_bad_cross_encoder_is_named(loaded: Index, place: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="rerank="):
        retriever(loaded, place, rerank=str(tmp_path))


def test_the_bm25_artifact_follows_its_index(tmp_path: Path) -> None:
    corpus, index = tmp_path / "corpus.jsonl", tmp_path / "index"
    for text in ("one fish", "two birds"):
        corpus.write_text(json.dumps({"id": "1", "text": text}) + "\n")
        build_index(corpus, index, encoder=load_encoder(), overwrite=True)
        made = Index.load(index, encoder=load_encoder())
        lexical = LexicalIndex.of(index, made.passages, made.digest)
        word = text.split()[1]
        assert lexical.search([word], 1)[0][0][0] == 0
        before = (tmp_path / "index-bm25" / "manifest.json").stat().st_mtime_ns
        LexicalIndex.of(index, made.passages, made.digest)
        assert (tmp_path / "index-bm25" / "manifest.json").stat().st_mtime_ns == before
    assert lexical.search(["fish"], 1) == [[]]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "sparsely"}, "mode"),
        ({"depth": 0}, "depth"),
        ({"dense_weight": 2.0}, "weight"),
        ({"fusion": "sum"}, "fusion"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SearchSettings(**settings)


def test_the_command_shows_passages_and_measures(place: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(app, ["search", str(place), "pump part", "--mode", "bm25", "--json"])
    assert json.loads(done.stdout)["passages"][0]["id"] == "c"
    asked = tmp_path / "questions.jsonl"
    asked.write_text(
        "".join(
            json.dumps({"id": str(i), "question": q, "answers": ["x"], "gold": gold}) + "\n"
            for i, (q, gold) in enumerate(
                [("trout", ["d"]), ("otter", ["a"]), ("yeast", ["a"]), ("arch", [])]
            )
        )
    )
    rankings = tmp_path / "rankings.jsonl"
    command = ["search", str(place), "--questions", str(asked), "--mode", "bm25", "--json"]
    done = runner.invoke(app, [*command, "--out", str(rankings)])
    result = json.loads(done.stdout)
    assert (result["questions"], result["unscored"]) == (3, 1)
    assert result["recall@1"] == pytest.approx(2 / 3)
    assert len(rankings.read_text().splitlines()) == 4
    assert "gold not in the index" not in result
    other = {"id": "1", "question": "trout", "answers": ["x"], "gold": ["d", "z"]}
    asked.write_text(json.dumps(other))
    assert json.loads(runner.invoke(app, command).stdout)["gold not in the index"] == 1
    asked.write_text(json.dumps(other | {"gold": ["D", "z"]}))
    with pytest.raises(BadInput, match=r"none of their 2 gold ids .* as 'D'; .* such as 'a'"):
        raise runner.invoke(app, command).exception or AssertionError
    wrong = runner.invoke(app, ["search", str(place), "x", "--filter", "lang"])
    assert isinstance(wrong.exception, BadInput)
    neither = runner.invoke(app, ["search", str(place)])
    assert isinstance(neither.exception, BadInput)


@given(st.permutations([str(i) for i in range(12)]), st.sets(st.sampled_from("01234567")))
def test_ranking_figures_are_what_their_definitions_say(ranked: list[str], gold: set[str]) -> None:
    figures = ranking_figures({"q": ranked}, {"q": gold})
    assert figures["unscored"] == (0 if gold else 1)
    for k in (1, 5, 10):
        held = set(ranked[:k]) & gold
        assert figures[f"recall@{k}"] == (len(held) / len(gold) if gold else None)
        assert figures[f"success@{k}"] == (float(bool(held)) if gold else None)
    best = sorted(ranked, key=lambda one: one not in gold)
    ideal = ranking_figures({"q": best}, {"q": gold})["ndcg@10"]
    assert ideal == (pytest.approx(1.0) if gold else None)
    if gold:
        assert 0.0 <= (figures["ndcg@10"] or 0.0) <= 1.0 + 1e-12


def test_a_variant_shares_what_is_loaded_and_keeps_the_filters(loaded: Index, place: Path) -> None:
    both = retriever(loaded, place, mode="hybrid", filters={"lang": "de"})
    lexical = both.variant("bm25", {"lang": "en", "year": "1"})
    assert lexical.index is both.index
    # Its own filter cannot be asked away.
    assert ids(lexical.search(["XK 4471 pump"], 5)[0]) == ["c"]
    assert ids(both.variant(filters={"year": "2"}).search(["cold rivers"], 5)[0]) == ["d"]
    assert both.search(["pump"], 1)[0][0].ranks.keys() == {"dense", "bm25"}
    assert both.variant("dense").search(["pump"], 1)[0][0].ranks.keys() == {"dense"}
    with pytest.raises(BadInput, match="--retriever hybrid"):
        retriever(loaded, place).variant("bm25")


def test_its_passages_are_those_that_its_filters_allow(loaded: Index, place: Path) -> None:
    assert [p.id for p in retriever(loaded, place).passages] == ["a", "b", "c", "d", "e"]
    german = retriever(loaded, place).variant(filters={"lang": "de"})
    assert [p.id for p in german.passages] == ["c", "d"]
    assert [p.id for p in german.passages[1:]] == ["d"]
    with pytest.raises(IndexError):
        german.passages[2]
