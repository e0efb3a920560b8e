"""Rows over a shared prefix: many variants of a prompt's last tokens in one forward pass.

Prompts are prefilled once, padded on the left. A row is the last token of a prompt followed by the
answer's tokens but the last; it sees its prompt's prefix and itself, and no other row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from transformers import DynamicCache

from neurorit.model.feed_forward import attention_of, decoder_layers, feed_forward


class Prefix:
    """Keys and values of prompts [B] without their last tokens, made without gradients.

    last_logits [B, vocabulary]: after the whole prompts. The pass that makes them goes over the
    whole prompts, so that `probes.recording` around it sees the last tokens' neurons.
    """

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.device = model.device
        self.layers = decoder_layers(model)
        self.lengths = torch.tensor([len(p) - 1 for p in prompts], device=self.device)
        self.width = int(self.lengths.max())
        ids = torch.zeros((len(prompts), self.width + 1), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, self.width + 1 - len(prompt) :] = torch.tensor(list(prompt))
        start = (self.width - self.lengths)[:, None]
        places = torch.arange(self.width + 1, device=self.device) - start
        self.visible = places[:, :-1] >= 0
        padded = not bool(self.visible.all())
        # Nothing reads the last block's output but that of the last token.
        narrow = (
            feed_forward(model)
            .blocks[-1]
            .register_forward_pre_hook(lambda _module, inputs: (inputs[0][:, -1:],))
        )
        try:
            with torch.no_grad():
                found = model(
                    input_ids=ids.to(self.device),
                    attention_mask=(places >= 0).long() if padded else None,
                    position_ids=places.clamp_min(0),
                    past_key_values=DynamicCache(),
                    use_cache=True,
                    logits_to_keep=1,
                )
        finally:
            narrow.remove()
        self.last_logits: torch.Tensor = found.logits[:, -1]
        # What the model computes in, which need not be what its weights are kept in.
        self.dtype = self.last_logits.dtype
        # Not the model's own kind of cache: that of a sliding window forgets what rows must see.
        self.cache = found.past_key_values if self.width else None
        self._crop()

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        *,
        growth: tuple[int, Sequence[int]] | None = None,
    ) -> torch.Tensor:
        """Logits [B, Q, vocabulary] of tokens [B, Q] after the prefix, which stays as it was.

        positions [B, Q]: how far behind the prefix each token stands. seen [Q, Q], boolean: which
        of the others each token sees. growth: (n, how many of the tokens each layer computes),
        where those that come in are what the first n are there (see `_growing`).
        """
        batch, count = tokens.shape
        lowest = torch.finfo(self.dtype).min
        mask = torch.zeros(batch, count, self.width + count, dtype=self.dtype, device=self.device)
        mask[:, :, : self.width].masked_fill_(~self.visible[:, None], lowest)
        mask[:, :, self.width :].masked_fill_(~seen, lowest)
        mask = mask[:, None]
        masks = self._within_window(mask, positions, lowest)
        with _growing(self.model, self.width, growth):
            logits: torch.Tensor = self.model(
                input_ids=tokens,
                position_ids=self.lengths[:, None] + positions,
                attention_mask=masks,
                past_key_values=self.cache,
                use_cache=self.cache is not None,
            ).logits
        self._crop()
        return logits

    def _within_window(self, mask: torch.Tensor, positions: torch.Tensor, lowest: float) -> Any:
        """The mask, by kind of layer where some layers see a window of the last tokens alone."""
        window = getattr(self.model.config, "sliding_window", None)
        kinds = set(getattr(self.model.config, "layer_types", None) or ["sliding_attention"])
        if window is None or "sliding_attention" not in kinds:
            return mask
        if self.width + int(positions.max()) < window:
            return mask
        # The prefix ends at the same place in every prompt, whatever its length.
        behind = self.width + positions[:, :, None] - torch.arange(self.width, device=self.device)
        narrow = mask.clone()
        narrow[:, 0, :, : self.width].masked_fill_(behind >= window, lowest)
        if kinds == {"sliding_attention"}:
            return narrow
        return {"full_attention": mask, "sliding_attention": narrow}

    def _crop(self) -> None:
        """Forget all but the prefix."""
        if self.cache is not None:
            for layer in self.cache.layers:
                more = int(layer.get_seq_length()) - self.width
                if more > 0:
                    layer.crop(-more)

    @torch.no_grad()
    def greedy(self, lasts: Sequence[int], most: int, end: int | None) -> list[list[int]]:
        """The most likely continuation of each prompt: up to `most` tokens, without the end token.

        One that ends at once is the end token itself.
        """
        tokens = torch.tensor([[last] for last in lasts], device=self.device)
        found: list[list[int]] = [[] for _ in lasts]
        ended = [False] * len(lasts)
        for _ in range(most):
            logits = self.last_logits
            if tokens.shape[1] > 1:
                places = torch.arange(tokens.shape[1], device=self.device)
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

    def logits(self, layers: Sequence[int]) -> torch.Tensor:
        """Logits [B, R, N, vocabulary] of R = len(layers) rows of each prompt.

        layers: for each row, ascending, the first layer in which it may differ from the prompt's
        own tokens. What is alike is computed once: up to there a row is not carried along. In each
        layer the prompt's own tokens come first, then the rows that are there.
        """
        batch, span = self.tokens.shape
        device = self.tokens.device
        count = len(layers) + 1
        place = torch.arange(span, device=device)
        own = torch.arange(count, device=device).repeat_interleave(span)
        order = place.repeat(count)
        seen = (own[:, None] == own) & (order[:, None] >= order)
        depth = len(self.prefix.layers)
        found: torch.Tensor = self.prefix.forward(
            self.tokens.repeat(1, count),
            order.expand(batch, -1),
            seen,
            growth=(span, [(1 + bisect_right(layers, at)) * span for at in range(depth)]),
        )
        shaped: torch.Tensor = found.unflatten(1, (count, span))
        return shaped[:, 1:]

    def plain(self) -> torch.Tensor:
        """Logits [B, 1, N, vocabulary] of the prompts' own tokens alone."""
        span = self.span
        place = torch.arange(span, device=self.tokens.device)
        seen = place[:, None] >= place
        return self.prefix.forward(self.tokens, place.expand(len(self.tokens), -1), seen)[:, None]


@contextmanager
def _growing(model: Any, prefix: int, growth: tuple[int, Sequence[int]] | None) -> Iterator[None]:
    """Let each layer see so many tokens; those that come in are copies of the first n.

    They come in at the layer's down-projection, where they first may differ: its attention, gate
    and up-projection compute what they are copies of, and no copy. A copy carries no gradient.
    """
    if growth is None:
        yield
        return
    first, counts = growth
    blocks = feed_forward(model)
    handles: list[Any] = []
    before = first
    for number, (layer, after) in enumerate(zip(decoder_layers(model), counts, strict=True)):
        attention = attention_of(model, layer)
        handles += [
            layer.register_forward_pre_hook(partial(_enter, first, after), with_kwargs=True),
            attention.register_forward_pre_hook(partial(_narrow, prefix, before), with_kwargs=True),
            attention.register_forward_hook(partial(_attended, first, after)),
            blocks.blocks[number].register_forward_pre_hook(partial(_first, before)),
            # Before the hooks that put values into the rows, which must be there by then.
            blocks.down(number).register_forward_pre_hook(partial(_room, after), prepend=True),
        ]
        before = after
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _enter(first: int, after: int, _module: Any, inputs: tuple[Any, ...], given: Any) -> Any:
    """The hidden states of as many tokens as leave the layer."""
    return (_copied(inputs[0], first, after), *inputs[1:]), given


def _narrow(prefix: int, before: int, _module: Any, inputs: tuple[Any, ...], given: Any) -> Any:
    """Attention among the tokens that were there before."""

    def narrow(value: Any, name: str) -> Any:
        if value is None:
            return None
        if name == "attention_mask":
            return value[:, :, :before, : prefix + before]
        if name == "position_embeddings":
            return tuple(part[:, :before] for part in value)
        return value[:, :before] if name in ("hidden_states", "position_ids") else value

    kept = {name: narrow(value, name) for name, value in given.items()}
    return tuple(narrow(value, "hidden_states") for value in inputs[:1]) + inputs[1:], kept


def _attended(first: int, after: int, _module: Any, _inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (_copied(output[0], first, after), *output[1:])
    return _copied(output, first, after)


def _first(before: int, _module: Any, inputs: tuple[Any, ...]) -> Any:
    return (inputs[0][:, :before], *inputs[1:])


def _room(after: int, _module: Any, inputs: tuple[Any, ...]) -> Any:
    """Room for the values of the rows that come in."""
    hidden = inputs[0]
    more = after - hidden.shape[1]
    return (functional.pad(hidden, (0, 0, 0, more)),) if more else inputs


def _copied(hidden: torch.Tensor, first: int, after: int) -> torch.Tensor:
    """The tokens, first those that are there, then copies of the first n."""
    more = after - hidden.shape[1]
    if more <= 0:
        return hidden[:, :after]
    return torch.cat([hidden, hidden[:, :first].detach().repeat(1, more // first, 1)], dim=1)
