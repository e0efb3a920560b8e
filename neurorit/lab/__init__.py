"""The embedded default: a seeded world, a small base model and a small judge."""

from __future__ import annotations

from pathlib import Path

from neurorit.core.errors import NeuroritError

# It, wherever a model, text or examples are named; a file or folder of this name is `./lab`.
LAB = "lab"
_DATA = Path(__file__).parent / "data"


def base_model_dir() -> Path:
    """The packaged base model's checkpoint."""
    return _packaged("base")


def judge_model_dir() -> Path:
    """The packaged judge's checkpoint."""
    return _packaged("judge")


def _packaged(name: str) -> Path:
    directory = _DATA / name
    if not (directory / "model.safetensors").is_file():
        raise NeuroritError(
            f"the packaged model {directory} is missing; install the project again, "
            f"or make it with `neurorit-rag lab {'train' if name == 'base' else name}`"
        )
    return directory
