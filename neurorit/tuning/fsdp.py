"""A model's weights spread over the processes, layer by layer (torch's FSDP2).

A layer is whole on a device only while it computes. What is no part of the model, such as the
deltas of neurons, is small and stays whole in every process; its gradients are averaged here.
Checkpoints are read and written in parts too: no process ever holds one whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from neurorit.model.distributed.weights import is_sharded, local_shard, read_parts, weights_of
from neurorit.model.feed_forward import decoder_layers

_COUNT = "processes"
_INDEX = "model.safetensors.index.json"


def shard(model: Any, device: torch.device, weights: Path | None = None) -> None:
    """Spread the weights of a model over all processes, on `device`; they keep their types.

    weights: the checkpoint of a model that is only laid out (`neurorit.model.load.laid_out`); each
    process reads its own rows. Trained weights of a layer must share one type. Parameters are new
    objects afterwards.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for layer in decoder_layers(model):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if weights is not None:
        read_parts(model, weights, device)


@torch.no_grad()
def write_parts(model: Any, folder: Path | None, kinds: Mapping[str, torch.dtype]) -> None:
    """Write a sharded model as an ordinary checkpoint in files of about a layer's size.

    Every process takes part, and none holds more than its rows, a weight and (the first) a file's
    worth. folder: where the first process writes; None for the others. kinds: the types in which
    weights are written, by name.
    """
    from safetensors.torch import save_file

    weights = [(names[0], parameter) for names, parameter in weights_of(model)]
    most = max(sum(p.numel() for p in layer.parameters()) for layer in decoder_layers(model))
    files: list[list[str]] = [[]]
    held = 0
    for name, parameter in weights:
        if held and held + parameter.numel() > most:
            files.append([])
            held = 0
        files[-1].append(name)
        held += parameter.numel()
    named, places = dict(weights), {}
    size = 0
    for number, names in enumerate(files, start=1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        kept = {}
        for name in names:
            whole = _whole(named[name].data)
            if folder is not None:
                kept[name] = whole.to(device="cpu", dtype=kinds[name]).contiguous()
                places[name] = file
                size += kept[name].nbytes
        if folder is not None:
            save_file(kept, folder / file, metadata={"format": "pt"})
    if folder is not None:
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        model.config.save_pretrained(folder)
        if model.can_generate():
            model.generation_config.save_pretrained(folder)


def kinds_of(model: Any) -> dict[str, torch.dtype]:
    """The type of every weight, by name."""
    return {names[0]: parameter.dtype for names, parameter in weights_of(model)}


def _whole(weight: torch.Tensor) -> torch.Tensor:
    whole: torch.Tensor = weight.full_tensor() if is_sharded(weight) else weight  # type: ignore[attr-defined]
    return whole


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of those that are not sharded over all processes."""
    gradients = [p.grad for p in parameters if p.grad is not None and not is_sharded(p.grad)]
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

    kinds = [[p for p in parameters if is_sharded(p) is sharded] for sharded in (True, False)]
    norms = []
    for chosen in kinds:
        norm: Any = get_total_norm([p.grad for p in chosen if p.grad is not None])
        norms.append(norm.full_tensor() if is_sharded(norm) else norm)
    total = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))
    for chosen in kinds:
        clip_grads_with_norm_(chosen, most, total)


def save_shards(tensors: Mapping[str, torch.Tensor], folder: Path) -> Path:
    """Write this process's rows, and in the first process what is not sharded; returns the file."""
    from safetensors.torch import save_file

    kept = {
        name: local_shard(tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
        if is_sharded(tensor) or distributed.get_rank() == 0
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
