"""Answers and verdicts by the content of what was asked: nothing is paid for twice.

A key is a hash of everything that could change the reply, so runs, systems of other names and
other data sets may share one cache. It is one SQLite file that several processes can use.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.locks import waited_for

FILE = "cache.sqlite"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS pace (source TEXT PRIMARY KEY, calls INTEGER, seconds REAL)",
)


class Cache:
    """The cache in `directory`; made if it is not there. Raises BadInput if it cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60.0)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            with self._database:
                for table in _TABLES:
                    self._database.execute(table)
        except (sqlite3.Error, OSError) as error:
            raise BadInput(
                f"{self.path}: not a cache that can be used ({error}); name another ‹cache›"
            ) from error

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def find(self, keys: Iterable[str]) -> dict[str, Any]:
        """Key -> reply, for the keys that are known."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Any] = {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self._database.execute(
                f"SELECT key, reply FROM replies WHERE key IN ({marks})", part
            )
            found |= {key: json.loads(reply) for key, reply in rows}
        return found

    def keep(self, replies: Mapping[str, Any]) -> dict[str, Any]:
        """Add replies; the first one of a key stays. Returns what stands there now."""
        rows = [(key, json.dumps(reply, ensure_ascii=False)) for key, reply in replies.items()]
        with self._database:
            added = self._database.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", rows)
        return dict(replies) if added.rowcount == len(rows) else self.find(replies)

    @contextmanager
    def asking(self, source: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold a source for the block: who shares the cache waits, and then finds what was said.

        source: what answers, such as a system's fingerprint; waiting: called before a wait.
        """
        place = self.path.with_name(f".asking-{content_key(source)[:16]}.lock")
        with waited_for(place, waiting):
            yield

    def replace(self, key: str, reply: Any) -> None:
        """Keep one reply in place of an older one."""
        with self._database:
            self._database.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?)",
                (key, json.dumps(reply, ensure_ascii=False)),
            )

    def note_pace(self, source: str, calls: int, seconds: float) -> None:
        """Remember how long calls of a source took, for the estimate of a later run."""
        if calls:
            with self._database:
                self._database.execute(
                    "INSERT OR REPLACE INTO pace VALUES (?, ?, ?)", (source, calls, seconds)
                )

    def pace(self, source: str) -> float | None:
        """Seconds a call, when calls of this source were timed before."""
        row = self._database.execute(
            "SELECT seconds / calls FROM pace WHERE source = ?", (source,)
        ).fetchone()
        return float(row[0]) if row else None


def content_key(*parts: Any) -> str:
    """Hash of JSON-like parts, 32 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
