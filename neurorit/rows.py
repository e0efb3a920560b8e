"""Rows over a shared prefix: many variants of a prompt's last tokens in one forward pass.

Prompts are prefilled once, padded on the left. A row is the last token of a prompt followed by the
answer's tokens but the last; it sees its prompt's prefix and itself, and no other row.
It knows nothing of neurons or of what is made of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


class Prefix:
    """Keys and values of prompts [B] without their last tokens, made without gradients."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.device = model.device
        self.lengths = torch.tensor([len(p) - 1 for p in prompts], device=self.device)
        self.width = int(self.lengths.max())
        shape = (len(prompts), self.width)
        ids = torch.zeros(shape, dtype=torch.long, device=self.device)
        for row, prompt in enumerate(prompts):
            if len(prompt) > 1:
                ids[row, self.width - len(prompt) + 1 :] = torch.tensor(
                    list(prompt[:-1]), device=self.device
                )
        places = torch.arange(self.width, device=self.device) - (self.width - self.lengths)[:, None]
        self.visible = places >= 0
        self.cache = None
        if self.width:
            padded = not bool(self.visible.all())
            with torch.no_grad():
                found = model(
                    input_ids=ids,
                    attention_mask=self.visible.long() if padded else None,
                    position_ids=places.clamp_min(0),
                    use_cache=True,
                    logits_to_keep=1,
                )
            self.cache = found.past_key_values

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, seen: Any) -> torch.Tensor:
        """Logits [B, Q, vocabulary] of tokens [B, Q] after the prefix, which stays as it was.

        positions [B, Q]: how far behind the prefix each token stands. seen [Q, Q], boolean: which
        of the others each token sees.
        """
        batch, count = tokens.shape
        lowest = torch.finfo(self.model.dtype).min
        mask = torch.zeros(
            batch, count, self.width + count, dtype=self.model.dtype, device=self.device
        )
        mask[:, :, : self.width].masked_fill_(~self.visible[:, None], lowest)
        mask[:, :, self.width :].masked_fill_(~seen, lowest)
        logits: torch.Tensor = self.model(
            input_ids=tokens,
            position_ids=self.lengths[:, None] + positions,
            attention_mask=mask[:, None],
            past_key_values=self.cache,
            use_cache=self.cache is not None,
        ).logits
        if self.cache is not None:
            self.cache.crop(-count)
        return logits

    @torch.no_grad()
    def greedy(self, lasts: Sequence[int], most: int, end: int | None) -> list[list[int]]:
        """The most likely continuation of each prompt: up to `most` tokens, without the end token.

        One that ends at once is the end token itself.
        """
        tokens = torch.tensor([[last] for last in lasts], device=self.device)
        found: list[list[int]] = [[] for _ in lasts]
        ended = [False] * len(lasts)
        for _ in range(most):
            count = tokens.shape[1]
            places = torch.arange(count, device=self.device)
            seen = places[:, None] >= places
            logits = self.forward(tokens, places.expand(len(lasts), -1), seen)[:, -1]
            best = logits.argmax(-1)
            for row, token in enumerate(best.tolist()):
                ended[row] = ended[row] or (token == end and bool(found[row]))
                if not ended[row]:
                    found[row].append(token)
                    ended[row] = token == end
            if all(ended):
                break
            tokens = torch.cat([tokens, best[:, None]], dim=1)
        return found


@dataclass(frozen=True)
class Rows:
    """The repeated tokens [B, N] of each prompt, and the tokens [B, N] they are to predict.

    real [B, N]: 1 where a target stands, 0 where a shorter answer is padded.
    """

    prefix: Prefix
    tokens: torch.Tensor
    targets: torch.Tensor
    real: torch.Tensor

    @classmethod
    def of(
        cls,
        prefix: Prefix,
        lasts: Sequence[int],
        targets: Sequence[Sequence[int]],
        span: int | None = None,
    ) -> Rows:
        """Rows of prompts that end in `lasts`, with their answers, padded to `span` tokens."""
        span = span or max(len(target) for target in targets)
        shape = (len(targets), span)
        tokens = torch.zeros(shape, dtype=torch.long)
        wanted = torch.zeros(shape, dtype=torch.long)
        real = torch.zeros(shape)
        for row, (last, target) in enumerate(zip(lasts, targets, strict=True)):
            given = [last, *target[:-1]]
            tokens[row, : len(given)] = torch.tensor(given)
            wanted[row, : len(target)] = torch.tensor(list(target))
            real[row, : len(target)] = 1.0
        device = prefix.device
        return cls(prefix, tokens.to(device), wanted.to(device), real.to(device))

    @property
    def span(self) -> int:
        """N, the tokens of one row."""
        return int(self.tokens.shape[1])

    def logits(self, count: int) -> torch.Tensor:
        """Logits [B, count, N, vocabulary] of `count` rows of each prompt."""
        batch, span = self.tokens.shape
        place = torch.arange(span, device=self.tokens.device)
        own = torch.arange(count, device=self.tokens.device).repeat_interleave(span)
        order = place.repeat(count)
        seen = (own[:, None] == own) & (order[:, None] >= order)
        found: torch.Tensor = self.prefix.forward(
            self.tokens.repeat(1, count), order.expand(batch, -1), seen
        )
        shaped: torch.Tensor = found.unflatten(1, (count, span))
        return shaped
