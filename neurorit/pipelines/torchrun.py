"""Starts `mine` and `tune` in several processes, as torchrun does, for commands that run many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurorit.core.errors import NeuroritError


def assigned(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` takes them."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def launch(
    command: str,
    model: Path,
    examples: Path,
    out: Path,
    recipe: Path,
    seed: int,
    settings: Mapping[str, Any],
    processes: int,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Run `mine` or `tune` in so many processes, each on a GPU of its own where there are any.

    options: further ones, by name. Raises NeuroritError when it fails; why stands on stderr.
    """
    from neurorit.model.load import release

    release()  # what this process holds on a GPU is in the way there
    named = {"model": model, "examples": examples, "out": out, "recipe": recipe, "seed": seed}
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    started += [f"--nproc-per-node={processes}", "-m", "neurorit.cli", command, "--overwrite"]
    for name, value in {**named, **(options or {})}.items():
        started += [f"--{name}", str(value)]
    for text in assigned(settings):
        started += ["--set", text]
    ended = subprocess.run(started, stdout=sys.stderr, check=False).returncode
    if ended:
        raise NeuroritError(
            f"{command} into {out} ended with exit code {ended}; why stands above. Run the same "
            "command again to go on"
        )
