"""Integrated gradients of every neuron, exactly, in one forward and one backward.

Only the positions that predict the answer are patched, so the prefix's keys and values never
change. The prompt is prefilled once without gradients; then those positions (one, or one per
token of the answer) are repeated as many *rows* that see the cached prefix and themselves only.
Row (l, k) has layer l's down-projection input replaced by step k of the path from the neurons'
values without the context to those with it. One backward of the sum of all rows' F gives every
layer's exact gradient. Prompts are batched: each sample has rows of its own.

Source: docs/method.md, Phase 1 [P2, K]; the one pass and its measure are our own [I].
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from neurorit.mining.settings import ATTRIBUTIONS, SITES
from neurorit.model.feed_forward import Site
from neurorit.model.hooks import holding, recording
from neurorit.model.shared_prefix import Prefix, Rows

_TINY = 1e-12


@dataclass(frozen=True)
class Query:
    """One prediction to attribute: token ids of the prompt with and without the context.

    target: the answer's token ids; None takes what the model itself would say.
    """

    prompt_with: Sequence[int]
    prompt_without: Sequence[int]
    target: Sequence[int] | None = None


@dataclass(frozen=True)
class Attribution:
    """What one sample says of every neuron.

    scores [L, F]: attribution, in units of F; gain [L]: F with the context minus F with layer l's
    neurons as without it; residual: sum over layers of |sum_j A - gain|, over the sum of |gain|
    (0 for methods that have no completeness); target: the tokens that F is the probability of.
    context_gain: F with the context minus F without it; neuron_gain: F with the context minus F
    with all layers' neurons as without it, which is what they carry of it together.
    """

    scores: torch.Tensor
    gain: torch.Tensor
    residual: float
    target: tuple[int, ...]
    context_gain: float
    neuron_gain: float


@dataclass(frozen=True)
class Settings:
    """How F is made and differentiated.

    method: of `mining.settings.ATTRIBUTIONS`; gradient-activation is one gradient, at the values
    with the context, activation no gradient, a control, and scaled-gradients the predecessors'
    published code, which weights step k by its place on the path: it does not add up.
    objective: F is the probability of the answer's first token, of the whole answer (answer-span),
    or its logarithm (log-prob). steps: m of the rule that sums the path, `quadrature` (midpoint or
    gauss-legendre). rows: most tokens in one pass, the bound on memory. ends: tokens that
    end the model's own answer, which has at most `longest` tokens. site: where the neurons are.
    """

    method: str = "integrated-gradients"
    site: str = "feed-forward"
    objective: str = "first-token"
    steps: int = 20
    quadrature: str = "midpoint"
    rows: int = 512
    ends: tuple[int, ...] = ()
    longest: int = 16


@dataclass(frozen=True)
class Comparison:
    """What a method of attribution scores: neurons with the context against without it.

    blocks: where they are; rows: the tokens that predict the answer, over the prompts [B]; without
    [B, L, N, F]: the neurons' values there without the context; difference: how much they change.
    Of a model whose layers are parted over processes these are of the part's own layers.
    Of a site whose neurons are several coordinates each F counts these; they are summed later.
    """

    blocks: Site
    rows: Rows
    without: torch.Tensor
    difference: torch.Tensor
    settings: Settings


@dataclass(frozen=True)
class Method:
    """A method of attribution.

    score: gives scores [B, L, F], and F [B, L] at each layer's start of the path where the scores
    are to add up to what is between (None for methods that have no completeness), which only the
    last part of a model knows. along_path: a context takes a row for each step of each layer, so
    that fewer share a pass.
    """

    score: Callable[[Comparison], tuple[torch.Tensor, torch.Tensor | None]]
    along_path: bool = False


def attribute(
    model: Any,
    queries: Sequence[Query],
    settings: Settings,
    prefixes: tuple[Prefix, Prefix] | None = None,
) -> list[Attribution]:
    """Attribute each query's prediction to the neurons; one batch.

    prefixes: of the prompts with and without the context, where they were made otherwise than the
    model computes (`Prefix.raised`). Parameters need no gradients; none are left behind. Of a model
    whose layers are parted over processes the last part gives what all have found, the others
    nothing.
    """
    method: Method = ATTRIBUTIONS.get(settings.method)
    blocks: Site = SITES.get(settings.site)(model)
    prefix, seen = _prefilled(model, blocks, [query.prompt_with for query in queries], prefixes, 0)
    targets = _targets(prefix, queries, settings)
    rows = Rows.of(prefix, [query.prompt_with[-1] for query in queries], targets)
    with torch.no_grad():
        whole, present = _values(blocks, rows, seen)
        gold = _score(whole, rows, settings)[:, 0]
        without_context = [query.prompt_without for query in queries]
        bare, seen = _prefilled(model, blocks, without_context, prefixes, 1)
        lasts = [query.prompt_without[-1] for query in queries]
        bare_rows = Rows.of(bare, lasts, targets, rows.span)
        whole, without = _values(blocks, bare_rows, seen)
        context_gain = (gold - _score(whole, bare_rows, settings)[:, 0]).cpu()
        with holding(blocks, without):
            neuron_gain = (gold - _score(rows.plain(), rows, settings)[:, 0]).cpu()
    difference = (present - without) * rows.real[:, None, :, None]
    own, start = method.score(Comparison(blocks, rows, without, difference, settings))
    own = own.float().cpu().unflatten(2, (blocks.width, blocks.unit)).sum(3)
    scores = prefix.part.joined(own)
    if scores is None:
        return []
    gain = torch.zeros(scores.shape[:2])
    if start is not None:
        gain = (gold[:, None] - start).float().cpu()
    off = (scores.sum(2) - gain).abs().sum(1) / gain.abs().sum(1).clamp_min(_TINY)
    complete = start is not None
    return [
        Attribution(
            scores[i],
            gain[i],
            float(off[i]) if complete else 0.0,
            tuple(targets[i]),
            float(context_gain[i]),
            float(neuron_gain[i]),
        )
        for i in range(len(queries))
    ]


def attribute_by_loop(
    model: Any,
    query: Query,
    *,
    steps: int = 20,
    quadrature: str = "midpoint",
    objective: str = "first-token",
    site: str = "feed-forward",
) -> torch.Tensor:
    """The same scores [L, F] by whole forward passes, one per layer and step: the reference."""
    assert query.target is not None
    blocks: Site = SITES.get(site)(model)
    target = list(query.target[:1] if objective == "first-token" else query.target)
    tail = target[:-1]
    with torch.no_grad():
        values = []
        for prompt in (query.prompt_with, query.prompt_without):
            with recording(blocks) as seen:
                model(input_ids=_ids(model, [*prompt, *tail]), use_cache=False)
            values.append([seen[layer][0, -len(target) :] for layer in range(blocks.depth)])
    present, without = (torch.stack(found) for found in values)
    ids = _ids(model, [*query.prompt_with, *tail])
    scores = present.new_zeros(blocks.depth, blocks.width * blocks.unit)
    places, weights = path_nodes(quadrature, steps)
    for layer in range(blocks.depth):
        difference = present[layer] - without[layer]
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True):
            value = without[layer] + place * difference
            value = value.detach().requires_grad_()
            with _patched(blocks.down(layer), partial(_replace_last, value)):
                logits = model(input_ids=ids, use_cache=False).logits[0, -len(target) :]
            logs = logits.float().log_softmax(-1)[range(len(target)), target].sum()
            score = logs if objective == "log-prob" else logs.exp()
            (gradient,) = torch.autograd.grad(score, value)
            scores[layer] += (gradient * difference).sum(0) * weight
    summed: torch.Tensor = scores.unflatten(1, (blocks.width, blocks.unit)).sum(2)
    return summed


def path_nodes(quadrature: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places on the path from 0 to 1, and their weights [steps], which add up to 1.

    midpoint: of equal pieces; gauss-legendre: exact for polynomials of degree below 2 * steps.
    """
    if quadrature == "midpoint":
        return (torch.arange(steps) + 0.5) / steps, torch.full((steps,), 1.0 / steps)
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # from -1 to 1
    return torch.tensor((nodes + 1) / 2).float(), torch.tensor(weights / 2).float()


def _targets(prefix: Prefix, queries: Sequence[Query], settings: Settings) -> list[list[int]]:
    """Each query's answer tokens; the model's own where none are given."""
    most = 1 if settings.objective == "first-token" else settings.longest
    targets = [list(q.target) if q.target is not None else None for q in queries]
    if any(target is None for target in targets):
        own = prefix.greedy(most, settings.ends)
        targets = [own[i] if target is None else target for i, target in enumerate(targets)]
    if settings.objective == "first-token":
        return [target[:1] for target in targets if target is not None]
    return [target for target in targets if target is not None]


def _integrate(given: Comparison, *, scaled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores [B, L, F] of the path, and F [B, L] at each layer's start.

    scaled: weight step k by its place on the path.
    """
    rows, steps, part = given.rows, given.settings.steps, given.rows.prefix.part
    without, difference = given.without, given.difference
    places, weights = path_nodes(given.settings.quadrature, steps)
    # Step `steps` of each layer is the start of its path: it needs no gradient, only F there.
    alpha = torch.cat([places, places.new_zeros(1)]).to(without.device)
    weight = torch.cat([weights, weights.new_zeros(1)]).to(without.device)
    if scaled:
        weight = weight * alpha
    batch, _, span, _ = without.shape
    total = torch.zeros(without.shape, dtype=torch.float32, device=without.device)
    start = torch.zeros(batch, part.depth, device=without.device)

    def forward(chunk: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """The layers and steps of this part's rows, their values, and where gradients begin."""
        layers = [layer for layer, _ in chunk]
        here = [(layer - part.layers.start, k) for layer, k in chunk if layer in part.layers]
        own = torch.tensor(here, dtype=torch.long, device=without.device).view(-1, 2)
        path = alpha[own[:, 1], None, None].to(without.dtype) * difference[:, own[:, 0]]
        values = (without[:, own[:, 0]] + path).detach().requires_grad_()
        before = bisect_left(layers, part.layers.start)
        with _patched_rows(given.blocks, values, own[:, 0].tolist(), before):
            value = _score(rows.logits(layers, given.blocks.early), rows, given.settings)
        root = part.root(value)
        for row, (layer, k) in enumerate(chunk):
            if k == steps:
                start[:, layer] = value.detach()[:, row]
        return own, values, root

    def backward(own: torch.Tensor, values: torch.Tensor, root: Any) -> None:
        for gradient in part.gradients(root, [values] if len(own) else []):
            total.index_add_(1, own[:, 0], gradient.float() * weight[own[:, 1], None, None])

    plan = [(layer, k) for layer in range(part.depth) for k in range(steps + 1)]
    # The prompt's own tokens go along. Parts of a line have a pass each under way.
    size = max(1, given.settings.rows // (batch * span * part.ahead) - 1)
    chunks = [plan[first : first + size] for first in range(0, len(plan), size)]
    for first in range(0, len(chunks), part.ahead):
        for way in [forward(chunk) for chunk in chunks[first : first + part.ahead]]:
            backward(*way)
    return (total * difference.float()).sum(2), start


def _gradient_activation(given: Comparison) -> tuple[torch.Tensor, None]:
    """The difference times one gradient, at the values with the context."""
    gradient = plain_gradient(given.blocks, given.rows, given.settings)
    return (given.difference * gradient).sum(2), None


def _activation(given: Comparison) -> tuple[torch.Tensor, None]:
    """The difference alone: a control."""
    return given.difference.sum(2), None


INTEGRATED_GRADIENTS = Method(_integrate, along_path=True)
SCALED_GRADIENTS = Method(partial(_integrate, scaled=True), along_path=True)
GRADIENT_ACTIVATION = Method(_gradient_activation)
ACTIVATION = Method(_activation)


def plain_gradient(blocks: Site, rows: Rows, settings: Settings) -> torch.Tensor:
    """Gradient [B, L, N, F] of F at the values with the context; one backward."""
    own: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., tuple[torch.Tensor]]:
        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            hidden = inputs[0]
            if not hidden.requires_grad:
                hidden = hidden.detach().requires_grad_()
            own[layer] = hidden
            return (hidden,)

        return hook

    hooks = [
        blocks.down(layer).register_forward_pre_hook(keep(layer)) for layer in range(blocks.depth)
    ]
    try:
        value = _score(rows.plain(), rows, settings)
    finally:
        for handle in hooks:
            handle.remove()
    part = rows.prefix.part
    found = part.gradients(part.root(value), [own[layer] for layer in range(blocks.depth)])
    return torch.stack(list(found), dim=1)


def _score(logits: torch.Tensor, rows: Rows, settings: Settings) -> torch.Tensor:
    """F [B, R] of each row, in float32, from logits [B, R, N, vocabulary].

    Where these are no last part's it is nothing.
    """
    if not rows.prefix.part.ends:
        return torch.zeros(logits.shape[:2], device=logits.device)
    logs = logits.float().log_softmax(-1)
    index = rows.targets[:, None, :, None].expand(-1, logs.shape[1], -1, 1)
    found = (logs.gather(-1, index)[..., 0] * rows.real[:, None]).sum(-1)
    return found if settings.objective == "log-prob" else found.exp()


def _prefilled(
    model: Any,
    blocks: Site,
    prompts: Sequence[Sequence[int]],
    made: tuple[Prefix, Prefix] | None,
    which: int,
) -> tuple[Prefix, dict[int, torch.Tensor]]:
    """The prompts' prefix and the neurons at their last tokens; of one made already nothing."""
    if made is not None:
        return made[which], {}
    with recording(blocks, last=1) as seen:
        return Prefix(model, prompts, apart=True), seen


def _values(
    blocks: Site, rows: Rows, seen: dict[int, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, 1, N, vocabulary] and neurons' values [B, L, N, F] where the answer is predicted.

    seen: what the prefix's own pass recorded, which is enough for an answer of one token; empty
    where it was made otherwise than the rows.
    """
    if rows.span == 1 and seen:
        last = {layer: values[:, -1:] for layer, values in seen.items()}
        return rows.prefix.last_logits[:, None, None], _stack(last, blocks)
    with recording(blocks) as found:
        logits = rows.plain()
    return logits, _stack(found, blocks)


def _stack(seen: dict[int, torch.Tensor], blocks: Site) -> torch.Tensor:
    return torch.stack([seen[layer] for layer in range(blocks.depth)], dim=1)


@contextmanager
def _patched_rows(
    blocks: Site, values: torch.Tensor, layers: Sequence[int], before: int
) -> Iterator[None]:
    """Put values [B, R, N, F] into the rows of their layers; other rows stay as they are.

    before: rows of lower layers, which are no part of this model. The prompt's own tokens stand
    before all rows (see `Rows.logits`) and stay as they are too.
    """
    hooks = []
    batch, _, span, width = values.shape

    def patch(rows: list[int]) -> Callable[..., tuple[torch.Tensor]]:
        index = torch.tensor(rows, device=values.device)

        def hook(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            hidden = inputs[0].unflatten(1, (-1, span))
            put = values[:, index].to(hidden.dtype)
            return (hidden.index_copy(1, index + before + 1, put).reshape(batch, -1, width),)

        return hook

    for layer in sorted(set(layers)):
        rows = [row for row, own in enumerate(layers) if own == layer]
        hooks.append(blocks.down(layer).register_forward_pre_hook(patch(rows)))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _ids(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(tokens)], device=model.device)


@contextmanager
def _patched(module: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, inputs: (change(inputs[0]),))
    try:
        yield
    finally:
        handle.remove()


def _replace_last(value: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    return torch.cat([hidden[:, : -len(value)], value[None]], dim=1)
