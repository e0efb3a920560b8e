"""Writes BM25 scores of a stream of texts in the form of bm25s, in bounded memory.

bm25s itself holds every token of every text. Here counts of words go to disk in sorted runs, and
are merged word by word; only the vocabulary is held.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from neurorit.retrieval.bm25.words import ENGLISH, words_of, words_settings

_K1, _B = 1.2, 0.75
_TEXTS = 2048  # tokenized at once
_ENTRY = 12  # bytes of a count on disk: word and text in eight, count in four


def method_of(language: str) -> dict[str, Any]:
    """How words are made and counted, for a manifest."""
    return {
        "method": "lucene",
        "k1": _K1,
        "b": _B,
        **words_settings(language),
    }


def write_bm25(folder: Path, texts: Iterable[str], memory: int, language: str = ENGLISH) -> None:
    """Write what `bm25s.BM25.load` reads: the scores that bm25s would give to these texts.

    memory: bytes for counts, beside the vocabulary; one word's own counts are held in any case.
    """
    import bm25s
    import numpy as np

    runs = _Runs(folder / "runs", max(1, memory // (16 * _ENTRY)))
    for some in _batches(texts):
        runs.add(words_of(some, language))
    runs.close()
    lengths = np.frombuffer(runs.lengths, dtype=np.uint32)
    frequencies = np.frombuffer(runs.frequencies, dtype=np.uint64).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(frequencies)]).astype(np.int64)
    bm25 = bm25s.BM25(method="lucene", k1=_K1, b=_B, dtype="float32")
    bm25.vocab_dict, bm25.nonoccurrence_array = runs.vocabulary, None
    nothing = np.zeros(0, np.float32)
    bm25.scores = {
        "data": nothing,
        "indices": nothing.astype(np.int32),
        "indptr": indptr,
        "num_docs": len(lengths),
    }
    bm25.save(folder, show_progress=False)
    with (
        _Column(folder / "data.csc.index.npy", np.float32, int(indptr[-1])) as data,
        _Column(folder / "indices.csc.index.npy", np.int32, int(indptr[-1])) as indices,
    ):
        for words, docs, counts in runs.merged(indptr):
            data.write(_scores(words, docs, counts, lengths, frequencies))
            indices.write(docs)
    runs.remove()


def _scores(words: Any, docs: Any, counts: Any, lengths: Any, frequencies: Any) -> Any:
    """float32 [n]: BM25 as Lucene has it (Kamphuis et al. 2020), of one word in one text each."""
    import numpy as np

    total = len(lengths)
    first, last = int(words[0]), int(words[-1])
    idf = np.array(
        [
            math.log(1 + (total - df + 0.5) / (df + 0.5))
            for df in frequencies[first : last + 1].tolist()
        ]
    )
    mean = lengths.mean(dtype=np.float64) or 1.0
    saturated = counts / (_K1 * ((1 - _B) + _B * lengths[docs] / mean) + counts)
    return idf[words - first] * saturated


class _Runs:
    """Counts of (word, text) on disk, in runs that are sorted by word and then by text."""

    def __init__(self, path: Path, most: int) -> None:
        self.vocabulary: dict[str, int] = {}
        self.frequencies = array("Q")  # texts that have the word
        self.lengths = array("I")  # words of the text
        self._path = path
        self._most = most
        self._stream = open(path, "wb")  # noqa: SIM115 (closed by `close`)
        self._sizes: list[int] = []
        self._words, self._docs = array("I"), array("I")

    def add(self, texts: Sequence[Sequence[str]]) -> None:
        """Count the words of the next texts."""
        for text in texts:
            number = len(self.lengths)
            for word in text:
                known = self.vocabulary.setdefault(word, len(self.vocabulary))
                self._words.append(known)
                self._docs.append(number)
            self.lengths.append(len(text))
            if len(self._words) >= self._most:
                self._write()

    def close(self) -> None:
        """Bring the last run to disk."""
        if not self.vocabulary and self.lengths:
            # bm25s loads no index without a word; no query has this one.
            self.vocabulary[" "] = 0
            self._words.append(0)
            self._docs.append(0)
        self._write()
        self._stream.close()

    def merged(self, indptr: Any) -> Iterator[tuple[Any, Any, Any]]:
        """(words, texts, counts) of all runs in order, in parts that hold whole words."""
        import numpy as np

        entries = np.dtype([("key", "<u8"), ("count", "<u4")])
        runs, start = [], 0
        for size in self._sizes:
            runs.append(np.memmap(self._path, entries, "r", start * _ENTRY, shape=(size,)))
            start += size
        word, words = 0, len(indptr) - 1
        while word < words:
            beyond = int(indptr.searchsorted(indptr[word] + self._most, side="right")) - 1
            beyond = max(word + 1, min(words, beyond))
            parts = []
            for run in runs:
                low, high = run["key"].searchsorted(
                    np.array([word << 32, beyond << 32], dtype=np.uint64)
                )
                parts.append(np.array(run[low:high]))
            some = np.concatenate(parts)
            # Runs follow each other text by text: a stable sort by word leaves texts in order.
            some = some[np.argsort(some["key"] >> np.uint64(32), kind="stable")]
            docs = (some["key"] & np.uint64(2**32 - 1)).astype(np.int64)
            yield (some["key"] >> np.uint64(32)).astype(np.int64), docs, some["count"]
            word = beyond

    def remove(self) -> None:
        """Remove the file of the runs."""
        self._path.unlink()

    def _write(self) -> None:
        import numpy as np

        self.frequencies.extend([0] * (len(self.vocabulary) - len(self.frequencies)))
        if not self._words:
            return
        keys = np.frombuffer(self._words, np.uint32).astype(np.uint64) << np.uint64(32)
        keys |= np.frombuffer(self._docs, np.uint32)
        found, counts = np.unique(keys, return_counts=True)
        run = np.empty(len(found), dtype=[("key", "<u8"), ("count", "<u4")])
        run["key"], run["count"] = found, counts
        run.tofile(self._stream)
        self._sizes.append(len(run))
        words = (found >> np.uint64(32)).astype(np.int64)
        held = np.frombuffer(self.frequencies, np.uint64)
        np.add(held, np.bincount(words, minlength=len(held)).astype(np.uint64), out=held)
        self._words, self._docs = array("I"), array("I")


class _Column:
    """A one-dimensional .npy file of known length that is written from front to back."""

    def __init__(self, path: Path, kind: Any, length: int) -> None:
        import numpy as np

        self._kind = kind
        self._stream = open(path, "wb")  # noqa: SIM115 (closed by `__exit__`)
        header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (length,)}
        form: Any = np.lib.format
        form.write_array_header_1_0(self._stream, header)

    def __enter__(self) -> _Column:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def write(self, values: Any) -> None:
        """The next values."""
        values.astype(self._kind).tofile(self._stream)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(texts)
    while some := list(islice(stream, _TEXTS)):
        yield some
