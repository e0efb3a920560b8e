"""Rows over a shared prefix: many variants of a prompt's last tokens in one forward pass.

Prompts are prefilled once, and stand in one cache that is padded on the left. A row is the last
token of a prompt followed by the answer's tokens but the last; it sees its prompt's prefix and
itself, and no other row.

Of a model whose layers are parted over processes each goes through its own, at the same prompts;
logits that are not the last part's mean nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from neurorit.model.distributed.pipeline import part_of
from neurorit.model.feed_forward import attention_of, decoder_layers, feed_forward


class Prefix:
    """Keys and values of prompts [B] without their last tokens, made without gradients.

    last_logits [B, vocabulary]: after the whole prompts. The pass that makes them goes over the
    whole prompts, so that `hooks.recording` around it sees the last tokens' neurons.
    apart: on a CPU each prompt is read in a pass of its own. Together they are not quicker there,
    and padding and its masks cost a third more; hooks that tell prompts apart want one pass.
    """

    def __init__(
        self, model: Any, prompts: Sequence[Sequence[int]], *, apart: bool = False
    ) -> None:
        self.model = model
        self.device = model.device
        self.part = part_of(model)
        self.lengths = torch.tensor([len(p) - 1 for p in prompts], device=self.device)
        self.width = int(self.lengths.max())
        place = torch.arange(self.width, device=self.device)
        self.visible = place >= (self.width - self.lengths)[:, None]
        # Positions that go by the longest prompt of a pass must meet the same one in every pass.
        self._steady = not _turned_by_length(model.config)
        apart = apart and self._steady and self.device.type == "cpu"
        with torch.no_grad(), _last_token_alone(model, self.part.ends):
            each = [[prompt] for prompt in prompts] if apart else [prompts]
            read = [self._read(part) for part in each]
        self.last_logits = torch.cat([logits for logits, _ in read])
        # What the model computes in, which need not be what its weights are kept in.
        self.dtype = self.last_logits.dtype
        # It holds the last tokens too, until rows are to stand in their place.
        self._whole = read[0][1] if len(read) == 1 else _joined([cache for _, cache in read])
        self.cache = self._whole if self.width else None
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self._spent = False

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, DynamicCache]:
        """Logits [B, vocabulary] after prompts, and their keys and values."""
        ids, places = (part.to(self.device) for part in _left_padded(prompts))
        found = self.model(
            input_ids=ids,
            attention_mask=(places >= 0).long() if bool((places < 0).any()) else None,
            position_ids=places.clamp_min(0),
            # Not the model's own kind: that of a sliding window forgets what rows must see.
            past_key_values=DynamicCache(),
            use_cache=True,
            logits_to_keep=1,
        )
        return found.logits[:, -1], found.past_key_values

    def raised(self, model: Any, dtype: torch.dtype) -> Prefix:
        """This prefix, for rows of a model that computes in `dtype` where this one's did not."""
        self.model, self.dtype, self.part = model, dtype, part_of(model)
        self.last_logits = self.last_logits.to(dtype)
        for layer in self._whole.layers:
            layer.keys, layer.values = layer.keys.to(dtype), layer.values.to(dtype)
        return self

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        seen: torch.Tensor,
        *,
        growth: _Growth | None = None,
    ) -> torch.Tensor:
        """Logits [B, Q, vocabulary] of tokens [B, Q] after the prefix, which stays as it was.

        positions [B, Q]: how far behind the prefix each token stands. seen [Q, Q], boolean: which
        of the others each token sees. growth: how many of the tokens each layer computes; those
        that come in are what the first are there (see `_growing`).
        """
        if self._spent:
            raise RuntimeError("a prefix that wrote without `keep` takes no rows")
        self._crop()
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
        return logits if self.part.ends else logits.new_zeros(batch, count, 1)

    def _within_window(self, mask: torch.Tensor, positions: torch.Tensor, lowest: float) -> Any:
        """The mask, by kind of layer where some layers see a window of the last tokens alone."""
        window, kinds = self._window()
        if window is None or self.width + int(positions.max()) < window:
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
        if self.cache is None:
            return
        if self._kept is None:
            for layer in self.cache.layers:
                more = int(layer.get_seq_length()) - self.width
                if more > 0:
                    layer.crop(-more)
            self._kept = [(layer.keys, layer.values) for layer in self.cache.layers]
        # Cut out of what rows have grown, they would hold on to the rows' graph.
        for layer, (keys, values) in zip(self.cache.layers, self._kept, strict=True):
            layer.keys, layer.values = keys, values

    @torch.no_grad()
    def greedy(
        self, most: int, ends: Collection[int] = (), *, keep: bool = True
    ) -> list[list[int]]:
        """The most likely continuation of each prompt: up to `most` tokens, without the end token.

        ends: tokens that end one. One that ends at once is the end token itself. keep: rows will
        stand behind the prefix; without, it leaves off prompts that have ended. It goes on from the
        pass that made the prefix, so it comes before any rows do.
        """
        if self._spent or self._whole.get_seq_length() != self.width + 1:
            raise RuntimeError("a prefix writes once, before rows stand behind it")
        self._spent = not keep
        written: list[list[int]] = [[] for _ in self.lengths]
        ended = [False] * len(written)
        alive = list(range(len(written)))
        logits = self.last_logits
        for place in range(1, most + 1):
            best = self.part.told(logits.argmax(-1))
            for row, token in zip(alive, best.tolist(), strict=True):
                ended[row] = ended[row] or (token in ends and bool(written[row]))
                if not ended[row]:
                    written[row].append(token)
                    ended[row] = token in ends
            if place == most or all(ended):
                break
            left = [at for at, row in enumerate(alive) if not ended[row]]
            if self._spent and self._steady and len(left) <= len(alive) // 2:
                alive = [alive[at] for at in left]
                best = self._leave(best, left)
            logits = self._next(best, place)
        if keep:
            self._crop()
        return written

    def _leave(self, tokens: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """Of tokens [B] those of some prompts, which alone the prefix has from now on."""
        index = torch.tensor(rows, device=self.device)
        self.visible, self.lengths = self.visible[index], self.lengths[index]
        for layer in self._whole.layers:
            layer.keys, layer.values = layer.keys[index], layer.values[index]
        return tokens[index]

    def _next(self, tokens: torch.Tensor, place: int) -> torch.Tensor:
        """Logits [B, vocabulary] after one more token [B] each, `place` behind the last ones."""
        count = self.width + 1 + place
        lowest = torch.finfo(self.dtype).min
        mask = torch.zeros(len(tokens), 1, 1, count, dtype=self.dtype, device=self.device)
        mask[:, 0, 0, : self.width].masked_fill_(~self.visible, lowest)
        masks: Any = mask
        window, kinds = self._window()
        if window is not None and count > window:
            narrow = mask.clone()
            narrow[..., : count - window] = lowest
            masks = (
                narrow
                if kinds == {"sliding_attention"}
                else {"full_attention": mask, "sliding_attention": narrow}
            )
        logits: torch.Tensor = self.model(
            input_ids=tokens[:, None],
            position_ids=(self.lengths + place)[:, None],
            attention_mask=masks,
            past_key_values=self._whole,
            use_cache=True,
        ).logits
        return logits[:, -1]

    def _window(self) -> tuple[int | None, set[str]]:
        """How many tokens some layers see, None where all see all, and the kinds of layers."""
        window = getattr(self.model.config, "sliding_window", None)
        kinds = set(getattr(self.model.config, "layer_types", None) or ["sliding_attention"])
        return (window if "sliding_attention" in kinds else None), kinds


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

    def logits(self, layers: Sequence[int], early: int = 0) -> torch.Tensor:
        """Logits [B, R, N, vocabulary] of R = len(layers) rows of each prompt.

        layers: for each row, ascending, the first layer in which it may differ from the prompt's
        own tokens: in its feed-forward block, or with `early` 1 in its attention already. What is
        alike is computed once: up to there a row is not carried along. In each layer the prompt's
        own tokens come first, then the rows that are there.
        """
        batch, span = self.tokens.shape
        device = self.tokens.device
        count = len(layers) + 1
        place = torch.arange(span, device=device)
        own = torch.arange(count, device=device).repeat_interleave(span)
        order = place.repeat(count)
        seen = (own[:, None] == own) & (order[:, None] >= order)
        part = self.prefix.part.layers
        there = [
            (1 + bisect_right(layers, at + early)) * span for at in range(part.start - 1, part.stop)
        ]
        found: torch.Tensor = self.prefix.forward(
            self.tokens.repeat(1, count),
            order.expand(batch, -1),
            seen,
            growth=_Growth(span, there[0], there[1:]),
        )
        shaped: torch.Tensor = found.unflatten(1, (count, span))
        return shaped[:, 1:]

    def plain(self) -> torch.Tensor:
        """Logits [B, 1, N, vocabulary] of the prompts' own tokens alone."""
        span = self.span
        place = torch.arange(span, device=self.tokens.device)
        seen = place[:, None] >= place
        return self.prefix.forward(self.tokens, place.expand(len(self.tokens), -1), seen)[:, None]


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [B, T] of prompts that end together, and each one's place, below 0 for padding."""
    width = max(map(len, prompts))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
    start = torch.tensor([width - len(prompt) for prompt in prompts])
    return ids, torch.arange(width) - start[:, None]


def _joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """One cache of several that hold a prompt each, padded on the left."""
    width = max(int(cache.get_seq_length()) for cache in caches)
    whole = DynamicCache()
    for place in range(len(caches[0].layers)):
        both = []
        for name in ("keys", "values"):
            each = [getattr(cache.layers[place], name) for cache in caches]
            batch = each[0].new_zeros(len(each), each[0].shape[1], width, each[0].shape[3])
            for row, one in enumerate(each):
                batch[row, :, width - one.shape[2] :] = one[0]
            both.append(batch)
        whole.update(*both, place)
        for cache in caches:  # no layer is held twice
            cache.layers[place] = None
    return whole


def _turned_by_length(config: Any) -> bool:
    """Whether the longest text of a pass chooses the frequencies of rotary positions."""
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    # Some have a set for each kind of layer.
    every = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    kinds = {one.get("rope_type", one.get("type")) for one in every}
    return bool(kinds & {"longrope", "su", "dynamic"})


@contextmanager
def _last_token_alone(model: Any, wanted: bool) -> Iterator[None]:
    """Narrow the last block: nothing reads its output but that of the last token.

    A linear layer of a view copies its weights for each prompt of a batch: hence `contiguous`.
    """
    if not wanted:  # the next part reads all of it
        yield
        return
    block = feed_forward(model).blocks[-1]
    narrow = block.register_forward_pre_hook(
        lambda _module, inputs: (inputs[0][:, -1:].contiguous(),)
    )
    try:
        yield
    finally:
        narrow.remove()


class _Growth(NamedTuple):
    """How many tokens there are: of the prompt's own, in the first layer's attention, and behind
    each layer's down-projection; of the part's own layers."""

    first: int
    start: int
    counts: Sequence[int]


@contextmanager
def _growing(model: Any, prefix: int, growth: _Growth | None) -> Iterator[None]:
    """Let each layer see so many tokens; those that come in are copies of the first n.

    They come in at the layer's down-projection, where they first may differ: its attention, gate
    and up-projection compute what they are copies of, and no copy. A copy carries no gradient.
    """
    if growth is None:
        yield
        return
    first, before, counts = growth
    blocks = feed_forward(model)
    handles: list[Any] = []
    for number, (layer, after) in enumerate(zip(decoder_layers(model), counts, strict=True)):
        attention = attention_of(model, layer)
        handles += [
            layer.register_forward_pre_hook(partial(_enter, first, after), with_kwargs=True),
            attention.register_forward_pre_hook(partial(_narrow, prefix, before), with_kwargs=True),
            attention.register_forward_hook(partial(_attended, first, after)),
            blocks.blocks[number].register_forward_pre_hook(partial(_first, before)),
            # Before the hooks that put values into the rows, which must be there by then.
            blocks.down(number).register_forward_pre_hook(
                partial(_room, first, after), prepend=True
            ),
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


_OF_TOKENS = ("hidden_states", "position_ids")


def _narrow(prefix: int, before: int, _module: Any, inputs: tuple[Any, ...], given: Any) -> Any:
    """Attention among the tokens that were there before."""

    def narrow(value: Any, name: str) -> Any:
        if value is None:
            return None
        if name == "attention_mask":
            return value[:, :, :before, : prefix + before]
        if name == "position_embeddings":
            return tuple(part[:, :before] for part in value)
        return value[:, :before].contiguous() if name in _OF_TOKENS else value

    kept = {name: narrow(value, name) for name, value in given.items()}
    return tuple(narrow(value, "hidden_states") for value in inputs[:1]) + inputs[1:], kept


def _attended(first: int, after: int, _module: Any, _inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (_copied(output[0], first, after), *output[1:])
    return _copied(output, first, after)


def _first(before: int, _module: Any, inputs: tuple[Any, ...]) -> Any:
    return (inputs[0][:, :before].contiguous(), *inputs[1:])


def _room(first: int, after: int, _module: Any, inputs: tuple[Any, ...]) -> Any:
    """The values of the rows that come in, or room for others."""
    return (_copied(inputs[0], first, after),) if inputs[0].shape[1] < after else inputs


def _copied(hidden: torch.Tensor, first: int, after: int) -> torch.Tensor:
    """The tokens, first those that are there, then copies of the first n."""
    more = after - hidden.shape[1]
    if more <= 0:
        return hidden[:, :after]
    return torch.cat([hidden, hidden[:, :first].detach().repeat(1, more // first, 1)], dim=1)
