"""Writes the postings of a sparse encoder: for every word the passages that have it, with weights.

Passages are encoded in parts, each of which stays on disk when a build is stopped; then the parts
are brought together word by word, in files that are mapped when they are searched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, check_place, seal
from neurorit.core.atomic_files import put_back, write_text
from neurorit.core.build_dir import RECORD, workplace
from neurorit.data.examples import Passage
from neurorit.retrieval.encoders.sparse import SparseEncoder
from neurorit.retrieval.index.segments import passage_text

KIND = "sparse-index"
STARTS, ROWS, WEIGHTS = "starts.npy", "rows.npy", "weights.npy"
_PART = 1024  # passages that are encoded, and kept, at once
_PARTS, _JOURNAL = "parts", "journal.json"


def sparse_place(index: Path) -> Path:
    """Where the sparse vectors of an index lie."""
    return Path(index).with_name(f"{Path(index).name}-sparse")


def write_sparse(
    index: Path,
    passages: Sequence[Passage],
    digest: str,
    encoder: SparseEncoder,
    *,
    restart: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Encode the passages of an index into `INDEX-sparse`; returns where it is and what it holds.

    digest: of the index's manifest. What lies there is replaced when all is done; a build that was
    stopped goes on. restart: throw away one of something else, which is refused without.
    """
    out = sparse_place(index)
    put_back(out)
    check_place(out, overwrite=True)
    purpose = {"the index": digest, "sparse": encoder.fingerprint}
    place = out.with_name(f".{out.name}.building")
    with workplace(place, purpose, restart=restart) as folder:
        write_text(folder / _JOURNAL, json.dumps({"part": _PART}))
        (folder / _PARTS).mkdir(exist_ok=True)
        parts = []
        for start in range(0, len(passages), _PART):
            some = range(start, min(start + _PART, len(passages)))
            parts.append(folder / _PARTS / f"{start:012d}.npz")
            if not parts[-1].is_file():
                _encode(encoder, [passage_text(passages[row]) for row in some], parts[-1])
            if progress is not None:
                progress(some.stop, len(passages))
        entries = _bring_together(folder, parts, encoder.dimension)
        manifest = Manifest(
            kind=KIND,
            command="neurorit-rag index --sparse",
            settings={"encoder": encoder.name},
            inputs={"index": digest},
            made={
                "passages": len(passages),
                "words": encoder.dimension,
                "entries": entries,
                "fingerprint": encoder.fingerprint,
            },
        )
        left = [path.relative_to(folder).as_posix() for path in parts]
        seal(folder, manifest, out, leave=(*left, RECORD, _JOURNAL))
        shutil.rmtree(out / _PARTS)
        for name in (RECORD, _JOURNAL):
            (out / name).unlink()
    return {"sparse": str(out), "words_a_passage": round(entries / max(1, len(passages)), 1)}


def _encode(encoder: SparseEncoder, texts: Sequence[str], out: Path) -> None:
    """Write the weights of some passages, whole or not at all."""
    from scipy.sparse import save_npz

    unfinished = out.with_suffix(".writing")
    with open(unfinished, "wb") as stream:
        save_npz(stream, encoder.encode_passages(texts), compressed=False)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished.replace(out)


def _bring_together(folder: Path, parts: Sequence[Path], words: int) -> int:
    """Write starts [V + 1], and rows and weights of all entries, word by word; returns how many."""
    import numpy as np
    from scipy.sparse import load_npz

    counts = np.zeros(words, np.int64)
    for part in parts:
        counts += np.bincount(load_npz(part).indices, minlength=words)
    starts = np.concatenate([[0], np.cumsum(counts)])
    np.save(folder / STARTS, starts)
    entries = int(starts[-1])
    opened: Any = np.lib.format.open_memmap
    # A file that is mapped has at least one entry.
    rows = opened(folder / ROWS, "w+", np.int32, (max(1, entries),))
    weights = opened(folder / WEIGHTS, "w+", np.float32, (max(1, entries),))
    free, before = starts[:-1].copy(), 0
    for part in parts:
        columns = load_npz(part).tocsc()
        held = np.diff(columns.indptr)
        places = np.repeat(free - columns.indptr[:-1], held) + np.arange(columns.nnz)
        rows[places] = columns.indices + before
        weights[places] = columns.data
        free += held
        before += columns.shape[0]
    rows.flush()
    weights.flush()
    return entries
