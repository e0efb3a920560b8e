"""Saved states of a training run: tensors in safetensors, and a mark that names the last whole one.

A state that was not finished has no mark, so a run that was killed goes on from the one before it.
Where a model is spread over processes each writes its part. It knows nothing of how training goes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurorit.sharding import load_parts, load_whole, own_part, save_parts
from retrieval.artifact import write_text

Named = list[tuple[str, nn.Parameter]]
_MARK, _WHOLE = "state.json", "state.safetensors"


@dataclass(frozen=True)
class Saved:
    """A whole saved state: where, after which step, and the loss logged last."""

    folder: Path
    step: int
    loss: float


def last_saved(state: Path, identity: Mapping[str, Any]) -> Saved | None:
    """The saved state of this run; None where there is none, or only that of another run."""
    mark = state / _MARK
    if not mark.is_file():
        return None
    kept = json.loads(mark.read_text(encoding="utf-8"))
    if kept["identity"] != json.loads(json.dumps(identity)):
        return None
    return Saved(state / f"step-{kept['step']}", int(kept["step"]), float(kept["loss"]))


def mark_saved(saved: Saved, identity: Mapping[str, Any]) -> None:
    """Say that a state is whole, and remove those before it."""
    mark = {"identity": identity, "step": saved.step, "loss": saved.loss}
    write_text(saved.folder.parent / _MARK, json.dumps(mark) + "\n")
    for old in saved.folder.parent.glob("step-*"):
        if old != saved.folder:
            shutil.rmtree(old, ignore_errors=True)


def write_tensors(
    named: Named, optimizer: torch.optim.Optimizer, state: Path, step: int, *, spread: bool
) -> Path:
    """Write parameters and the optimizer's moments; returns the folder, which has no mark yet.

    spread: this process writes its part only.
    """
    from safetensors.torch import save_file

    tensors = {f"value/{name}": parameter.detach() for name, parameter in named}
    for name, parameter in named:
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach()
    folder = state / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    if spread:
        path = save_parts(tensors, folder)
    else:
        path = folder / _WHOLE
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    return folder


@torch.no_grad()
def read_values(named: Named, folder: Path, *, spread: bool = False) -> None:
    """Put saved values into parameters; those that parts hold are put together for whole ones."""
    tensors = _read(folder, spread)
    for name, parameter in named:
        own_part(parameter).copy_(tensors[f"value/{name}"])


@torch.no_grad()
def read_moments(
    named: Named, optimizer: torch.optim.Optimizer, folder: Path, *, spread: bool = False
) -> None:
    """Put saved moments into an AdamW optimizer."""
    tensors = _read(folder, spread)
    for name, parameter in named:
        # AdamW keeps its step count on the CPU and its moments beside the parameter.
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        for key, moment in moments.items():
            own_part(moment).copy_(tensors[f"{key}/{name}"])
        optimizer.state[parameter] = {"step": tensors[f"step/{name}"], **moments}


def _read(folder: Path, spread: bool) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    if spread:
        return load_parts(folder)
    path = folder / _WHOLE
    return load_file(path) if path.is_file() else load_whole(folder)
