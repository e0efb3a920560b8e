"""How many passages are longer than an encoder reads: no search finds what stands beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

_BATCH = 1024
_WHOLE: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # model -> its tokenizer without a limit

# How many of some texts are too long; None where the encoder does not tell.
Overlong = Callable[[Sequence[str]], int | None]


def count_overlong(encoder: Any, texts: Iterable[str]) -> int | None:
    """How many of the texts the encoder will cut; None for one that does not tell (a server)."""
    count: Overlong | None = getattr(encoder, "overlong", None)
    if count is None:
        return None
    total, rest = 0, iter(texts)
    while batch := list(islice(rest, _BATCH)):
        found = count(batch)
        if found is None:
            return None
        total += found
    return total


def overlong(model: Any, texts: Sequence[str]) -> int | None:
    """The same of a sentence-transformers model; None where it has no such tokenizer or limit."""
    from tokenizers import Tokenizer

    limit = getattr(model, "max_seq_length", None)
    own = getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None)
    if not limit or own is None:
        return None
    # No token is shorter than a byte: most texts need no second look.
    doubtful = [text for text in texts if len(text.encode()) > limit - 2]
    if not doubtful:
        return 0
    whole: Any = _WHOLE.get(model)
    if whole is None:
        whole = Tokenizer.from_str(own.to_str())  # a copy: the model's own stays as it is
        whole.no_truncation()
        whole.no_padding()
        _WHOLE[model] = whole
    return sum(len(found.ids) > int(limit) for found in whole.encode_batch(doubtful))
