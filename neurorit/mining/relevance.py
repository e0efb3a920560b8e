"""Relevance patching: one backward pass whose rules spread relevance instead of local slopes.

The change of a neuron's value is weighed by a coefficient that goes back through the model as
layer-wise relevance does: normalisers and attention patterns count as constants, an activation
function as the line through its value and zero, and a product gives half to each factor.

Source: RelP, Jafari et al. 2025 (arXiv 2508.21258); AttnLRP, Achtibat et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from neurorit.mining.integrated_gradients import Comparison, Method, plain_gradient
from neurorit.model.feed_forward import feed_forward

_CURVED = (functional.silu, functional.gelu, functional.relu)


def _relevance(given: Comparison) -> tuple[torch.Tensor, None]:
    """The difference times the coefficient at the values with the context."""
    with relevance_rules(given.rows.prefix.model):
        coefficient = plain_gradient(given.blocks, given.rows, given.settings)
    return (given.difference * coefficient).sum(2), None


RELEVANCE = Method(_relevance)


@contextmanager
def relevance_rules(model: Any) -> Iterator[None]:
    """Let gradients go back by the rules within the block; values stay what they are."""
    blocks = feed_forward(model)
    handles = [
        module.register_forward_hook(_constant_scale)
        for module in model.modules()
        if type(module).__name__.endswith("Norm")
    ]
    for layer in range(blocks.depth):
        factors = [blocks.gate(layer), blocks.up(layer)]
        if factors[0] is None and not blocks.fused:
            continue  # nothing is multiplied
        handles += [
            linear.register_forward_hook(
                lambda _module, _inputs, out: 0.5 * out + 0.5 * out.detach()
            )
            for linear in factors
            if linear is not None
        ]
    try:
        with _Rules():
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Rules(TorchFunctionMode):
    """Attention patterns as constants, activation functions as lines through zero."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query, key, *rest = args
            return func(query.detach(), key.detach(), *rest, **given)
        out = func(*args, **given)
        if func is functional.softmax:
            return out.detach()
        if func in _CURVED:
            return _with_slope(out, args[0], _ratio(out, args[0]))
        return out


def _constant_scale(module: nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> Any:
    """A norm's output, with the gradient that it has if its scale did not depend on the input.

    Norms give weight * scale * x + bias, where x may be centred first. Weight and bias are found by
    what the norm makes of zeros and of ones with alternating signs, whose scale is 1.
    """
    x = inputs[0]
    with torch.no_grad():
        signs = torch.ones_like(x[..., :1, :]).flatten(0, -2)[:1]
        signs[:, 1::2] = -1.0
        bias = module.forward(torch.zeros_like(signs))[0]
        weight = (module.forward(signs)[0] - bias) * signs[0]
        centred = "LayerNorm" in type(module).__name__
        plain = (x - x.mean(-1, keepdim=True) if centred else x) * weight
        scale = ((out - bias) * plain).sum(-1, keepdim=True)
        scale = scale / plain.square().sum(-1, keepdim=True).clamp_min(1e-30)
    if centred:
        x = x - x.mean(-1, keepdim=True)
    return _with_slope(out, x, weight * scale)


def _ratio(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """out / x, and a half where x is nothing."""
    some = x.abs() > 1e-6
    return torch.where(some, out / torch.where(some, x, 1.0), 0.5).detach()


def _with_slope(out: torch.Tensor, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """The value of `out`, with the gradient of slope * x."""
    line = slope * x
    return out.detach() + (line - line.detach())
