"""Corpora: a stream of passages from JSONL, one object per line.

Reads this project's records (`id`, `title`, `text`) and FlashRAG's (`id`, `contents`, whose first
line is the title). Nothing is held in memory but the ids. It knows nothing of vectors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retrieval.errors import BadInput
from retrieval.examples import Passage


def read_corpus(path: Path) -> Iterator[Passage]:
    """Stream passages; raises BadInput with file:line for a bad line, a used id, or no passage."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    seen: dict[str, int] = {}
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                passage = parse_passage(json.loads(line.decode("utf-8")))
            except (ValueError, TypeError, RecursionError) as error:
                raise BadInput(f"{path}:{number}: not a passage: {error}") from error
            if passage.id in seen:
                raise BadInput(
                    f"{path}:{number}: the id {passage.id!r} was used in line {seen[passage.id]}"
                )
            seen[passage.id] = number
            yield passage
    if not seen:
        raise BadInput(f"{path}: holds no passage")


def parse_passage(record: Any) -> Passage:
    """A passage from one decoded record; raises ValueError saying which field is wrong."""
    if not isinstance(record, dict):
        raise ValueError("the line is no JSON object")
    identity = record.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise ValueError("'id' must be a non-empty string")
    title, text = record.get("title"), record.get("text")
    if text is None and isinstance(record.get("contents"), str):
        first, _, rest = record["contents"].partition("\n")
        title, text = (first.strip().strip('"'), rest) if rest.strip() else ("", first)
    if not isinstance(text, str) or not text.strip():
        raise ValueError("'text' must be a non-empty string")
    if title is not None and not isinstance(title, str):
        raise ValueError("'title' must be a string")
    meta = record.get("meta") or {}
    if not isinstance(meta, dict):
        raise ValueError("'meta' must be an object")
    return Passage(str(identity), title or "", text, meta=meta)
