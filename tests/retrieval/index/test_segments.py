"""An index of several segments: one search, any kind, changed in place, built after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index import segments
from neurorit.retrieval.index.faiss_build import make_vectors
from neurorit.retrieval.index.faiss_kinds import (
    KINDS,
    build_bytes,
    bytes_per_vector,
    lists_of,
    most_vectors,
)
from neurorit.retrieval.index.faiss_search import find, tune_effort
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.index.update import update_index
from neurorit.retrieval.retriever import Retriever, SearchSettings
from neurorit.retrieval.settings import BuildSettings

COUNT, DIMENSION = 5_000, 384
SMALL = 64 * 10**6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A corpus of made-up passages and clustered vectors for it."""
    folder = tmp_path_factory.mktemp("made")
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, DIMENSION))
    rows = centres[rng.integers(0, 60, COUNT)] + 0.6 * rng.standard_normal((COUNT, DIMENSION))
    np.save(folder / "vectors.npy", rows.astype(np.float32))
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as stream:
        for i in range(COUNT):
            stream.write(json.dumps({"id": f"p{i}", "text": f"Passage {i}.", "meta": {"i": i % 2}}))
            stream.write("\n")
    return folder / "corpus.jsonl", folder / "vectors.npy"


def built(made: tuple[Path, Path], out: Path, **settings: Any) -> Index:
    corpus, vectors = made
    # The vectors are made up, and so unlike what an encoder makes of the passages.
    settings = {"vectors": vectors, "trust_vectors": True, **settings}
    build_index(corpus, out, encoder=load_encoder(), settings=BuildSettings(**settings))
    return Index.load(out, encoder=load_encoder())


def exact(vectors: Path, queries: Any, k: int) -> list[list[str]]:
    rows = np.load(vectors)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return [[f"p{i}" for i in np.argsort(-(rows @ q), kind="stable")[:k]] for q in queries]


def ids(found: Any) -> list[list[str]]:
    return [[hit.passage.id for hit in hits] for hits in found]


@pytest.fixture(scope="module")
def queries(made: tuple[Path, Path]) -> Any:
    rows = np.load(made[1])[:: COUNT // 40]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_part_that_is_cut_shorter_when_the_disk_is_full_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 8 * 1024
    passages = [Passage(f"p{i}", "", f"t{i}") for i in range(count)]

    class Numbers:
        dimension = 2

        def __init__(self, most: int = count) -> None:
            self._most, self._given = most, 0

        def vectors(self, start: int, texts: Iterator[list[str]]) -> Iterator[Any]:
            for some in texts:
                if self._given >= self._most:
                    raise KeyboardInterrupt
                self._given += len(some)
                rows = np.array([int(text[1:]) for text in some], np.float32)
                yield np.stack([rows, np.ones_like(rows)], 1)

    def make(source: Numbers, size: int) -> list[Any]:
        settings = segments.SegmentSettings("flat", size)
        return segments.make_segments(tmp_path, iter(passages), count, source, settings)

    monkeypatch.setattr(segments, "_SYNC_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        make(Numbers(count // 2), 8192)
    note, calls = segments._note, list[Path]()

    def full(part: Path, *rest: Any) -> None:
        calls.append(part)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        note(part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(segments, "_note", full)
        with pytest.raises(OSError, match="No space"):
            make(Numbers(), 2048)
    names = [segment.name for segment in make(Numbers(), 2048)]
    lines = [
        json.loads(line)["id"]
        for name in names
        for line in (tmp_path / "segments" / name / "passages.jsonl").read_text().splitlines()
    ]
    assert lines == [passage.id for passage in passages]


def test_several_segments_find_what_one_finds(
    made: tuple[Path, Path], queries: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = built(made, tmp_path / "one")
    monkeypatch.setattr(BuildSettings, "segment", lambda self, dimension: 1024)
    many = built(made, tmp_path / "many")
    assert len(one._segments) == 1 and len(many._segments) == 5
    assert ids(many.search_vectors(queries, 10)) == exact(made[1], queries, 10)
    assert ids(one.search_vectors(queries, 10)) == exact(made[1], queries, 10)
    assert [p.id for p in many.passages] == [f"p{i}" for i in range(COUNT)]
    assert many.passages[4321].id == many.passage("p4321").id == many.passages[4321 - COUNT].id
    assert many.passages[1022:1026] == one.passages[1022:1026]
    assert "p4999" in many and "p5000" not in many
    part = Index.load(tmp_path / "many", encoder=one.encoder, segments=["00001"])
    assert [part.passages[0].id, len(part)] == ["p1024", 1024]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ivf-pq"])
def test_every_kind_reaches_its_target(
    made: tuple[Path, Path], queries: Any, tmp_path: Path, kind: str
) -> None:
    target = 0.9
    index = built(made, tmp_path / "index", kind=kind, target=target)
    record = json.loads((tmp_path / "index" / "manifest.json").read_text())["made"]["segments"][0]
    assert record["recall"] >= target
    assert (record["effort"] is None) == (kind in ("flat", "sq8"))
    wanted, got = exact(made[1], queries, 10), ids(index.search_vectors(queries, 10))
    hits = sum(len(set(a) & set(b)) for a, b in zip(wanted, got, strict=True))
    assert hits / (10 * len(queries)) >= target - 0.1
    if kind == "ivf":
        most = Index.load(tmp_path / "index", encoder=index.encoder, effort=lists_of(COUNT))
        assert ids(most.search_vectors(queries, 10)) == wanted


@pytest.mark.slow
def test_product_quantization_takes_an_eighth_of_a_byte_a_dimension(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((2_000, 32)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows.tofile(tmp_path / "rows")
    made = make_vectors("ivf-pq", tmp_path / "rows", 2_000, 32)
    effort, recall, sample = tune_effort(made, "ivf-pq", tmp_path / "rows", 2_000, 32, 0.99)
    assert (effort, sample) == (lists_of(2_000), 200)  # it cannot be reached, and says so
    assert 0.05 < recall < 0.99
    assert made.code_size == bytes_per_vector("ivf-pq", 32) - 8 == 4


def test_a_mapped_index_is_not_read_into_memory(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurorit.retrieval.index.mapped_files.SMALL", 0)
    index = built(made, tmp_path / "index")
    assert index.passages._held is None
    assert index.passages[7].id == "p7" and index.passages[-1].id == "p4999"
    assert [p.id for p in index.passages][:2] == ["p0", "p1"]
    assert index.passage("p17").text == "Passage 17."
    with pytest.raises(IndexError):
        index.passages[COUNT]


def test_passages_come_and_go_without_a_rebuild(
    made: tuple[Path, Path], queries: Any, tmp_path: Path
) -> None:
    built(made, tmp_path / "index")
    best = exact(made[1], queries[:1], 3)[0]
    (tmp_path / "ids").write_text("\n".join(best[:2]) + "\n")
    (tmp_path / "new.jsonl").write_text(
        json.dumps({"id": best[0], "text": "Otters swim in cold rivers."}) + "\n"
    )
    before = (tmp_path / "index" / "manifest.json").read_bytes()
    with pytest.raises(BadInput, match=r"new\.jsonl:1: the index has a passage"):
        update_index(tmp_path / "index", add=tmp_path / "new.jsonl")
    (tmp_path / "wrong").write_text("p1\nnobody\n")
    with pytest.raises(BadInput, match=r"wrong:2: the index has no passage 'nobody'"):
        update_index(tmp_path / "index", delete=tmp_path / "wrong")
    assert (tmp_path / "index" / "manifest.json").read_bytes() == before
    done = update_index(tmp_path / "index", add=tmp_path / "new.jsonl", delete=tmp_path / "ids")
    assert done == {"passages": COUNT - 1, "added": 1, "deleted": 2, "segments": 2}
    index = Index.load(tmp_path / "index", encoder=load_encoder())
    assert len(index) == len(list(index.passages)) == COUNT - 1
    assert ids(index.search_vectors(queries[:1], 1)) == [[best[2]]]
    assert index.search(["an otter in the river"], 1)[0][0].passage.id == best[0]
    assert index.passage(best[0]).text.startswith("Otters")
    assert best[1] not in index
    # A second deletion keeps the first one; BM25 sees the same passages.
    (tmp_path / "ids").write_text(best[2] + "\n")
    update_index(tmp_path / "index", delete=tmp_path / "ids")
    retriever = Retriever.load(tmp_path / "index", SearchSettings(mode="hybrid"))
    everything = {hit.passage.id for hit in retriever.search(["Passage"], COUNT)[0]}
    assert len(retriever) == COUNT - 2
    assert not everything & {best[1], best[2]}
    assert len(list((tmp_path / "index").glob("deleted-*"))) == 1
    with pytest.raises(BadInput, match="give add, delete"):
        update_index(tmp_path / "index")


def test_given_vectors_must_fit(made: tuple[Path, Path], tmp_path: Path) -> None:
    corpus, _ = made
    for rows, said in (
        (np.zeros((COUNT, DIMENSION), np.float32), "no direction"),
        (np.ones((COUNT, 3), np.float32), "holds 5000 x 3"),
        (np.ones((COUNT, DIMENSION), np.int64), "float32 or float16"),
    ):
        np.save(tmp_path / "v.npy", rows)
        with pytest.raises(BadInput, match=said):
            built((corpus, tmp_path / "v.npy"), tmp_path / "index")
    (tmp_path / "v.npy").write_bytes(b"no")
    with pytest.raises(BadInput, match=r"not a \.npy file"):
        built((corpus, tmp_path / "v.npy"), tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_wrong_kinds_and_sizes_name_the_option(made: tuple[Path, Path], tmp_path: Path) -> None:
    small = tmp_path / "small.jsonl"
    small.write_text('{"id": "a", "text": "x"}\n')
    for kind, said in (("tree", "one of flat"), ("ivf", "39 are needed"), ("ivf-pq", "256")):
        with pytest.raises(BadInput, match=said):
            build_index(
                small, tmp_path / "i", encoder=load_encoder(), settings=BuildSettings(kind=kind)
            )


def test_the_commands_plan_build_and_update(made: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(made[0].read_text().splitlines(keepends=True)[:60]))
    common = ["index", str(corpus), "--out", str(tmp_path / "i")]
    plan = run(*common, "--plan")
    assert plan["passages"] == 60 and not (tmp_path / "i").exists()
    assert plan["encoding_seconds"] > 0 and plan["structure_seconds"] >= 0
    made_index = run(*common, "--kind", "ivf", "--target-recall", "0.9", "--memory", "64MB")
    assert made_index["recall_at_10"] >= 0.9 and made_index["nprobe"] >= 1
    size = sum(f.stat().st_size for f in (tmp_path / "i" / "segments").rglob("*"))
    assert plan["disk_bytes"] == pytest.approx(size, rel=0.2)
    (tmp_path / "ids").write_text("p3\n")
    assert run("update", str(tmp_path / "i"), "--delete", str(tmp_path / "ids"))["passages"] == 59
    found = run("search", str(tmp_path / "i"), "Passage 3.", "--effort", "1")
    assert "p3" not in [hit["id"] for hit in found["passages"]]


def test_rows_that_are_gone_are_never_found() -> None:
    import faiss

    rows = np.eye(8, dtype=np.float32)
    flat = faiss.IndexFlatIP(8)
    flat.add(rows)
    _, found = find(flat, rows[:1], 8, None, np.array([0, 3], dtype=np.int64))
    assert {0, 3} & set(found[0].tolist()) == set()


def test_a_query_of_the_index_does_not_count_itself(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((3_000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows.tofile(tmp_path / "rows")
    made = make_vectors("ivf", tmp_path / "rows", 3_000, 16)
    effort, recall, _ = tune_effort(made, "ivf", tmp_path / "rows", 3_000, 16, 0.5)
    near = np.argsort(-(rows @ rows.T), axis=1)[:, 1:11]
    found = find(made, rows, 11, effort)[1]
    hits = [
        len(set(wanted) & set([row for row in got if row != own][:10]))
        for own, (wanted, got) in enumerate(zip(near.tolist(), found.tolist(), strict=True))
    ]
    assert recall == pytest.approx(sum(hits) / 30_000, abs=0.03)
    # Questions of one's own are taken as they are.
    asked = rows[:50] * np.float32(-1)
    _, of_asked, sample = tune_effort(
        made, "ivf", tmp_path / "rows", 3_000, 16, 0.9, np.ascontiguousarray(asked)
    )
    assert sample == 50 and of_asked >= 0.9


def test_questions_of_a_file_tune_the_search(made: tuple[Path, Path], tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(
        "".join(
            json.dumps({"id": str(i), "question": f"Passage {i}?", "answers": ["x"]}) + "\n"
            for i in range(30)
        )
    )
    built(made, tmp_path / "index", kind="ivf", target=0.9, recall_queries=asked)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert manifest["made"]["segments"][0]["sample"] == 30
    assert "recall_queries" in manifest["inputs"]
    for settings, said in (
        ({"recall_queries": asked}, "reach with target"),
        ({"recall_queries": tmp_path / "no", "target": 0.9}, "no such file"),
    ):
        with pytest.raises(BadInput, match=said):
            built(made, tmp_path / "other", kind="ivf", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_segment_fits_the_memory(kind: str) -> None:
    size = most_vectors(kind, DIMENSION, 300 * 10**6, 1024)
    assert size % 1024 == 0
    assert build_bytes(kind, size, DIMENSION) <= 300 * 10**6
    assert build_bytes(kind, size + 1024, DIMENSION) > 300 * 10**6
    assert most_vectors(kind, DIMENSION, 1, 1024) == 1024


@given(st.integers(1, 40_000), st.sampled_from([1024, 2048, 10_240]))
def test_segments_are_neither_too_large_nor_too_small(total: int, size: int) -> None:
    left, made = total, []
    while left:
        made.append(segments._count(Path("/nowhere/00000"), left, size, 4))
        left -= made[-1]
    assert sum(made) == total and max(made) <= size + 512
    assert len(made) == 1 or min(made) >= 512
