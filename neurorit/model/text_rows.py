"""Plain text as token ids of which a model's predictions are measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from neurorit.data.plain_text import Text
from neurorit.model.prompts import beginning, encode_plain

_WINDOW = 1_024


class Row(NamedTuple):
    """Token ids of which those from `start` on count; the first one never does."""

    ids: list[int]
    start: int = 1


def encode_texts(tokenizer: Any, texts: Sequence[Text], longest: int = _WINDOW) -> list[Row]:
    """Token ids of each text, with the tokenizer's own beginning, cut at `longest` tokens.

    Nothing in a text becomes a special token. Texts of which nothing is predicted, such as a single
    token, are left out.
    """
    rows = []
    head = beginning(tokenizer)
    for text, prefix in texts:
        ids = [*head, *encode_plain(tokenizer, prefix or text)]
        start = len(ids) if prefix else 1
        if prefix:
            ids += encode_plain(tokenizer, text, continues=True)
        rows.append(Row(ids[:longest], start))
    return [row for row in rows if len(row.ids) > max(1, row.start)]
