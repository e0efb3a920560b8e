"""Updates: small additions, deletions by a field, a kill on the way, segments joined."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurorit.core.artifact import Manifest, hash_file, read_manifest
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.retrieval.index import compact, segments
from neurorit.retrieval.index import index as indexing
from neurorit.retrieval.index.compact import compact_index
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.index.update import update_index
from neurorit.retrieval.retriever import Retriever, SearchSettings
from neurorit.retrieval.settings import BuildSettings
from tests.retrieval.counting_encoder import CountingEncoder

COUNT = 3_000
PQ = pytest.param("ivf-pq", marks=pytest.mark.slow)  # it trains for seconds


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> CountingEncoder:
    import faiss

    # More threads than cores wait for each other in training: other tests run beside this one.
    faiss.omp_set_num_threads(1)
    made = CountingEncoder()
    monkeypatch.setattr("neurorit.retrieval.index.index.load_encoder", lambda *_, **__: made)
    monkeypatch.setattr(segments, "_SYNC_SECONDS", 0.0)
    return made


def write(path: Path, numbers: Sequence[int]) -> Path:
    records = [
        {"id": f"p{i}", "text": f"Passage {i}.", "meta": {"source": f"{i % 300}.md"}}
        for i in numbers
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def built(tmp_path: Path, encoder: CountingEncoder, kind: str) -> Path:
    corpus = write(tmp_path / "corpus.jsonl", range(COUNT))
    build_index(
        corpus, tmp_path / "index", encoder=encoder, settings=BuildSettings(kind, target=0.9)
    )
    return tmp_path / "index"


def own(index: Index, numbers: Sequence[int]) -> None:
    """Each of these passages is the first for its own text."""
    found = index.search([f"Passage {i}." for i in numbers], 1)
    assert [hits[0].passage.id for hits in found] == [f"p{i}" for i in numbers]


@pytest.mark.parametrize("kind", ["ivf", PQ, "hnsw"])
def test_one_passage_is_added_to_every_kind(
    tmp_path: Path, encoder: CountingEncoder, kind: str
) -> None:
    place = built(tmp_path, encoder, kind)
    done = update_index(place, add=write(tmp_path / "new.jsonl", [COUNT]))
    assert (done["added"], done["segments"], done["passages"]) == (1, 2, COUNT + 1)
    own(Index.load(place), [COUNT])
    record = read_manifest(place, "index").made["segments"][1]
    assert record["kind"] == (None if kind == "hnsw" else "flat")


def test_a_stopped_update_keeps_its_vectors(tmp_path: Path, encoder: CountingEncoder) -> None:
    place = built(tmp_path, encoder, "flat")
    new = write(tmp_path / "new.jsonl", range(COUNT, COUNT + 3_000))
    encoder.encoded, encoder.stop = 0, 2_048
    with pytest.raises(KeyboardInterrupt):
        update_index(place, add=new)
    assert len(Index.load(place)) == COUNT
    encoder.stop = None
    update_index(place, add=new)
    assert encoder.encoded == 3_000
    own(Index.load(place), [0, COUNT, COUNT + 2_999])
    assert not (place / ".update").exists()
    # Killed after the segments had been moved, before the manifest: nothing is encoded again.
    more = write(tmp_path / "more.jsonl", range(9_000, 9_100))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurorit.retrieval.index.update.write_manifest", _stopped)
        with pytest.raises(KeyboardInterrupt):
            update_index(place, add=more)
    encoder.encoded = 0
    assert update_index(place, add=more)["segments"] == 3
    assert encoder.encoded == 0
    own(Index.load(place), [9_050])


def _stopped(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_source_is_deleted_by_its_field(tmp_path: Path, encoder: CountingEncoder) -> None:
    place = built(tmp_path, encoder, "flat")
    with pytest.raises(BadInput, match=r"delete_where: no passage has source=no\.md"):
        update_index(place, delete_where={"source": "no.md"})
    done = update_index(place, delete_where={"source": "7.md"})
    assert done["deleted"] == COUNT // 300
    index = Index.load(place)
    assert "p7" not in index and "p307" not in index and "p8" in index
    with pytest.raises(BadInput, match="no passage has source=7"):
        update_index(place, delete_where={"source": "7.md"})


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", PQ, "sq8"])
def test_compaction_reclaims_what_was_deleted(
    tmp_path: Path, encoder: CountingEncoder, kind: str
) -> None:
    place = built(tmp_path, encoder, kind)
    update_index(place, add=write(tmp_path / "new.jsonl", range(COUNT, COUNT + 20)))
    update_index(place, delete_where={"source": "7.md"})
    before = Index.load(place)
    left = [passage.id for passage in before.passages]
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    encoder.encoded = 0
    done = compact_index(place)
    assert done == {
        "passages": COUNT + 20 - 11,
        "segments": 1,
        "segments_before": 2,
        "reclaimed": 11,
    }
    # Vectors that the index holds as they were made are not made again.
    assert encoder.encoded == (COUNT + 9 if kind in ("ivf-pq", "sq8") else 0)
    after = Index.load(place)
    assert [passage.id for passage in after.passages] == left
    assert "p7" not in after
    own(after, [0, 1, COUNT + 19] if kind != "ivf-pq" else [])
    assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) < size
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "corpus.jsonl",
        "index",
        "new.jsonl",
    ]


def test_an_index_is_not_replaced_while_it_is_compacted(
    tmp_path: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = built(tmp_path, encoder, "flat")
    other = write(tmp_path / "other.jsonl", range(5))
    make, said = compact.make_segments, list[str]()

    def meanwhile(*args: Any, **more: Any) -> Any:
        with pytest.raises(BadInput) as refused:
            build_index(other, place, encoder=encoder, overwrite=True)
        said.append(str(refused.value))
        return make(*args, **more)

    monkeypatch.setattr(compact, "make_segments", meanwhile)
    compact_index(place)
    assert said == [f"{place}: another process changes it now"]
    assert len(Index.load(place).passages) == COUNT
    monkeypatch.setattr(compact, "make_segments", make)
    build_index(other, place, encoder=encoder, overwrite=True)
    assert len(Index.load(place).passages) == 5


def test_an_emptied_index_finds_nothing_in_any_way(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    corpus = write(tmp_path / "corpus.jsonl", range(50))
    place = tmp_path / "index"
    build_index(corpus, place, encoder=encoder)
    (tmp_path / "ids").write_text("".join(f"p{i}\n" for i in range(50)))
    update_index(place, delete=tmp_path / "ids")
    for mode in ("dense", "bm25", "hybrid"):
        assert Retriever.load(place, SearchSettings(mode)).search(["Passage 3."], 5) == [[]]
    with pytest.raises(BadInput, match="every passage is deleted"):
        compact_index(place)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", PQ, "sq8"])
@pytest.mark.parametrize("share", [1 / 300, 1 / 2])
def test_a_filter_finds_as_many_as_there_are(
    tmp_path: Path,
    encoder: CountingEncoder,
    kind: str,
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("neurorit.retrieval.index.faiss_search._FEW", 100)
    corpus = tmp_path / "corpus.jsonl"
    lines = [
        {"id": f"p{i}", "text": f"Passage {i}.", "meta": {"in": i % round(1 / share) == 0}}
        for i in range(COUNT)
    ]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    build_index(corpus, tmp_path / "index", encoder=encoder, settings=BuildSettings(kind))
    retriever = Retriever.load(tmp_path / "index", SearchSettings(filters={"in": "true"}))
    asked = [f"query {i}" for i in range(8)]
    found = retriever.search(asked, 30)
    inside = [i for i in range(COUNT) if i % round(1 / share) == 0]
    assert {len(hits) for hits in found} == {min(30, len(inside))}
    assert {hit.passage.id for hits in found for hit in hits} <= {f"p{i}" for i in inside}
    if len(inside) <= 100 and kind != "ivf-pq":
        rows = encoder.encode_passages([f"Passage {i}." for i in inside])
        for hits, query in zip(found, encoder.encode_queries(asked), strict=True):
            best = f"p{inside[int(np.argmax(rows @ query))]}"
            assert best in [hit.passage.id for hit in hits[:2]]


def test_a_new_filter_reads_no_passage(
    tmp_path: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurorit.retrieval.index.mapped_files.SMALL", 0)
    place = built(tmp_path, encoder, "flat")
    retriever = Retriever.load(place)
    read: list[int] = []
    part = retriever.index.passages._parts[0]
    real = type(part).__getitem__
    monkeypatch.setattr(
        type(part), "__getitem__", lambda self, row: read.append(row) or real(self, row)
    )
    some = retriever.variant(filters={"source": "17.md"})
    assert not read
    hits = some.search(["Passage 17."], 3)[0]
    assert hits[0].passage.id == "p17" and len(read) == 3


def test_a_filter_is_of_the_passages_that_were_loaded(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    place = built(tmp_path, encoder, "flat")
    retriever = Retriever.load(place)
    # Another index takes its place, with the same passages in other rows.
    corpus = write(tmp_path / "corpus.jsonl", list(reversed(range(COUNT))))
    build_index(corpus, place, encoder=encoder, overwrite=True)
    hits = retriever.variant(filters={"source": "17.md"}).search(["Passage 17."], 3)[0]
    assert {hit.passage.meta["source"] for hit in hits} == {"17.md"}
    assert hits[0].passage.id in retriever.index and "nobody" not in retriever.index


def test_bm25_belongs_to_the_passages_that_were_loaded(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    place = built(tmp_path, encoder, "flat")
    loaded = Index.load(place)
    (tmp_path / "ids").write_text("p0\np1\n")
    update_index(place, delete=tmp_path / "ids")
    # The index on disk is another one by now.
    old = Retriever(loaded, SearchSettings(mode="bm25"), place)
    assert old.search(["2000"], 1)[0][0].passage.id == "p2000"
    new = Retriever.load(place, SearchSettings(mode="bm25"))
    assert new.search(["2000"], 1)[0][0].passage.id == "p2000"


def test_an_update_while_it_is_loaded_is_read_again(
    tmp_path: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest that was read names what the update has taken away since."""
    place = built(tmp_path, encoder, "flat")
    (tmp_path / "gone").write_text("p1\n")
    update_index(place, delete=tmp_path / "gone")
    (tmp_path / "gone").write_text("p2\n")
    updates = 0

    def loading(*_: object, **__: object) -> CountingEncoder:
        nonlocal updates
        updates += 1
        if updates == 1:
            monkeypatch.setattr(
                "neurorit.retrieval.index.index.load_encoder", lambda *_, **__: encoder
            )
            update_index(place, delete=tmp_path / "gone")
        return encoder

    monkeypatch.setattr("neurorit.retrieval.index.index.load_encoder", loading)
    index = Index.load(place)
    assert len(index) == COUNT - 2 and "p2" not in index


def test_an_index_that_is_replaced_while_it_is_loaded_is_read_again(
    tmp_path: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new files are as many and as long: nothing fails, and digest and encoder are the old."""
    place, other = built(tmp_path, encoder, "flat"), CountingEncoder("other")
    loaded = [encoder, other]

    def loading(*_: object, **__: object) -> CountingEncoder:
        if len(loaded) == 2:
            build_index(tmp_path / "corpus.jsonl", place, encoder=other, overwrite=True)
        return loaded.pop(0)

    monkeypatch.setattr("neurorit.retrieval.index.index.load_encoder", loading)
    index = Index.load(place, verify=False)
    assert index.encoder is other
    assert index.digest == hash_file(place / "manifest.json")


def test_whatever_fails_while_an_index_is_compacted_is_read_again(
    tmp_path: Path, encoder: CountingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that were deleted are of no segment any more."""
    place = built(tmp_path, encoder, "flat")
    (tmp_path / "gone").write_text(f"p{COUNT - 1}\n")
    update_index(place, delete=tmp_path / "gone")
    deleted = indexing.read_deleted

    def compacted(directory: Path, manifest: Manifest) -> dict[str, Any]:
        found = deleted(directory, manifest)
        monkeypatch.setattr(indexing, "read_deleted", deleted)
        compact_index(place)
        return found

    monkeypatch.setattr(indexing, "read_deleted", compacted)
    assert len(Index.load(place)) == COUNT - 1


def test_an_index_that_changes_all_the_time_is_not_waited_for(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    place, reads = built(tmp_path, encoder, "flat"), list[int]()

    def read() -> None:
        reads.append(len(reads))
        (place / "manifest.json").write_text(str(reads))

    with pytest.raises(ArtifactError, match="was changed each of the 5 times it was read"):
        indexing.beside_updates(place, read)


def test_a_part_with_other_passages_than_its_record_says_is_refused(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    place = built(tmp_path, encoder, "flat")
    offsets = next(place.rglob("offsets.npy"))
    kept = offsets.stat().st_size
    np.save(offsets, np.load(offsets)[:-1])
    with open(offsets, "ab") as stream:
        stream.write(b"\0" * (kept - offsets.stat().st_size))
    with pytest.raises(ArtifactError, match=f"holds {COUNT - 1} passages and not {COUNT}"):
        Index.load(place, verify=False)


def test_an_index_that_lacks_a_file_is_refused_at_once(
    tmp_path: Path, encoder: CountingEncoder
) -> None:
    place = built(tmp_path, encoder, "flat")
    next(place.rglob("vectors.faiss")).unlink()
    with pytest.raises(ArtifactError, match="lacks its file"):
        Index.load(place)
