"""A model's weights spread over the processes, layer by layer (torch's FSDP2).

A layer is whole on a device only while it computes. What is no part of the model, such as the
deltas of neurons, is small and stays whole in every process; its gradients are averaged here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from neurorit.model.feed_forward import decoder_layers

_COUNT = "processes"


def shard(model: Any, device: torch.device) -> None:
    """Spread the weights of a model over all processes, on `device`; they keep their types.

    Trained weights of a layer must share one type. Parameters are new objects afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def local_shard(weight: torch.Tensor) -> torch.Tensor:
    """The rows of a weight that this process holds; all of one that is not sharded."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else weight


def first_row(weight: torch.Tensor) -> int:
    """Where in the whole weight this process's rows begin."""
    if not _is_sharded(weight):
        return 0
    # As FSDP deals them out: equal parts, rounded up, so that the last may hold fewer or none.
    part = -(-weight.shape[0] // distributed.get_world_size())
    return min(distributed.get_rank() * part, weight.shape[0])


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of those that are not sharded over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None and not _is_sharded(p.grad)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def clip(parameters: Sequence[nn.Parameter], most: float) -> None:
    """Scale all gradients so that their common norm is at most `most`."""
    from torch.nn.utils import clip_grads_with_norm_, get_total_norm

    kinds = [[p for p in parameters if _is_sharded(p) is sharded] for sharded in (True, False)]
    norms = []
    for chosen in kinds:
        norm: Any = get_total_norm([p.grad for p in chosen if p.grad is not None])
        norms.append(norm.full_tensor() if _is_sharded(norm) else norm)
    total = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    for chosen in kinds:
        clip_grads_with_norm_(chosen, most, total)


def save_shards(tensors: Mapping[str, torch.Tensor], folder: Path) -> Path:
    """Write this process's rows, and in the first process what is not sharded; returns the file."""
    from safetensors.torch import save_file

    kept = {
        name: local_shard(tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
        if _is_sharded(tensor) or distributed.get_rank() == 0
    }
    path = folder / f"state-{distributed.get_rank():05d}.safetensors"
    save_file(kept, path, metadata={_COUNT: str(distributed.get_world_size())})
    return path


def load_shards(folder: Path) -> dict[str, torch.Tensor]:
    """What this process wrote, with what the first one wrote for all."""
    from safetensors.torch import load_file

    files = [folder / f"state-{rank:05d}.safetensors" for rank in (0, distributed.get_rank())]
    return {**load_file(files[0]), **load_file(files[1])}


def load_whole(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that all processes wrote together, each whole again.

    Raises FileNotFoundError where the file of a process is missing.
    """
    from safetensors import safe_open

    found: dict[str, list[torch.Tensor]] = {}
    files = sorted(folder.glob("state-*.safetensors"))
    wanted = 1
    for path in files:
        with safe_open(path, framework="pt") as stream:
            wanted = int(stream.metadata()[_COUNT])
            for name in stream.keys():  # noqa: SIM118, it is no mapping
                found.setdefault(name, []).append(stream.get_tensor(name))
    if len(files) != wanted:
        raise FileNotFoundError(f"{len(files)} of {wanted} processes' files are there")
    return {name: p[0] if len(p) == 1 else torch.cat(p) for name, p in found.items()}


def _is_sharded(tensor: torch.Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
