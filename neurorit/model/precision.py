"""Which number format a model computes in on a CPU: bfloat16 where that is quicker and safe.

Weights are read, kept and written as they are stored. Attribution stays in float32: in bfloat16
its scores do not add up.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from neurorit.core.cores import fast_bfloat16
from neurorit.core.errors import BadInput

# Weights from which bfloat16 is quicker than float32 (docs/models.md has the measurement).
LARGE = 30_000_000
EFFICIENCY = 0.5  # of the machine's matrix speed, reached by whole passes
_FORMATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # as safetensors names them
DTYPES = ("auto", "stored", "float32", "bfloat16", "float16")


def compute_dtype(checkpoint: Path, asked: str = "auto", *, gpu: bool = False) -> str:
    """The format that vLLM computes in with a checkpoint.

    asked: one of DTYPES. `auto` is the stored one, but bfloat16 for large float32 models on a CPU
    that multiplies it quickly; `stored` is always the stored one. Raises BadInput for another name.
    """
    if asked not in DTYPES:
        raise BadInput(f"dtype {asked}: it is one of {', '.join(DTYPES)}")
    if asked not in ("auto", "stored"):
        return asked
    stored = stored_dtype(checkpoint)
    quicker = asked == "auto" and stored == "float32" and not gpu
    return "bfloat16" if quicker and pays(count_weights(checkpoint)) else stored


def pays(weights: int) -> bool:
    """Whether bfloat16 is quicker than float32 here for a model of so many weights."""
    return fast_bfloat16() is not None and weights >= LARGE


def autocasts(model: Any, device: Any, precision: str) -> bool:
    """Whether a model's products are taken in bfloat16 while it trains; what learns is float32.

    precision: auto, float32 or bf16. Raises BadInput for float32 products of lower weights.
    """
    low = str(model.dtype) != "torch.float32"
    if precision == "float32" and low:
        raise BadInput(
            f"tune: precision float32 wants float32 weights, and these are {model.dtype}; set "
            "dtype=float32 too"
        )
    if low or precision == "bf16":
        return True
    return precision == "auto" and device.type == "cpu" and pays(model.num_parameters())


def stored_dtype(checkpoint: Path) -> str:
    """The number format a checkpoint is stored in: vLLM's own choice would halve float32.

    It is what config.json names, also for a language model inside, else that of the first weights.
    """
    path = checkpoint / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from error
    for part in (config, config.get("text_config") or {}):
        named = part.get("dtype") or part.get("torch_dtype")
        if named:
            return str(named)
    kinds = (_FORMATS.get(one["dtype"]) for one in _weights(checkpoint))
    return next(filter(None, kinds), "float32")


def count_weights(checkpoint: Path) -> int:
    """How many weights a checkpoint's safetensors files hold, from their headers."""
    return sum(prod(one["shape"]) for one in _weights(checkpoint))


def _weights(checkpoint: Path) -> Iterator[dict[str, Any]]:
    """What the headers of a checkpoint's safetensors files say of each tensor."""
    for path in sorted(Path(checkpoint).glob("*.safetensors")):
        with open(path, "rb") as stream:
            try:
                (length,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(length))
            except (struct.error, ValueError, MemoryError) as error:
                raise BadInput(f"{path}: no safetensors file: {error}") from error
        header.pop("__metadata__", None)
        yield from header.values()


def matrix_speed(dtype: str, size: int = 1024) -> float:
    """Floating-point operations a second of a square matrix product on this machine."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        c = a @ b
        float(c[0, 0])  # waits for the GPU
        best = min(best, time.perf_counter() - started)
    return float(2 * size**3 / best)
