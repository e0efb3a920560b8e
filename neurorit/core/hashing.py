"""Ids of passages as 64-bit numbers: which were seen, at eight bytes each.

Among a hundred million ids the chance that any two share a number is one in four thousand.
"""

from __future__ import annotations

import hashlib

_RECENT = 65_536


def id_number(identity: str) -> int:
    """64 bits of an id's BLAKE2b."""
    data = identity.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def content_id(title: str, text: str) -> str:
    """The id of a passage that has none of its own: 64 bits of its content's SHA-256, in hex."""
    return hashlib.sha256(f"{title}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


class SeenIds:
    """A set of ids that only grows."""

    def __init__(self) -> None:
        import numpy as np

        self._sorted = np.zeros(0, dtype=np.uint64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, identity: str) -> bool:
        """Add an id; False if it was there."""
        import numpy as np

        number = id_number(identity)
        if number in self._recent:
            return False
        wanted = np.uint64(number)
        at = self._sorted.searchsorted(wanted)
        if at < len(self._sorted) and self._sorted[at] == wanted:
            return False
        self._recent.add(number)
        if len(self._recent) >= _RECENT:
            recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return True
