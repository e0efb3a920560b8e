"""Building, stopped and gone on with: what was made is kept, in its last minutes too."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurorit.core import artifact, atomic_files, build_dir
from neurorit.core.errors import BadInput
from neurorit.retrieval.index import segments
from neurorit.retrieval.index.build import BuildSettings, write_index
from neurorit.retrieval.index.compact import compact_index
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.index.update import update_index
from tests.forks import forked
from tests.retrieval.counting_encoder import CountingEncoder

COUNT = 6_000


def write_corpus(path: Path, count: int = COUNT) -> Path:
    lines = [json.dumps({"id": f"p{i}", "text": f"Passage {i}."}) + "\n" for i in range(count)]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BuildSettings, "segment", lambda self, dimension: 2048)
    monkeypatch.setattr(segments, "_SYNC_SECONDS", 0.0)


def files(index: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((index / "segments" / "00001").iterdir())}


def test_a_build_that_stops_while_it_is_sealed_encodes_nothing_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_at = ["hash_file", "sync", "swap_in"]
    real = {name: getattr(artifact, name) for name in stopped_at}
    encoder = CountingEncoder()
    for name in stopped_at:

        def stop(*_: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(artifact, name, stop)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, tmp_path / "index", encoder=encoder)
        monkeypatch.setattr(artifact, name, real[name])
        assert not (tmp_path / "index").exists()
    build_index(corpus, tmp_path / "index", encoder=encoder)
    assert encoder.encoded == COUNT
    index = Index.load(tmp_path / "index", encoder=encoder)
    assert [p.id for p in index.passages] == [f"p{i}" for i in range(COUNT)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.jsonl", "index"]
    assert sorted(p.name for p in (tmp_path / "index").iterdir()) == ["manifest.json", "segments"]


def test_other_batches_threads_and_memory_keep_the_vectors(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CountingEncoder()
    build_index(corpus, tmp_path / "whole", encoder=whole)
    first = CountingEncoder(stop=4096 + 1024)
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "index", encoder=first)
    then = CountingEncoder()
    settings = BuildSettings(batch_size=7, threads=1, memory=10**9)
    build_index(corpus, tmp_path / "index", encoder=then, settings=settings)
    assert first.encoded + then.encoded == COUNT
    assert files(tmp_path / "index") == files(tmp_path / "whole")


def test_less_memory_cuts_what_more_memory_left(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BuildSettings, "segment", lambda self, dimension: 5120)
    first = CountingEncoder(stop=5120)
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "index", encoder=first)
    monkeypatch.setattr(BuildSettings, "segment", lambda self, dimension: 2048)
    # A second stop, right after the cut.
    second = CountingEncoder(stop=0)
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "index", encoder=second)
    then = CountingEncoder()
    build_index(corpus, tmp_path / "index", encoder=then)
    assert first.encoded + then.encoded == COUNT
    index = Index.load(tmp_path / "index", encoder=then)
    assert len(index._segments) > 1
    assert [p.id for p in index.passages] == [f"p{i}" for i in range(COUNT)]
    asked = [f"Passage {i}." for i in range(0, COUNT, 500)]
    assert [hits[0].passage.text for hits in index.search(asked, 1)] == asked


def test_an_unfinished_build_of_something_else_is_not_thrown_away_unasked(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "index", encoder=CountingEncoder(stop=3072))
    place = tmp_path / ".index.building"
    before = sorted(place.rglob("*"))
    with pytest.raises(BadInput, match=r"differs in: encoder, kind; .*restart=True"):
        build_index(
            corpus,
            tmp_path / "index",
            encoder=CountingEncoder("other"),
            settings=BuildSettings(kind="sq8"),
        )
    assert sorted(place.rglob("*")) == before
    other = CountingEncoder("other")
    build_index(corpus, tmp_path / "index", encoder=other, restart=True)
    assert other.encoded == COUNT
    assert not place.exists()


def test_what_another_version_began_is_not_gone_on_with(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_dir, "REVISION", build_dir.REVISION + 1)
        build_index(corpus, tmp_path / "index", encoder=CountingEncoder(stop=3072))
    with pytest.raises(BadInput, match=r"differs in: the form of its files; .*restart=True"):
        build_index(corpus, tmp_path / "index", encoder=CountingEncoder())
    again = CountingEncoder()
    build_index(corpus, tmp_path / "index", encoder=again, restart=True)
    assert again.encoded == COUNT


def test_replacing_an_index_leaves_one_there_at_every_moment(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "index"
    small = write_corpus(tmp_path / "small.jsonl", 50)
    build_index(small, out, encoder=CountingEncoder())

    remove = atomic_files.shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if path == tmp_path / ".index.building":
            raise KeyboardInterrupt
        remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, out, encoder=CountingEncoder(), overwrite=True)
    assert len(Index.load(out, encoder=CountingEncoder())) == COUNT
    # What was replaced lies in the workplace; it is no unfinished build.
    again = CountingEncoder()
    build_index(small, out, encoder=again, overwrite=True)
    assert again.encoded == 50
    # Where names cannot be exchanged, there are two renames; a kill between them is mended.
    monkeypatch.setattr(atomic_files, "_exchanged", lambda one, other: False)
    real, calls = atomic_files.os.rename, []

    def second_fails(a: Any, b: Any) -> None:
        calls.append(a)
        if Path(b) == out:
            raise KeyboardInterrupt
        real(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(atomic_files.os, "rename", second_fails)
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, out, encoder=CountingEncoder(), overwrite=True)
    assert not out.exists()
    with pytest.raises(artifact.ArtifactError, match=r"mv .*brings the former one back"):
        Index.load(out, encoder=CountingEncoder())
    with pytest.raises(BadInput, match="exists already"):
        build_index(corpus, out, encoder=CountingEncoder())
    assert len(Index.load(out, encoder=CountingEncoder())) == 50


def test_what_is_no_index_of_ours_is_not_replaced(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "models"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    encoder = CountingEncoder()
    with pytest.raises(BadInput, match="models is no artifact"):
        build_index(corpus, out, encoder=encoder, overwrite=True)
    assert encoder.encoded == 0
    assert (out / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_while_an_index_is_built_stays(
    corpus: Path, tmp_path: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, encoder = tmp_path / "index", CountingEncoder()
    encode = encoder.encode_passages

    def meanwhile(texts: Sequence[str]) -> Any:
        out.mkdir(exist_ok=True)
        (out / "notes").write_text("somebody's")
        return encode(texts)

    monkeypatch.setattr(encoder, "encode_passages", meanwhile)
    said = "is no artifact" if overwrite else "was written by another process meanwhile"
    with pytest.raises(BadInput, match=said):
        build_index(corpus, out, encoder=encoder, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["notes"]
    # What was encoded is not lost.
    monkeypatch.setattr(encoder, "encode_passages", encode)
    (out / "notes").unlink()
    build_index(corpus, out, encoder=encoder, overwrite=True)
    assert encoder.encoded == COUNT


def test_an_index_behind_a_link_is_replaced_and_compacted_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, link = CountingEncoder(), tmp_path / "index"
    monkeypatch.setattr("neurorit.retrieval.index.index.load_encoder", lambda *_, **__: encoder)
    build_index(write_corpus(tmp_path / "few.jsonl", 20), tmp_path / "first", encoder=encoder)
    link.symlink_to("first")
    more = write_corpus(tmp_path / "more.jsonl", 50)
    build_index(more, link, encoder=encoder, overwrite=True)
    (tmp_path / "ids").write_text("p7\n")
    update_index(link, delete=tmp_path / "ids")
    compact_index(link)
    assert link.is_symlink()
    assert len(Index.load(tmp_path / "first", encoder=encoder)) == 49
    assert not list(tmp_path.glob(".*"))


def test_given_vectors_are_compared_with_the_encoder(corpus: Path, tmp_path: Path) -> None:
    encoder = CountingEncoder()
    rows = encoder.encode_passages([f"Passage {i}." for i in range(COUNT)])
    np.save(tmp_path / "own.npy", rows)
    np.save(tmp_path / "shifted.npy", np.roll(rows, 1, axis=0))
    settings = BuildSettings(vectors=tmp_path / "shifted.npy")
    with pytest.raises(BadInput, match=r"mean cosine of .* trust_vectors=True"):
        build_index(corpus, tmp_path / "index", encoder=encoder, settings=settings)
    settings = BuildSettings(vectors=tmp_path / "own.npy")
    build_index(corpus, tmp_path / "index", encoder=encoder, settings=settings)
    manifest = artifact.read_manifest(tmp_path / "index", "index")
    assert manifest.inputs["vectors"] == artifact.hash_file(tmp_path / "own.npy")
    assert manifest.made["vectors"] == "given"
    assert manifest.made["likeness"] == pytest.approx(1.0, abs=1e-3)


def _build_slowly(corpus: Path, out: Path, kind: str, log: Path, pipe: Connection) -> None:
    """Build an index a little at a time; what is encoded stands in `log` as soon as it is."""
    encoder = CountingEncoder()
    encode, hashed = encoder.encode_passages, artifact.hash_file
    with open(log, "a") as written, pytest.MonkeyPatch.context() as patch:

        def slowly(texts: Sequence[str]) -> Any:
            time.sleep(0.02)
            made = encode(texts)
            written.write(f"{len(texts)} ")
            written.flush()
            return made

        def hash_slowly(path: Path) -> str:
            time.sleep(0.01)
            return hashed(path)

        patch.setattr(encoder, "encode_passages", slowly)
        patch.setattr(artifact, "hash_file", hash_slowly)
        patch.setattr(BuildSettings, "segment", lambda self, dimension: 1024)
        patch.setattr(segments, "CHUNK", 128)
        patch.setattr(segments, "_SYNC_SECONDS", 0.0)
        pipe.send("begun")
        write_index(corpus, out, encoder=encoder, settings=BuildSettings(kind=kind, threads=1))
        pipe.send("ended")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_killed_twenty_times_a_build_keeps_its_work_and_ends_the_same(
    corpus: Path, tmp_path: Path, kind: str
) -> None:
    @contextlib.contextmanager
    def building(out: str) -> Iterator[Connection]:
        paths = corpus, tmp_path / out, kind, tmp_path / f"{out}.log"
        with forked(_build_slowly, *paths) as pipe:
            assert pipe.recv() == "begun"
            yield pipe

    def encoded(out: str) -> int:
        path = tmp_path / f"{out}.log"
        return sum(map(int, path.read_text().split())) if path.exists() else 0

    with building("whole") as pipe:
        started = time.monotonic()
        assert pipe.recv() == "ended" and encoded("whole") == COUNT
        long = time.monotonic() - started
    rng = random.Random(f"kills of {kind}")
    sealing = 0
    place = tmp_path / ".cut.building"
    for kill in range(20):
        with building("cut") as pipe:
            if kill == 19:
                # The last one falls into the sealing: all is encoded, and no index is there.
                while encoded("cut") < COUNT or any(place.glob("segments/*.part")):
                    assert not pipe.poll()
                    time.sleep(0.002)
                sealing += not (tmp_path / "cut").exists()
            else:
                time.sleep(rng.uniform(0.0, long / 20))
            assert not pipe.poll(), "the build ended before its twenty kills"
    before = encoded("cut")
    with building("cut") as pipe:
        assert pipe.recv() == "ended" and sealing == 1
    # Kept: after the last kill nothing is encoded, and each kill cost one chunk at most.
    assert encoded("cut") == before
    assert COUNT <= before <= COUNT + 20 * 128
    one, other = (
        Index.load(tmp_path / name, encoder=CountingEncoder()) for name in ("whole", "cut")
    )
    assert [p.id for p in other.passages] == [f"p{i}" for i in range(COUNT)]
    asked = [f"Passage {i}." for i in range(0, COUNT, 37)]
    for a, b in zip(one.search(asked, 10), other.search(asked, 10), strict=True):
        assert [(h.passage, h.score) for h in a] == [(h.passage, h.score) for h in b]
    assert not place.exists()
