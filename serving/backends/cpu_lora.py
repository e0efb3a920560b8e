"""Mends how vLLM computes LoRAs on a CPU: it is wrong beside the base model, and it copies weights.

vLLM marks a token of the base model with the index -1, by which its CPU operations take the last
adapter's weights: a base that is asked beside adapters answers as one of them (seen in 0.32). They
also copy an adapter's factors for every token, and multiply by zeros where it changes nothing. Here
each adapter's tokens are multiplied together, and a token of the base is left alone. On a GPU vLLM
has other operations, which need none of this.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

Groups = list[tuple[int, slice | torch.Tensor]]
"""(an adapter's slot, the rows of its tokens); the base's tokens are in none."""

_LONG = 16  # tokens of a run from which on it is worth multiplications of its own


def groups_of(slots: torch.Tensor) -> Groups:
    """Which rows belong to which adapter: slots [n], -1 for the base.

    Tokens of a prompt stand beside each other: they are a slice, which is not copied. An adapter's
    other tokens, of answers that are being written, are one list of rows.
    """
    found, lengths = torch.unique_consecutive(slots, return_counts=True)
    groups: Groups = []
    others: dict[int, list[int]] = {}
    start = 0
    for slot, length in zip(found.tolist(), lengths.tolist(), strict=True):
        if slot >= 0 and (length >= _LONG or length == len(slots)):
            groups.append((slot, slice(start, start + length)))
        elif slot >= 0:
            others.setdefault(slot, []).extend(range(start, start + length))
        start += length
    return groups + [(slot, torch.tensor(rows)) for slot, rows in others.items()]


def add_products(
    y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, groups: Groups, scale: float = 1.0
) -> None:
    """Add to y [n, >= out] what each adapter's matrix of weights [slots, 1, out, in] makes of x [n,
    in]; y may be wider or narrower than the matrix, as vLLM pads one or the other."""
    for slot, rows in groups:
        _add(y, x[rows], _matrix(weights, slot), rows, scale)


def add_adapters(
    y: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    groups: Groups,
    scale: float = 1.0,
) -> None:
    """Add to y [n, out] what each adapter's two factors make of x [n, in], in float32 between.

    a [slots, 1, rank, in], b [slots, 1, out, rank]; of a slot without weights here nothing is done.
    """
    used = slots_in_use(b)
    for slot, rows in groups:
        if used[slot]:
            between = x[rows].float() @ _matrix(a, slot).float().T
            _add(y, between, _matrix(b, slot), rows, scale)


_in_use: dict[int, tuple[weakref.ref[torch.Tensor], int, list[bool]]] = {}


def slots_in_use(b: torch.Tensor) -> list[bool]:
    """For each slot of stacked factors b [slots, ...], whether it has a weight that is not zero.

    vLLM prepares every matrix of the model for adapters, which mostly change a few kinds of them.
    """
    if b.is_inference():  # such a tensor does not count
        return [True] * len(b)
    known = _in_use.get(id(b))
    # A tensor counts what is written into it: adapters come and go.
    if known is None or known[0]() is not b or known[1] != b._version:
        known = (weakref.ref(b), b._version, b.flatten(1).any(1).tolist())
        _in_use[id(b)] = known
    return known[2]


def _matrix(weights: torch.Tensor, slot: int) -> torch.Tensor:
    return weights[slot].reshape(weights.shape[-2:])


def _add(
    y: torch.Tensor,
    given: torch.Tensor,
    matrix: torch.Tensor,
    rows: slice | torch.Tensor,
    scale: float,
) -> None:
    width = min(y.shape[1], matrix.shape[0])
    given, matrix = given.to(y.dtype), matrix[:width].to(y.dtype)
    if isinstance(rows, slice):
        y[rows, :width].addmm_(given, matrix.T, alpha=scale)
    else:
        y[:, :width].index_add_(0, rows, given @ matrix.T, alpha=scale)


def install() -> None:
    """Put these operations in the place of vLLM's, in this process and those it forks."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    wrapper: Any = punica_cpu.PunicaWrapperCPU
    told = wrapper.update_metadata

    def update_metadata(self: Any, *given: Any, **more: Any) -> None:
        told(self, *given, **more)
        # Once for each batch, not for each of some hundred matrices.
        self.groups = groups_of(self.token_lora_indices)

    def add_lora_linear(
        self: Any,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Sequence[torch.Tensor],
        lora_b_stacked: Sequence[torch.Tensor],
        scale: float,
        output_slices: Sequence[int],
        **_: Any,
    ) -> None:
        if not self.groups:
            return
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_adapters(y[:, start : start + width], x, a, b, self.groups, scale)
            start += width

    # vLLM's own names, by which it also gives them.
    def shrink(
        inputs: torch.Tensor,
        lora_b_weights: torch.Tensor,
        output_tensor: torch.Tensor,
        lora_indices_tensor: torch.Tensor,
        scaling: float = 1.0,
    ) -> None:
        output_tensor.zero_()
        add_products(output_tensor, inputs, lora_b_weights, groups_of(lora_indices_tensor), scaling)

    def expand(
        inputs: torch.Tensor,
        lora_b_weights: torch.Tensor,
        output_tensor: torch.Tensor,
        lora_indices_tensor: torch.Tensor,
        add_inputs: bool = True,
    ) -> None:
        if not add_inputs:
            output_tensor.zero_()
        add_products(output_tensor, inputs, lora_b_weights, groups_of(lora_indices_tensor))

    def expand_slice(
        inputs: torch.Tensor,
        lora_b_weights: torch.Tensor,
        output_tensor: torch.Tensor,
        lora_indices_tensor: torch.Tensor,
        slice_offset: int,
        slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        part = output_tensor[:, slice_offset : slice_offset + slice_size]
        expand(inputs, lora_b_weights, part, lora_indices_tensor, add_inputs)

    wrapper.groups = []
    wrapper.update_metadata, wrapper.add_lora_linear = update_metadata, add_lora_linear
    # Of embeddings, heads and sharded layers, which adapters seldom have.
    for module in (lora_ops, punica_cpu):
        module.bgmv_shrink, module.bgmv_expand = shrink, expand
        module.bgmv_expand_slice = expand_slice
