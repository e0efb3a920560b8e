"""The journals of an atlas: each process that finds scores writes its own, and all read them."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.journal import Append, appending, read_journal
from neurorit.model.distributed import wait

Record = dict[str, Any]
JOURNALS = ".*.journal-*.jsonl"


@dataclass(frozen=True)
class Journal:
    """Records with keys, made for the artifact `out`. identity: what they depend on, JSON data.

    rank, processes: which share of the work is this process's, of how many; writes: whether it
    keeps what it makes (of several that do one share together only one does).
    """

    out: Path
    identity: Record
    rank: int
    processes: int
    writes: bool = True

    def read(self) -> dict[str, Record]:
        """All processes' records of the same identity, by key; BadInput for what is none."""
        records: dict[str, Record] = {}
        for path in self._paths():
            for where, line in read_journal(path, self.identity):
                try:
                    record = json.loads(line)
                    records[record["key"]] = record
                except (ValueError, KeyError, TypeError) as error:
                    raise BadInput(f"{where}: no line of a mining journal; remove it") from error
        wait()  # nobody writes before everybody has read
        return records

    def appending(self) -> AbstractContextManager[Append]:
        """What appends records to this process's journal; they are on disk when the block ends."""
        if not self.writes:
            return nullcontext(lambda _records: None)
        own = self.out.with_name(f".{self.out.name}.journal-{self.rank}.jsonl")
        return appending(own, self.identity)

    def wait_for_all(self) -> dict[str, Record]:
        """Every process's records, once all have written theirs."""
        wait()
        return self.read()

    def remove(self) -> None:
        """Delete the journals; called when the artifact is whole."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.out.parent.glob(f".{escape(self.out.name)}.journal-*.jsonl"))
