"""A journal of records with keys, so that a killed run goes on where it was.

The first line says what the records are of; a journal of something else is not used. Several
processes write a file each and read all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurorit.model.distributed import count, rank, wait

Record = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """Records made for the artifact `out`. identity: what they depend on, JSON data.

    rank, processes: this process's place among those that torchrun or accelerate started.
    """

    out: Path
    identity: Record
    rank: int = field(default_factory=rank)
    processes: int = field(default_factory=count)

    def read(self) -> dict[str, Record]:
        """All processes' records of the same identity, by key; torn last lines are left out."""
        found: dict[str, Record] = {}
        for path in sorted(self.out.parent.glob(f".{self.out.name}.journal-*.jsonl")):
            lines = _complete_lines(path)
            if lines and lines[0] == json.dumps(self.identity):
                for line in lines[1:]:
                    record = json.loads(line)
                    found[record["key"]] = record
        self.barrier()  # nobody writes before everybody has read
        return found

    @contextmanager
    def appending(self) -> Iterator[Callable[[Sequence[Record]], None]]:
        """A function that appends records; they are on disk when the block ends."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = _complete_lines(self._path)
        if not lines or lines[0] != json.dumps(self.identity):
            lines = [json.dumps(self.identity)]
            self._path.write_text(lines[0] + "\n", encoding="utf-8")
        with open(self._path, "r+", encoding="utf-8") as stream:
            # What is appended starts on a line of its own, also after a torn one.
            stream.truncate(sum(len(line.encode()) + 1 for line in lines))
            stream.seek(0, os.SEEK_END)

            def append(records: Sequence[Record]) -> None:
                stream.write("".join(json.dumps(record) + "\n" for record in records))
                stream.flush()

            yield append
            os.fsync(stream.fileno())

    def wait_for_all(self) -> dict[str, Record]:
        """Every process's records, once all have written theirs."""
        self.barrier()
        return self.read()

    def remove(self) -> None:
        """Delete the journals; called when the artifact is whole."""
        for path in self.out.parent.glob(f".{self.out.name}.journal-*.jsonl"):
            path.unlink(missing_ok=True)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.processes > 1:
            wait()

    @property
    def _path(self) -> Path:
        return self.out.with_name(f".{self.out.name}.journal-{self.rank}.jsonl")


def _complete_lines(path: Path) -> list[str]:
    """The file's lines up to the last line break; none where there is no file."""
    if not path.is_file():
        return []
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
