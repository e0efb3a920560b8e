"""Starts `mine` and `tune` in several processes, as torchrun does, for commands that run many.

Run with `python -m` it is torchrun itself, which ends when this process is gone.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neurorit.core.errors import NeuroritError
from neurorit.core.parent import end_with_parent

# torchrun asks its processes to end, and kills those that are still there after 30 s.
_STOP_SECONDS = 40.0


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

    They end with this one, however it ends. options: further ones, by name. Raises NeuroritError
    when it fails; why stands on stderr.
    """
    from neurorit.model.load import release

    release()  # what this process holds on a GPU is in the way there
    named = {"model": model, "examples": examples, "out": out, "recipe": recipe, "seed": seed}
    started = ["-m", "neurorit.cli", command, "--overwrite"]
    for name, value in {**named, **(options or {})}.items():
        started += [f"--{name}", str(value)]
    for text in assigned(settings):
        started += ["--set", text]
    ended = run(processes, started)
    if ended:
        raise NeuroritError(
            f"{command} into {out} ended with exit code {ended}; why stands above. Run the same "
            "command again to go on"
        )


def run(processes: int, started: Sequence[str]) -> int:
    """Run what torchrun starts in so many processes; returns its exit code."""
    command = [sys.executable, "-m", "neurorit.pipelines.torchrun", "--standalone"]
    with subprocess.Popen(
        [*command, f"--nproc-per-node={processes}", *started],
        # Nothing is ever written to it: its end tells torchrun that this process is gone.
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        # Ctrl-C is for this process, which then waits until all have ended.
        process_group=0,
    ) as torchrun:
        try:
            return torchrun.wait()
        finally:
            _end(torchrun)


def _end(torchrun: subprocess.Popen[bytes]) -> None:
    """End torchrun, which ends its processes: each is in a session of its own."""
    torchrun.terminate()
    try:
        torchrun.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        torchrun.kill()


if __name__ == "__main__":
    end_with_parent()
    runpy.run_module("torch.distributed.run", run_name="__main__", alter_sys=True)
