"""Sparse search: the library's own inner products, builds that are stopped, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.encoders.sparse import SparseEncoder
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.index.segments import passage_text
from neurorit.retrieval.retriever import Retriever, SearchSettings
from neurorit.retrieval.sparse import build
from neurorit.retrieval.sparse.build import sparse_place, write_sparse
from tests.retrieval.counting_encoder import CountingEncoder

WORDS = [
    "river",
    "bridge",
    "mill",
    "castle",
    "painter",
    "winter",
    "bell",
    "iron",
    "glass",
    "violin",
]


def make_model(folder: Path, seed: int = 0) -> Path:
    """SPLADE's form on a masked language model of nine words whose weights are random."""
    from sentence_transformers import SparseEncoder as Model
    from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    tokenizer.save_pretrained(folder / "bert")
    BertForMaskedLM(config).save_pretrained(folder / "bert")
    body = MLMTransformer(str(folder / "bert"))
    Model(modules=[body, SpladePooling()]).save_pretrained(str(folder / "splade"))
    return folder / "splade"


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "a")


def passages(count: int = 40) -> list[Passage]:
    rng = np.random.default_rng(7)
    texts = [" ".join(rng.choice(WORDS, 6)) for _ in range(count)]
    return [
        Passage(f"p{i}", f"Title {i}", text, meta={"half": str(i % 2)})
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    records = [
        {"id": p.id, "title": p.title, "text": p.text, "meta": dict(p.meta)} for p in passages()
    ]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return build_index(passages(), tmp_path / "index", encoder=CountingEncoder())  # type: ignore[arg-type]


def searching(index: Index, **settings: Any) -> Retriever:
    assert index.directory is not None
    return Retriever(index, SearchSettings(mode="sparse", **settings), index.directory)


def products(splade: Path, index: Index, query: str) -> Any:
    """Inner products of all passages, by the library alone."""
    from sentence_transformers import SparseEncoder as Model

    model = Model(str(splade))
    vectors = model.encode_document([passage_text(p) for p in index.passages])
    return model.similarity(model.encode_query([query]), vectors)[0].numpy()


def test_ranks_by_the_librarys_inner_products(splade: Path, index: Index, tmp_path: Path) -> None:
    encoder = SparseEncoder.load(str(splade))
    made = write_sparse(tmp_path / "index", index.passages, index.digest, encoder)
    assert made["words_a_passage"] > 1
    assert not list(tmp_path.glob(".*"))
    assert sorted(p.name for p in sparse_place(tmp_path / "index").iterdir()) == [
        "manifest.json", "rows.npy", "starts.npy", "weights.npy",
    ]  # fmt: skip
    found = searching(index)
    for query in ("river castle", "violin", "painter bell iron"):
        scores = products(splade, index, query)
        hits = found.search(query, 10)
        order = np.lexsort((np.arange(len(scores)), -scores))[:10]
        np.testing.assert_allclose([hit.score for hit in hits], scores[order], rtol=1e-4)
        for hit in hits:
            row = int(hit.passage.id.removeprefix("p"))
            assert hit.score == pytest.approx(scores[row], rel=1e-4)
            assert hit.ranks == {"sparse": hit.rank}
    only = searching(index, filters={"half": "1"}).search("river castle", 50)
    assert {hit.passage.id for hit in only} <= {f"p{i}" for i in range(1, 40, 2)}
    assert only


def test_what_is_no_artifact_is_not_replaced(splade: Path, index: Index, tmp_path: Path) -> None:
    place = sparse_place(tmp_path / "index")
    place.mkdir()
    (place / "notes").write_text("somebody's")
    with pytest.raises(BadInput, match="index-sparse is no artifact"):
        write_sparse(
            tmp_path / "index", index.passages, index.digest, SparseEncoder.load(str(splade))
        )
    assert [path.name for path in place.iterdir()] == ["notes"]


def test_a_build_that_was_stopped_goes_on(
    splade: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_PART", 8)
    place = tmp_path / "index"
    encoder = SparseEncoder.load(str(splade))
    write_sparse(place, index.passages, index.digest, encoder)
    whole = {p.name: p.read_bytes() for p in sparse_place(place).glob("*.npy")}

    def stopped(done: int, total: int) -> None:
        assert total == 40
        if done == 24:
            raise KeyboardInterrupt

    asked: list[int] = []
    encode = SparseEncoder.encode_passages
    monkeypatch.setattr(
        SparseEncoder,
        "encode_passages",
        lambda self, texts: asked.append(len(texts)) or encode(self, texts),  # type: ignore[func-returns-value]
    )
    with pytest.raises(KeyboardInterrupt):
        write_sparse(place, index.passages, index.digest, encoder, progress=stopped)
    assert {p.name: p.read_bytes() for p in sparse_place(place).glob("*.npy")} == whole
    other = SparseEncoder.load(str(make_model(tmp_path / "b", seed=1)))
    with pytest.raises(BadInput, match="unfinished build that differs in: sparse"):
        write_sparse(place, index.passages, index.digest, other)
    write_sparse(place, index.passages, index.digest, encoder)
    assert asked == [8] * 5
    assert {p.name: p.read_bytes() for p in sparse_place(place).glob("*.npy")} == whole


def test_a_part_is_on_disk_before_it_has_its_name(
    splade: Path, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_PART", 8)
    synced, sync = list[str](), os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    encoder = SparseEncoder.load(str(splade))
    write_sparse(tmp_path / "index", index.passages, index.digest, encoder)
    assert [name for name in synced if name.endswith(".writing")] == [
        f"{start:012d}.writing" for start in range(0, 40, 8)
    ]


def test_what_was_begun_for_the_index_before_stands_in_no_way(
    splade: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "index"
    run("index", str(corpus), "--out", str(place))
    encode = SparseEncoder.encode_passages

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(SparseEncoder, "encode_passages", stopped)
    ended = CliRunner().invoke(app, ["update", str(place), "--sparse", str(splade)])
    assert ended.exit_code != 0 and list(tmp_path.glob(".index*/journal.json"))
    monkeypatch.setattr(SparseEncoder, "encode_passages", encode)
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "text": "river bell"}\n')
    run("update", str(place), "--add", str(more))
    run("update", str(place), "--sparse", str(splade))
    assert run("search", str(place), "river bell", "--mode", "sparse")["passages"]


def test_commands_make_it_search_it_and_refuse_what_is_stale(
    splade: Path, corpus: Path, tmp_path: Path
) -> None:
    place = tmp_path / "index"
    refused = CliRunner().invoke(
        app, ["index", str(corpus), "--out", str(place), "--sparse", str(tmp_path)]
    )
    assert "no sparse encoder could be loaded" in str(refused.exception)
    assert not place.exists()
    made = run("index", str(corpus), "--out", str(place), "--sparse", str(splade))
    assert made["sparse"] == str(sparse_place(place))
    command = ["search", str(place), "river castle", "--mode", "sparse"]
    found = run(*command)["passages"]
    scores = products(splade, Index.load(place), "river castle")
    best = sorted(scores)[::-1][: len(found)]
    assert [p["score"] for p in found] == pytest.approx(best, rel=1e-3)

    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "title": "", "text": "river castle castle"}\n')
    run("update", str(place), "--add", str(more))
    refused = CliRunner().invoke(app, command)
    assert "as it was before" in str(refused.exception)
    assert f"update {place} --sparse MODEL" in str(refused.exception)
    run("update", str(place), "--sparse", str(splade))
    assert "new" in [p["id"] for p in run(*command, "--top-k", "50")["passages"]]
    # The folder of the encoder now holds another one.
    manifest = sparse_place(place) / "manifest.json"
    document = json.loads(manifest.read_text())
    document["made"]["fingerprint"] = "another"
    manifest.write_text(json.dumps(document))
    refused = CliRunner().invoke(app, command)
    assert "another encoder" in str(refused.exception)
    with pytest.raises(BadInput, match=r"sparse is not loaded here.*--retriever sparse"):
        Retriever.load(place).variant("sparse")


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found
