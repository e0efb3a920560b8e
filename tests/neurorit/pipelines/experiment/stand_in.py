"""Figures of systems that nobody tuned, and the experiment file that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# system name without its seed -> EM on clean, on distractors, refusals on clean
FIGURES = {
    "base": (1.0, 0.5, 0.0),
    "neuro-rit": (0.99, 0.6, 0.01),
    "faster": (0.99, 0.7, 0.01),
    "refuses": (0.98, 0.9, 0.2),
    "forgets": (0.5, 0.95, 0.0),
    "sft": (1.0, 0.65, 0.0),
    "own": (1.0, 0.6, 0.0),
}


def bare(system: str) -> str:
    """A system's name without its rate and seed."""
    return system.partition("@")[0].removesuffix("-0").removesuffix("-1")


def write(folder: Path, **changes: Any) -> Path:
    document = {
        "model": "lab",
        "examples": str(folder / "train.jsonl"),
        "evaluate": str(folder / "validation.jsonl"),
        "methods": ["neuro-rit", "sft"],
        "variants": {
            "faster": {"method": "neuro-rit", "settings": {"dense_learning_rate": 0.004}},
            "refuses": {"method": "neuro-rit", "settings": {"steps": 10}},
            "forgets": {"method": "sft", "settings": {"steps": 11}},
        },
        "seeds": [0, 1],
        "conditions": ["clean", "distractor-1", "distractor-4", "noise-only-4"],
        "select": {"clean_within": 0.02, "refused_clean": 0.05},
        "test": str(folder / "test.jsonl"),
        **changes,
    }
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path
