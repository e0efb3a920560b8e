"""Files of an index that are cut short while it is searched: a message, and no end by SIGBUS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from neurorit.core.errors import NeuroritError
from neurorit.data.examples import Passage
from neurorit.retrieval.bm25.bm25 import lexical_place
from neurorit.retrieval.index import mapped_files
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.retriever import Retriever, SearchSettings
from tests.forks import forked
from tests.retrieval.counting_encoder import CountingEncoder

COUNT = 2_000  # so many that each file has pages beyond its first
# What reads each file.
USES: dict[str, Callable[[Retriever], object]] = {
    "vectors.faiss": lambda found: found.variant("dense").search("Passage 7.", 1),
    "passages.jsonl": lambda found: found.index.passages[COUNT - 1],
    "offsets.npy": lambda found: found.index.passages[COUNT - 1],
    "ids.npy": lambda found: found.passage("p7"),
    "meta_fields.npy": lambda found: found.variant(filters={"source": "7"}),
    "meta_rows.npy": lambda found: found.variant(filters={"source": "7"}),
    "data.csc.index.npy": lambda found: found.variant("bm25").search("Passage 7.", 1),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cut") / "index"
    corpus = [Passage(f"p{i}", "", f"Passage {i}.", meta={"source": str(i)}) for i in range(COUNT)]
    index = build_index(corpus, place, encoder=CountingEncoder())
    Retriever(index, SearchSettings(mode="hybrid"), place)
    return place


def cut_each(place: Path, folder: Path, in_memory: bool, pipe: Connection) -> None:
    """For each file of an index: cut it while the index is loaded, then use it."""
    mapped_files.SMALL = 0
    for number, (name, use) in enumerate(USES.items()):
        copy = folder / str(number) / "index"
        for source, target in ((place, copy), (lexical_place(place), lexical_place(copy))):
            shutil.copytree(source, target)
        index = Index.load(copy, encoder=CountingEncoder(), in_memory=in_memory)
        found = Retriever.load(index, mode="hybrid")
        (file,) = copy.parent.rglob(name)
        os.truncate(file, 0)
        try:
            use(found)
            pipe.send((name, "used"))
        except NeuroritError as error:
            pipe.send((name, str(error)))
    pipe.send(None)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_file_that_is_cut_is_said_and_one_that_was_read_is_not_missed(
    place: Path, tmp_path: Path, in_memory: bool
) -> None:
    said = {}
    with forked(cut_each, place, tmp_path, in_memory) as pipe:
        while (told := pipe.recv()) is not None:  # EOFError: the process was ended
            said[told[0]] = told[1]
    assert list(said) == list(USES)
    for name, message in said.items():
        assert (message == "used") == in_memory, (name, message)
        assert in_memory or "was cut short while it was in use" in message


def test_small_files_are_read_and_what_replaces_a_file_is_no_matter(
    place: Path, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert mapped_files.is_small([file])
    mapped = mapped_files.MappedFiles([file])
    other = tmp_path / "other"
    other.write_bytes(b"1")
    other.replace(file)
    mapped.check()
    again = mapped_files.MappedFiles([file])
    file.write_bytes(b"")
    with pytest.raises(NeuroritError, match="was cut short"):
        again.check()
