"""Mends how vLLM computes LoRAs on a CPU: it is wrong beside the base model, and it copies weights.

vLLM marks a token of the base model with the index -1, by which its CPU operations take the last
adapter's weights: a base that is asked beside adapters answers as one of them (seen in 0.32). They
also copy an adapter's factors for every token. Here each adapter's tokens are multiplied together,
and a token of the base is left alone. On a GPU vLLM has other operations, which need none of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

Groups = list[tuple[int, torch.Tensor | None]]
"""(an adapter's slot, the rows of its tokens or None for all rows); the base's are in none."""


def groups_of(slots: torch.Tensor) -> Groups:
    """Which rows belong to which adapter: slots [n], -1 for the base."""
    found = slots.unique().tolist()
    if len(found) == 1:
        return [(found[0], None)] if found[0] >= 0 else []
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in found if slot >= 0]


def add_products(
    y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, groups: Groups, scale: float = 1.0
) -> None:
    """Add to y [n, >= out] what each adapter's matrix of weights [slots, 1, out, in] makes of x [n,
    in]; y may be wider or narrower than the matrix, as vLLM pads one or the other."""
    for slot, rows in groups:
        matrix = weights[slot].reshape(weights.shape[-2:]).to(y.dtype)
        given = (x if rows is None else x[rows]).to(y.dtype)
        width = min(y.shape[1], matrix.shape[0])
        made = torch.mm(given, matrix[:width].T) * scale
        if rows is None:
            y[:, :width] += made
        else:
            y[:, :width].index_add_(0, rows, made)


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
            between = torch.zeros((len(x), b.shape[-1]), dtype=torch.float32)
            add_products(between, x, a, self.groups, scale)
            add_products(y[:, start : start + width], between, b, self.groups)
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
