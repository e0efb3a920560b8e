"""Corpus and index: what is read, refused, found, and never left half-made."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurorit.core.errors import ArtifactError, BadInput
from neurorit.data.example_files import read_examples
from neurorit.retrieval.corpus.reader import read_corpus
from neurorit.retrieval.encoders.load import SentenceEncoder, load_encoder
from neurorit.retrieval.index.index import Index, build_index


def lines(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "corpus.jsonl"
    text = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


GOOD = {"id": "a", "title": "Mira", "text": "Mira lives in Karvel."}


def test_reads_own_and_flashrag_records(tmp_path: Path) -> None:
    path = lines(tmp_path, GOOD, {"id": 7, "contents": '"Tobin"\nTobin bakes.'}, "")
    first, second = read_corpus(path)
    assert (first.id, first.title, first.text) == ("a", "Mira", "Mira lives in Karvel.")
    assert (second.id, second.title, second.text) == ("7", "Tobin", "Tobin bakes.")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a passage"),
        ("[]", "no JSON object"),
        ('{"id": "b"}', "'text'"),
        ('{"id": null, "text": "x"}', "'id'"),
        ('{"id": "b", "text": "  "}', "'text'"),
        ('{"id": "b", "text": "x", "title": 4}', "'title'"),
        ('{"id": true, "text": "x"}', "'id'"),
        (json.dumps(GOOD), "used in line 1"),
        ("[" * 5000, "not a passage"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(tmp_path: Path, line: str, said: str) -> None:
    path = lines(tmp_path, GOOD, line)
    out = tmp_path / "index"
    with pytest.raises(BadInput, match=r"corpus\.jsonl:2: ") as caught:
        build_index(path, out)
    assert said in str(caught.value) and "skip_bad=True" in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl"]


def test_invalid_utf8_names_its_line(tmp_path: Path) -> None:
    path = lines(tmp_path, GOOD)
    path.write_bytes(path.read_bytes() + b'{"id": "b", "text": "\xff"}\n')
    with pytest.raises(BadInput, match=r"corpus\.jsonl:2"):
        list(read_corpus(path))


def test_empty_and_missing_corpora_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no passage"):
        list(read_corpus(lines(tmp_path, "")))
    with pytest.raises(BadInput, match="no such file"):
        list(read_corpus(tmp_path / "absent.jsonl"))


def test_search_equals_a_search_by_hand(index: Index) -> None:
    queries = [p.text for p in index.passages[:5]]
    encoder = load_encoder()
    texts = [f"{p.title}: {p.text}" for p in index.passages]
    scores = encoder.encode_queries(queries) @ encoder.encode_passages(texts).T
    for row, hits in enumerate(index.search(queries, 4)):
        wanted = np.sort(scores[row])[::-1][:4]
        np.testing.assert_allclose([hit.score for hit in hits], wanted, atol=1e-5)
        assert [hit.rank for hit in hits] == [1, 2, 3, 4]


def test_gold_passages_are_found(index: Index, world: Mapping[str, Path]) -> None:
    questions = list(read_examples(world["test"]))
    found = index.search([q.question for q in questions], 5)
    hit = [q.meta["gold"][0] in {h.passage.id for h in hs} for q, hs in zip(questions, found)]  # noqa: B905
    assert sum(hit) >= 0.9 * len(hit)


def test_asking_for_more_than_there_is(index: Index) -> None:
    (hits,) = index.search(["who?"], 10_000)
    assert len(hits) == len(index)
    assert index.search([], 3) == []
    with pytest.raises(BadInput, match="k must be"):
        index.search(["who?"], 0)


def test_building_twice_gives_the_same_bytes(
    tmp_path: Path, index_dir: Path, world: Mapping[str, Path]
) -> None:
    build_index(world["corpus"], tmp_path / "again")
    for name in ("passages.jsonl", "vectors.faiss", "offsets.npy", "ids.npy"):
        inside = f"segments/00000/{name}"
        assert (tmp_path / "again" / inside).read_bytes() == (index_dir / inside).read_bytes()


def test_an_existing_index_is_replaced_only_on_request(tmp_path: Path) -> None:
    corpus, out = lines(tmp_path, GOOD), tmp_path / "index"
    build_index(corpus, out)
    with pytest.raises(BadInput, match="overwrite=True"):
        build_index(corpus, out)
    build_index(corpus, out, overwrite=True)
    assert len(Index.load(out)) == 1


def test_a_changed_index_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "index"
    build_index(lines(tmp_path, GOOD), out)
    passages = out / "segments" / "00000" / "passages.jsonl"
    passages.write_text(passages.read_text().replace("Karvel", "Dornum"))
    with pytest.raises(ArtifactError, match="was changed"):
        Index.load(out)
    passages.unlink()
    with pytest.raises(ArtifactError, match="lacks its file"):
        Index.load(out)


def test_another_encoder_is_refused(index_dir: Path) -> None:
    model = copy.deepcopy(load_encoder()._model)
    model.max_seq_length = 7
    encoder = SentenceEncoder("minilm", model)
    with pytest.raises(ArtifactError, match="another encoder"):
        Index.load(index_dir, encoder=encoder)


def test_an_unknown_encoder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "no-encoder"
    folder.mkdir()
    with pytest.raises(BadInput, match=r"encoder=.*no-encoder"):
        load_encoder(str(folder))
