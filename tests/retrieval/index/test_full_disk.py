"""A build whose files may not grow, as on a full disk: one line, and later it goes on."""

from __future__ import annotations

import json
import resource
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from neurorit.cli import disk_failure
from neurorit.core.errors import NeuroritError
from neurorit.retrieval.index.index import Index, build_index
from tests.forks import forked
from tests.retrieval.counting_encoder import CountingEncoder

COUNT = 2_000  # 256 kB of vectors, 60 kB of text


def build_within(corpus: Path, out: Path, most: int, pipe: Connection) -> None:
    """Build an index where no file may be larger than `most` bytes; tell what it ended with."""
    sys.dont_write_bytecode = True  # what was cut short would be read by every later process
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        build_index(corpus, out, encoder=CountingEncoder())
        pipe.send("built")
    except (OSError, NeuroritError) as error:
        pipe.send(f"{type(error).__name__}: {error}")
    except Exception as error:
        pipe.send(disk_failure(error) or f"no line for {error!r}")


@pytest.mark.parametrize("most", [100, 5_000, 40_000, 100_000, 200_000, 300_000])
def test_a_file_that_cannot_grow_ends_in_a_line(tmp_path: Path, most: int) -> None:
    corpus, out = tmp_path / "corpus.jsonl", tmp_path / "index"
    lines = [json.dumps({"id": f"p{i}", "text": f"Passage {i}."}) + "\n" for i in range(COUNT)]
    corpus.write_text("".join(lines))
    with forked(build_within, corpus, out, most) as pipe:
        told = pipe.recv()
    assert (told == "built") == (most == 300_000), told
    assert most == 300_000 or "File too large" in told or "is the disk full?" in told
    assert out.exists() == (most == 300_000)
    with forked(build_within, corpus, out, 10**9) as pipe:
        again = pipe.recv()
    assert again == "built" or "exists already" in again
    assert len(Index.load(out, encoder=CountingEncoder())) == COUNT
