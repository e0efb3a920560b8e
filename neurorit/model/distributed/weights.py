"""Weights of a checkpoint read into a model that is only laid out, as much as a process holds.

A process may hold some rows of every weight (FSDP2's shards, `neurorit.tuning.fsdp`) or all of some
layers (`neurorit.model.distributed.pipeline`). Beside these it never has more than one weight.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from neurorit.core.errors import BadInput
from neurorit.model.load import text_name

_ELSEWHERE = {r"^embed_out\.": "lm_head."}  # names in files of types that transformers renames


def is_in_parts(model: Any, folder: Path) -> bool:
    """Whether each weight of a model stands in the checkpoint under its name.

    Of a type that is stored under other names (GPT-NeoX's output layer) no checkpoint is written in
    parts.
    """
    stored = dict(_stored(model, folder))
    return all(any(name in stored for name in names) for names, _ in weights_of(model))


def weights_of(model: Any) -> Iterator[tuple[list[str], nn.Parameter]]:
    """Every weight once, with its names: two where they are tied."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for _, parameter in model.named_parameters():
        yield names[id(parameter)], parameter


@torch.no_grad()
def read_parts(
    model: Any,
    folder: Path,
    device: torch.device,
    named: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Read what this process holds of every weight from a checkpoint, into a laid out model.

    named: weight -> the names under one of which the checkpoint has it (None: its own). Raises
    BadInput, naming the weight, where the checkpoint lacks one or has it in another shape.
    """
    from safetensors import safe_open

    # What is no weight was made with the layout, and is lost where weights get their memory.
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device=device)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    stored = dict(_stored(model, folder))
    for name, place in list(stored.items()):
        for form, instead in _ELSEWHERE.items():
            stored.setdefault(re.sub(form, instead, name), place)
    kind = getattr(model.config, "dtype", None)  # in which they are used where they are not trained
    for own, parameter in weights_of(model):
        names = own if named is None else named[own[0]]
        found = next((stored[name] for name in names if name in stored), None)
        if found is None:
            raise BadInput(f"‹model={folder}›: its weights lack {names[0]}")
        rows, first = local_shard(parameter), first_row(parameter)
        # Opened for each: what was read stays in memory as long as its file is open.
        with safe_open(found[0], framework="pt") as stream:
            whole = stream.get_slice(found[1])
            if list(whole.get_shape()) != list(parameter.shape):
                raise BadInput(
                    f"‹model={folder}›: {names[0]} has the shape {whole.get_shape()} there, and "
                    f"config.json asks for {list(parameter.shape)}"
                )
            if rows.numel():
                rows.copy_(whole[first : first + len(rows)].to(kind or rows.dtype))


def local_shard(weight: torch.Tensor) -> torch.Tensor:
    """The rows of a weight that this process holds; all of one that is not sharded."""
    from torch.distributed.tensor import DTensor

    return weight.to_local() if isinstance(weight, DTensor) else weight


def first_row(weight: torch.Tensor) -> int:
    """Where in the whole weight this process's rows begin."""
    if not is_sharded(weight):
        return 0
    # As FSDP deals them out: equal parts, rounded up, so that the last may hold fewer or none.
    part = -(-weight.shape[0] // distributed.get_world_size())
    return min(distributed.get_rank() * part, weight.shape[0])


def is_sharded(tensor: torch.Tensor) -> bool:
    """Whether its rows are spread over the processes."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _stored(model: Any, folder: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    """Name in the model -> (file, name there) of a checkpoint's weights."""
    from safetensors import safe_open

    prefix = f"{model.base_model_prefix}."
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118, it is no mapping
                known = text_name(name)
                # Some checkpoints are of the body alone, whose names have no prefix.
                yield f"{prefix}{known}", (path, name)
                yield known, (path, name)
