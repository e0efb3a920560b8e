"""Activations in float32 over weights of any precision, and what their products are taken of.

In bfloat16 a step along a path is rounded away, and scores no longer add up: a median residual of
11 % was measured where float32 has 0.2 %. Weights stay as they are, also for the backward pass.

Tensor cores multiply quickly what has 10 bits of mantissa (TF32) or 7 (bfloat16); sums stay
float32. On a CPU nothing is quicker so: inputs are rounded by hand there, to see what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FLOAT32, TF32, BFLOAT16 = "float32", "tf32", "bfloat16-inputs"
_TF32_DROPPED = 13  # of float32's 23 bits of mantissa


@contextmanager
def float32_activations(model: Any, products: str = FLOAT32) -> Iterator[None]:
    """Let the model compute in float32 within the block.

    products: what the inputs of its matrix products are rounded to: float32, tf32 or
    bfloat16-inputs.
    """
    if model.dtype == torch.float32 and products == FLOAT32:
        yield
        return
    on_gpu = model.device.type == "cuda"
    told = torch.get_float32_matmul_precision()
    try:
        if on_gpu and products == TF32:
            torch.set_float32_matmul_precision("high")
            products = FLOAT32  # the GPU rounds
        with _Float32(products):
            yield
    finally:
        torch.set_float32_matmul_precision(told)


class _Float32(TorchFunctionMode):
    """Embeddings come out in float32; what meets them is brought to float32 for the moment."""

    def __init__(self, products: str) -> None:
        super().__init__()
        self._products = products

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is functional.embedding:
            return func(*args, **given).float()
        if func is functional.linear:
            return _linear(self._products, *args, **given)
        if func is functional.layer_norm:
            args = [_raised(value) for value in args]
            given = {name: _raised(value) for name, value in given.items()}
        if func in _ATTENTION and self._products != FLOAT32:
            inputs = _ATTENTION[func]
            args = [self._rounded(value) if i < inputs else value for i, value in enumerate(args)]
        return func(*args, **given)

    def _rounded(self, value: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = _Rounded.apply(value, self._products)  # type: ignore[no-untyped-call]
        return found


# The products of attention, and how many tensors each multiplies.
_ATTENTION = {functional.scaled_dot_product_attention: 3, torch.matmul: 2}


def _linear(
    products: str, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> Any:
    if weight.dtype == torch.float32 and products == FLOAT32:
        return functional.linear(x, weight, bias)
    raised: torch.Tensor = _Linear.apply(x.float(), weight, products)  # type: ignore[no-untyped-call]
    return raised if bias is None else raised + bias.float()


class _Linear(torch.autograd.Function):
    """A linear layer of a frozen weight, which is raised to float32 twice and never kept so."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, products: str) -> torch.Tensor:
        ctx.save_for_backward(weight)
        ctx.products = products
        return _product(x, weight.t(), products)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        return _product(gradient, weight, ctx.products), None, None


class _Rounded(torch.autograd.Function):
    """A factor rounded, with its gradient rounded too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, products: str) -> torch.Tensor:
        ctx.products = products
        return rounded(x, products)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return rounded(gradient, ctx.products), None


def _product(x: torch.Tensor, weight: torch.Tensor, products: str) -> torch.Tensor:
    """x [..., n] times a weight [n, m], summed in float32."""
    if products == BFLOAT16 and x.is_cuda:
        low = x.flatten(0, -2).bfloat16()
        summed = torch.mm(low, weight.bfloat16(), out_dtype=torch.float32)
        return summed.view(*x.shape[:-1], weight.shape[1])
    return rounded(x, products) @ rounded(weight.float(), products)


def rounded(x: torch.Tensor, products: str) -> torch.Tensor:
    """float32 values rounded, to the nearest and even, to what a product is taken of."""
    if products == FLOAT32:
        return x
    if products == BFLOAT16:
        return x.bfloat16().float()
    bits = x.contiguous().view(torch.int32)
    even = (bits >> _TF32_DROPPED) & 1
    half = (1 << (_TF32_DROPPED - 1)) - 1
    kept = (bits + half + even) & ~((1 << _TF32_DROPPED) - 1)
    return kept.view(torch.float32)


def _raised(value: Any) -> Any:
    low = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.float() if low else value
