"""LoRA folders for the tests, as peft writes them, without peft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file


def save_lora(
    directory: Path,
    model: Path,
    *,
    rank: int = 3,
    seed: int = 0,
    modules: tuple[str, ...] = ("up_proj", "down_proj"),
    size: float = 0.3,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A LoRA of random factors for a checkpoint's feed-forward matrices."""
    rng = np.random.default_rng(seed)
    factors: dict[str, np.ndarray] = {}
    for name, weight in load_file(model / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if not module.endswith(modules):
            continue
        outputs, inputs = weight.shape
        for letter, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            made = rng.normal(0, size, shape).astype(np.float32)
            factors[f"base_model.model.{module}.lora_{letter}.weight"] = made
    directory.mkdir(parents=True, exist_ok=True)
    save_file(factors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(modules),
        "bias": "none",
        **(config or {}),
    }
    (directory / "adapter_config.json").write_text(json.dumps(told))
    return directory
