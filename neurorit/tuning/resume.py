"""Saved states of a training run: tensors in safetensors, and a mark that names the last whole one.

A state that was not finished has no mark, so a run that was killed goes on from the one before it.
Of a model that is sharded each process writes its part.
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

from neurorit.core.atomic_files import write_text
from neurorit.core.errors import NeuroritError
from neurorit.model.distributed.weights import local_shard
from neurorit.tuning.fsdp import load_shards, load_whole, save_shards

Named = list[tuple[str, nn.Parameter]]
TRAINER_FILE = "trainer_state.json"
_MARK, _WHOLE = "state.json", "state.safetensors"


@dataclass(frozen=True)
class Saved:
    """A whole saved state: where, after which step, the loss logged last, and whether the run ended
    with it."""

    folder: Path
    step: int
    loss: float
    ended: bool = False


def last_saved(state: Path, identity: Mapping[str, Any]) -> Saved | None:
    """The saved state of this run; None where there is none, or only that of another run."""
    mark = state / _MARK
    if not mark.is_file():
        return None
    kept = json.loads(mark.read_text(encoding="utf-8"))
    if kept["identity"] != json.loads(json.dumps(identity)):
        return None
    folder = state / f"step-{kept['step']}"
    return Saved(folder, int(kept["step"]), float(kept["loss"]), bool(kept.get("ended")))


def clear(state: Path) -> None:
    """Remove what another run left, whose files must not be taken for some of this one's."""
    if state.exists():
        shutil.rmtree(state)


def mark_saved(saved: Saved, identity: Mapping[str, Any]) -> None:
    """Say that a state is whole, and remove those before it."""
    mark = {"identity": identity, "step": saved.step, "loss": saved.loss, "ended": saved.ended}
    write_text(saved.folder.parent / _MARK, json.dumps(mark) + "\n")
    for old in saved.folder.parent.glob("step-*"):
        if old != saved.folder:
            shutil.rmtree(old, ignore_errors=True)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """What the Trainer had logged when it saved this state."""
    kept = json.loads((folder / TRAINER_FILE).read_text(encoding="utf-8"))
    log: list[dict[str, Any]] = kept["log_history"]
    return log


def write_tensors(
    named: Named, optimizer: torch.optim.Optimizer, state: Path, step: int, *, sharded: bool
) -> Path:
    """Write parameters and the optimizer's moments; returns the folder, which has no mark yet.

    sharded: this process writes its part only.
    """
    from safetensors.torch import save_file

    tensors = {f"value/{name}": parameter.detach() for name, parameter in named}
    for name, parameter in named:
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach()
    folder = state / f"step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    if sharded:
        path = save_shards(tensors, folder)
    else:
        path = folder / _WHOLE
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
    return folder


def write_best(named: Named, state: Path, step: int) -> None:
    """Write the best state's parameters so far, beside those that a saved state may still name."""
    from safetensors.torch import save_file

    folder = state / f"best-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"value/{name}": p.detach().cpu().contiguous() for name, p in named}
    save_file(tensors, folder / _WHOLE)


@torch.no_grad()
def read_values(named: Named, folder: Path, *, sharded: bool = False) -> None:
    """Put saved values into parameters; those that parts hold are put together for whole ones."""
    tensors = _read(folder, sharded)
    for name, parameter in named:
        local_shard(parameter).copy_(tensors[f"value/{name}"])


@torch.no_grad()
def read_moments(
    named: Named, optimizer: torch.optim.Optimizer, folder: Path, *, sharded: bool = False
) -> None:
    """Put saved moments into an AdamW optimizer."""
    tensors = _read(folder, sharded)
    for name, parameter in named:
        # AdamW keeps its step count on the CPU and its moments beside the parameter.
        moments = {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        for key, moment in moments.items():
            local_shard(moment).copy_(tensors[f"{key}/{name}"])
        optimizer.state[parameter] = {"step": tensors[f"step/{name}"], **moments}


def _read(folder: Path, sharded: bool) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / _WHOLE
    try:
        if sharded:
            return load_shards(folder)
        return load_file(path) if path.is_file() else load_whole(folder)
    except (OSError, SafetensorError) as error:
        raise NeuroritError(
            f"{folder}: this saved state cannot be read ({error}); remove {folder.parent}, and the "
            "stage begins again"
        ) from error
