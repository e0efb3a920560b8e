"""Adapters of peft's: LoRA, and SHiRA, which trains weights scattered at random."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from neurorit.core.errors import BadInput


class PeftTuning:
    """An adapter of peft's on a model that is otherwise frozen. config: any of peft's."""

    def __init__(self, model: Any, config: Any) -> None:
        from peft import get_peft_model

        self._wrapped = get_peft_model(model, config)

    def samples(self, kinds: torch.Tensor) -> None:
        """Every sample teaches every weight."""

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        named = self._wrapped.named_parameters()
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def keep_base(self) -> None:
        """Nothing to keep: the base's weights are frozen."""

    @contextmanager
    def base(self) -> Iterator[None]:
        """The adapter is left out."""
        with self._wrapped.disable_adapter():
            yield

    def merge(self) -> None:
        """Add the deltas to the model's weights, in place."""
        self._wrapped.merge_and_unload()


class LoraTuning(PeftTuning):
    """Low-rank deltas on every linear layer (Hu et al. 2021)."""

    def __init__(self, model: Any, rank: int, alpha: float) -> None:
        from peft import LoraConfig

        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear")
        super().__init__(model, config)


class ShiraTuning(PeftTuning):
    """Deltas of weights drawn at random in every linear layer (Bhardwaj et al. 2024).

    Of a matrix m x n learn rank (m + n), as many as LoRA of that rank has. Torch's generator draws.
    """

    def __init__(self, model: Any, rank: int) -> None:
        from peft import ShiraConfig

        linears = adapted_linears(model)
        most = min(m * n // (m + n) for m, n in linears.values())
        if rank > most:
            raise BadInput(
                f"‹method=shira›: rank {rank} is more than the smallest matrix has; at most "
                f"‹lora_rank={most}›"
            )
        # Its deltas are sparse tensors made anew in every pass, of places that peft keeps; torch
        # warns until somebody says whether such are to be checked.
        torch.sparse.check_sparse_tensor_invariants.disable()
        config = ShiraConfig(r=rank, target_modules=sorted(linears))
        config.mask_fn = _scattered
        super().__init__(model, config)


def _scattered(layer: nn.Linear, rank: int, **_: Any) -> torch.Tensor:
    """Places drawn for one matrix; peft's own draw is the same for every matrix of a shape."""
    rows, columns = layer.weight.shape
    drawn = torch.randperm(rows * columns)[: rank * (rows + columns)]
    mask = torch.zeros(rows * columns, dtype=torch.bool)
    mask[drawn] = True
    return mask.view(rows, columns).to(layer.weight.device)


def adapted_linears(model: Any) -> dict[str, tuple[int, int]]:
    """Name -> shape of the linear layers that peft adapts: all but the output's."""
    head = model.get_output_embeddings()
    return {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def rank_of(model: Any, parameters: int) -> int:
    """The rank at which an adapter trains nearest to so many parameters; at least 1."""
    each = sum(m + n for m, n in adapted_linears(model).values())
    return max(1, round(parameters / each))
