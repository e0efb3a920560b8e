"""Integrated gradients of every feed-forward neuron, exactly, in one forward and one backward.

Only the last position of the prompt is patched, so the keys and values before it never change.
The prompt is prefilled once without gradients; then the last token is repeated as many *rows*
that share one position and see the cached prefix and themselves only. Row (l, k) has layer l's
down-projection input replaced by step k of the path from the neurons' values without the context
to those with it. One backward of the sum of all rows' F gives every layer's exact gradient.

Source: METHOD.md, Phase 1 [P2, K]; the one pass and its measure are our own [I].
It knows nothing of questions, files or aggregation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from neurorit.models import FeedForward, feed_forward
from retrieval.errors import BadInput

METHODS = ("integrated-gradients", "gradient-activation", "activation")
OBJECTIVES = ("first-token", "log-prob")
_TINY = 1e-12


@dataclass(frozen=True)
class Attribution:
    """What one sample says of every neuron.

    scores [L, F]: attribution, in units of F; gain [L]: F with the context minus F with layer l's
    neurons as without it; residual: sum over layers of |sum_j A - gain|, over the sum of |gain|
    (0 for methods that have no completeness); target: the token that F is the probability of.
    """

    scores: torch.Tensor
    gain: torch.Tensor
    residual: float
    target: int


def attribute(
    model: Any,
    prompt_with: Sequence[int],
    prompt_without: Sequence[int],
    target: int | None = None,
    *,
    steps: int = 20,
    rows: int = 512,
    objective: str = "first-token",
    method: str = "integrated-gradients",
) -> Attribution:
    """Attribute the prediction after `prompt_with` to the feed-forward neurons.

    target: a token id; None takes the model's own most likely token. steps: m of the midpoint
    rule. rows: most rows in one pass, the bound on memory. objective: F is the probability of the
    target, or its logarithm. Parameters need no gradients; none are left behind.
    """
    blocks = feed_forward(model)
    window = getattr(model.config, "sliding_window", None)
    if window is not None and len(prompt_with) > window:
        raise BadInput(
            f"a prompt of {len(prompt_with)} tokens is longer than the model's sliding window "
            f"of {window}: mine on shorter prompts"
        )
    with torch.no_grad():
        without = _last_values(model, blocks, prompt_without)[0]
        present, logits = _last_values(model, blocks, prompt_with)
    chosen = int(logits.argmax()) if target is None else int(target)
    if method == "activation":
        scores = present - without
        return Attribution(scores, torch.zeros(blocks.depth), 0.0, chosen)
    if method == "gradient-activation":
        gradient = _row_gradients(
            model, blocks, prompt_with, chosen, present[:1].expand(0, -1), [], objective, rows
        )[2]
        return Attribution((present - without) * gradient, torch.zeros(blocks.depth), 0.0, chosen)
    return _integrate(model, blocks, prompt_with, chosen, present, without, steps, objective, rows)


def attribute_by_loop(
    model: Any,
    prompt_with: Sequence[int],
    prompt_without: Sequence[int],
    target: int,
    *,
    steps: int = 20,
    objective: str = "first-token",
) -> torch.Tensor:
    """The same scores [L, F] by whole forward passes, one per layer and step: the reference."""
    blocks = feed_forward(model)
    with torch.no_grad():
        without = _last_values(model, blocks, prompt_without)[0]
        present = _last_values(model, blocks, prompt_with)[0]
    ids = torch.tensor([list(prompt_with)], device=model.device)
    scores = torch.zeros_like(present)
    for layer in range(blocks.depth):
        difference = present[layer] - without[layer]
        for k in range(steps):
            value = without[layer] + (k + 0.5) / steps * difference
            value = value.detach().requires_grad_()
            with _patched(blocks.down(layer), partial(_replace_last, value)):
                logits = model(input_ids=ids, use_cache=False).logits[0, -1]
            (gradient,) = torch.autograd.grad(_score(logits[None], target, objective)[0], value)
            scores[layer] += gradient * difference / steps
    return scores


def _integrate(
    model: Any,
    blocks: FeedForward,
    prompt: Sequence[int],
    target: int,
    present: torch.Tensor,
    without: torch.Tensor,
    steps: int,
    objective: str,
    rows: int,
) -> Attribution:
    depth, width = present.shape
    alpha = (torch.arange(steps, device=present.device, dtype=present.dtype) + 0.5) / steps
    # Step `steps` of each layer is the start of its path: it needs no gradient, only F there.
    alpha = torch.cat([alpha, alpha.new_zeros(1)])
    difference = present - without
    values = without[:, None] + alpha[None, :, None] * difference[:, None]
    layers = [layer for layer in range(depth) for _ in range(steps + 1)]
    scores, gradients, _ = _row_gradients(
        model, blocks, prompt, target, values.reshape(-1, width), layers, objective, rows
    )
    gradients = gradients.reshape(depth, steps + 1, width)[:, :steps]
    attribution = difference * gradients.mean(1)
    start = scores[:-1].reshape(depth, steps + 1)[:, steps]
    gain = scores[-1] - start
    off = (attribution.sum(1) - gain).abs().sum()
    residual = float(off / gain.abs().sum().clamp_min(_TINY))
    return Attribution(attribution.cpu(), gain.cpu(), residual, target)


def _row_gradients(
    model: Any,
    blocks: FeedForward,
    prompt: Sequence[int],
    target: int,
    values: torch.Tensor,
    layers: Sequence[int],
    objective: str,
    rows: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """F of every row and of one plain row, the rows' gradients [R, F], the plain row's [L, F].

    Rows go through in chunks of at most `rows`; the plain row rides with the last chunk.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    prefix = ids.shape[1] - 1
    with torch.no_grad():
        cache = model(input_ids=ids[:, :-1], use_cache=True).past_key_values if prefix else None
    chunks = [range(i, min(i + rows, len(layers))) for i in range(0, len(layers), rows)] or [
        range(0)
    ]
    scores, gradients = [], []
    plain = values.new_zeros(blocks.depth, blocks.width)
    for chunk in chunks:
        last = chunk is chunks[-1]
        part = values[chunk.start : chunk.stop].detach().requires_grad_()
        count = len(chunk) + int(last)
        place: dict[int, list[int]] = {}
        for row, index in enumerate(chunk):
            place.setdefault(layers[index], []).append(row)
        own: dict[int, torch.Tensor] = {}
        with _patched_rows(blocks, part, place, own):
            logits = _forward_rows(model, ids, prefix, cache, count)
        value = _score(logits, target, objective)
        wanted = [part, *own.values()] if last else [part]
        found = torch.autograd.grad(value.sum(), wanted, allow_unused=True)
        scores.append(value.detach())
        gradients.append(found[0] if found[0] is not None else torch.zeros_like(part))
        if last:
            for layer, gradient in zip(own, found[1:], strict=True):
                plain[layer] = gradient[0, -1]
        if cache is not None:
            cache.crop(-count)
    return torch.cat(scores), torch.cat(gradients), plain


def _forward_rows(
    model: Any, ids: torch.Tensor, prefix: int, cache: Any, count: int
) -> torch.Tensor:
    """Logits [count, vocabulary] of the last token, repeated; rows do not see each other."""
    device = ids.device
    tokens = ids[:, -1:].expand(1, count)
    positions = torch.full((1, count), prefix, device=device)
    lowest = torch.finfo(model.dtype).min
    mask = torch.full((count, prefix + count), lowest, dtype=model.dtype, device=device)
    mask[:, :prefix] = 0
    mask.diagonal(prefix).fill_(0)
    logits: torch.Tensor = model(
        input_ids=tokens,
        position_ids=positions,
        attention_mask=mask[None, None],
        past_key_values=cache,
        use_cache=cache is not None,
    ).logits[0]
    return logits


def _score(logits: torch.Tensor, target: int, objective: str) -> torch.Tensor:
    """F of each row [R], from logits [R, vocabulary], in float32."""
    logs = logits.float().log_softmax(-1)[:, target]
    return logs if objective == "log-prob" else logs.exp()


def _last_values(
    model: Any, blocks: FeedForward, prompt: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every neuron's value [L, F] at the last position, and the logits [vocabulary] there."""
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def record(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            seen[layer] = inputs[0][0, -1].detach()

        return record

    hooks = [
        blocks.down(layer).register_forward_pre_hook(keep(layer)) for layer in range(blocks.depth)
    ]
    try:
        ids = torch.tensor([list(prompt)], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack([seen[layer] for layer in range(blocks.depth)]), logits


@contextmanager
def _patched_rows(
    blocks: FeedForward,
    values: torch.Tensor,
    place: dict[int, list[int]],
    own: dict[int, torch.Tensor],
) -> Iterator[None]:
    """Put values into their layer's rows, and keep each layer's input for its own gradient.

    place: layer -> rows of this chunk, in the order of `values`.
    """
    hooks = []

    def patch(layer: int, rows: list[int]) -> Callable[..., tuple[torch.Tensor]]:
        def replace(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            hidden = inputs[0]
            if not hidden.requires_grad:
                # The first patched layer has no gradient path below it; the plain row wants one.
                hidden = hidden.detach().requires_grad_()
            if rows:
                index = torch.tensor(rows, device=hidden.device)
                hidden = hidden.index_copy(1, index, values[index][None].to(hidden.dtype))
            own[layer] = hidden
            return (hidden,)

        return replace

    for layer in range(blocks.depth):
        hook = patch(layer, place.get(layer, []))
        hooks.append(blocks.down(layer).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


@contextmanager
def _patched(module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, inputs: (change(inputs[0]),))
    try:
        yield
    finally:
        handle.remove()


def _replace_last(value: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([hidden[:, :-1], value[None, None]], dim=1)
