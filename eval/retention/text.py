"""Loss per token of a model and of its base on the same text, and the KL divergence between them.

Both models read the same token ids in the same batches, so a model against itself differs in
nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from neurorit.core.errors import BadInput
from neurorit.model.text_rows import Row

# Positions whose logits of both models are compared at a time: a vocabulary is wide.
_POSITIONS = 256


class TextDrift(NamedTuple):
    """Sums over the predicted tokens of one text, in nats."""

    tokens: int
    base_loss: float
    loss: float
    kl: float


def check_vocabulary(base: Any, other: Any, name: str) -> None:
    """Raise BadInput where two tokenizers do not have the same tokens: losses would not compare."""
    if json.dumps(base.get_vocab(), sort_keys=True) != json.dumps(
        other.get_vocab(), sort_keys=True
    ):
        raise BadInput(
            f"system {name}: its tokenizer has other tokens than the base's, so its loss a token "
            "cannot be compared; leave it out of --retention"
        )


def drift(
    base: Any,
    model: Any,
    rows: Sequence[Row],
    *,
    batch_tokens: int = 4_096,
    progress: Callable[[int, int], None] | None = None,
) -> list[TextDrift]:
    """For each row what base and model make of its tokens that count, in the rows' order.

    base, model: causal language models in evaluation mode with one vocabulary, on any devices.
    batch_tokens: of a padded batch. Raises BadInput where a model predicts no numbers.
    """
    drifts = [TextDrift(0, 0.0, 0.0, 0.0)] * len(rows)
    done = 0
    for batch in _batches(rows, batch_tokens):
        ids = [rows[i].ids for i in batch]
        one, other = _logits(base, ids), _logits(model, ids)
        for place, i in enumerate(batch):
            drifts[i] = _of_row(one[place], other[place], rows[i])
            if not all(value == value for value in drifts[i]):
                raise BadInput("a model predicts no numbers (nan): its weights are broken")
        done += len(batch)
        if progress is not None:
            progress(done, len(rows))
    return drifts


def _batches(rows: Sequence[Row], tokens: int) -> Iterator[list[int]]:
    """Indices of rows, of like length together, so that a padded batch holds at most `tokens`."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), i)):
        if batch and (len(batch) + 1) * len(rows[i].ids) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Logits [rows, longest, vocabulary] of rows that are padded on the right."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(list(row))
        mask[place, : len(row)] = 1
    with torch.inference_mode():
        found: torch.Tensor = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
    return found


def _of_row(one: torch.Tensor, other: torch.Tensor, row: Row) -> TextDrift:
    ids, first = row.ids, max(1, row.start) - 1
    base_loss = loss = kl = 0.0
    for start in range(first, len(ids) - 1, _POSITIONS):
        end = min(start + _POSITIONS, len(ids) - 1)
        target = torch.tensor(list(ids[start + 1 : end + 1]))[:, None]
        # In double precision: a sum over a vocabulary must not hide a small divergence.
        p = one[start:end].double().cpu().log_softmax(-1)
        q = other[start:end].double().cpu().log_softmax(-1)
        base_loss -= float(p.gather(1, target).sum())
        loss -= float(q.gather(1, target).sum())
        kl += float((p.exp() * (p - q)).sum())
    return TextDrift(len(ids) - 1 - first, base_loss, loss, kl)
