"""The processes that torchrun or accelerate started: joining them, waiting for them, leaving.

Those that have a GPU each talk over NCCL, others over gloo. Waiting goes over gloo and has no limit
worth the name: one process may mine, save or ask a teacher for longer than NCCL waits.
"""

from __future__ import annotations

import atexit
import os
from datetime import timedelta
from functools import cache
from typing import Any

from neurorit.core.errors import BadInput

PATIENCE = timedelta(days=7)


def rank() -> int:
    """This process's place among those that were started together; 0 where it is alone."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """How many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: str = "auto") -> None:
    """Join the other processes, if there are any; asked for once or often.

    It must come before anything else that begins a process group: what begins it chooses what the
    gradients go over. Raises BadInput for accelerate's DeepSpeed, which is not supported.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise BadInput(
            "DeepSpeed is not supported: deltas are written into whole weights; start it with "
            "torchrun, or with accelerate's MULTI_GPU"
        )
    asked_to_shard()
    if count() == 1:
        return
    if ":" in device:
        raise BadInput(
            f"device {device}: every process would take it; leave `device` at auto, so that each "
            "takes a GPU of its own"
        )
    _joined(device.startswith("cpu"))


@cache
def asked_to_shard() -> bool:
    """Whether accelerate was told to use FSDP.

    That is then taken out of the environment: we spread the model ourselves, layer by layer with
    its deltas left whole (`neurorit.tuning.fsdp`), which accelerate's way of wrapping cannot do.
    """
    return os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true"


def wait() -> None:
    """Wait until every process is here, however long that takes."""
    if count() == 1:
        return
    import torch.distributed as distributed

    if not distributed.is_initialized():
        join()
    distributed.barrier(group=_patient())


@cache
def _joined(cpu: bool) -> None:
    import torch
    from accelerate import PartialState

    PartialState(cpu=cpu or not torch.cuda.is_available())
    atexit.register(_leave)


@cache
def _patient() -> Any:
    import torch.distributed as distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def _leave() -> None:
    """A group that is still up when Python ends may abort the process after its work is done."""
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
