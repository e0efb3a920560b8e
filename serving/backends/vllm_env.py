"""What every vLLM process of this project shares: environment, checks before it, errors after it.

It starts no process itself and imports neither vLLM nor torch.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from neurorit import core
from neurorit.core.cores import FEW, physical_cores, usable_cores
from neurorit.core.errors import BadInput, MissingExtra, NeuroritError
from neurorit.model.checkpoint import checkpoint_dir

_NOISE = re.compile(
    r"^\s*(\(\w+ pid=\d+\)\s*)?(INFO|WARNING|DEBUG)\b|^\s*File \"|it/s\]|^\s*\^+\s*$"
)
# What torchrun tells its processes: a vLLM started by one of them must not join them.
_TORCHRUN = re.compile(
    r"RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|MASTER_PORT"
    r"|(GROUP|ROLE|TORCHELASTIC)_\w+"
)
# Keys of clients and of other servers are nothing for an engine, whose environment is readable.
_KEYS = re.compile(r"NEURORIT_\w*KEYS?")
_OWNED = {
    "--host": "it listens on the loopback interface; `--host` of serve is the gateway's",
    "--port": "it takes a free one; `--port` of serve is the gateway's",
    "--uds": "the gateway asks it on the loopback interface",
    "--api-key": "it has a key of its own; clients' keys go into `--api-key-file` of serve",
    "--model": "the checkpoint is named by `--model` of serve",
    "--served-model-name": "use `--name` of serve",
    "--enable-lora": "adapters are named by `--adapter` of serve, or get room by `--max-adapters`",
    "--lora-modules": "adapters are named by `--adapter NAME=DIR` of serve",
    "--root-path": "the gateway asks it on the loopback interface",
    "--ssl-keyfile": "the gateway asks it on the loopback interface",
    "--ssl-certfile": "the gateway asks it on the loopback interface",
}
_PLACED = {"VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_CPU_OMP_THREADS_BIND", "OMP_NUM_THREADS"}
_SEVERAL = (
    "--tensor-parallel", "-tp", "--pipeline-parallel", "-pp", "--data-parallel", "-dp",
    "--distributed-executor-backend", "--nnodes",
)  # fmt: skip
_LEADER = re.compile(r"^\s*(\(\w+ pid=\d+\)\s*)?(ERROR \S+ \S+ \[[^\]]*\]\s*)?")
_CAUSE = re.compile(r"^[\w.]*(Error|Exception|Interrupt|Exit)\b.*:")


def vllm_environment() -> dict[str, str]:
    """A copy of this process's environment with the settings vLLM needs here.

    What the user has set stays as it is: only absent names are filled in.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not _TORCHRUN.fullmatch(name) and not _KEYS.fullmatch(name)
    }
    defaults = {
        # GiB for keys and values on CPU; without it vLLM takes a large share of all memory.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
        # Seconds; the gateway drops idle connections long before.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        # Checkpoints are local directories: a hub that cannot be reached only costs time-outs.
        "HF_HUB_OFFLINE": "1",
    }
    for name, value in defaults.items():
        environment.setdefault(name, value)
    # `neurorit` is importable in the child however this process found it.
    root = str(Path(core.__file__).resolve().parents[2])
    paths = [root, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return environment


def engine_environment(flags: Sequence[str] = ()) -> dict[str, str]:
    """As `vllm_environment`; on a CPU of few cores with the engine and its model in one process.

    vLLM would give the model a process of its own, and both wait for each other busily: with few
    cores that takes what everything else needs. Left alone where the user chose threads, processes
    or, by vLLM's `flags`, several workers.
    """
    environment = vllm_environment()
    cores, physical = usable_cores(), physical_cores()
    chosen = _PLACED & set(environment) or any(flag.startswith(_SEVERAL) for flag in flags)
    if has_gpu() or cores > FEW or chosen:
        return environment
    # One core less, as vLLM itself does: here it is the gateway's, which else takes hyperthreads.
    threads = physical if physical < cores else max(1, cores - 1)
    return environment | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": str(threads)}


def require_vllm() -> None:
    """Raise MissingExtra if vLLM cannot be imported (found without importing it)."""
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtra("vllm", "cpu")


def check_model(model_dir: Path) -> Path:
    """The directory of a checkpoint, also of a hub's; raises BadInput with one line if none."""
    directory = checkpoint_dir(model_dir)
    if not directory.is_dir():
        raise BadInput(f"no model at {directory}: the directory does not exist")
    if not (directory / "config.json").is_file():
        raise BadInput(f"{directory} is no model: it has no config.json")
    return directory


def check_flags(flags: Sequence[str]) -> tuple[str, ...]:
    """Flags for vLLM as they are; raises BadInput for one that this side sets itself."""
    for flag in flags:
        name = flag.split("=", 1)[0].replace("_", "-")
        if name in _OWNED:
            raise BadInput(f"{name} is no flag for vLLM here: {_OWNED[name]}")
    return tuple(flags)


def context_length(directory: Path) -> int:
    """The most tokens, prompt and answer together, that a checkpoint was made for."""
    return int(_of_text(_config(directory)).get("max_position_embeddings") or 2**31)


def short_context(directory: Path) -> int | None:
    """Tokens up to which a checkpoint with positions of two kinds (longrope) takes those of short
    texts; None for others.

    transformers chooses by each text, vLLM for all of them by the most tokens that it takes.
    """
    config = _of_text(_config(directory))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type")) not in ("longrope", "su"):
        return None
    name = "original_max_position_embeddings"
    return rope.get(name) or config.get(name)


def has_gpu() -> bool:
    """True where an NVIDIA or AMD device is there (found without importing torch)."""
    # A container may hold another one than the first; WSL has no node for each.
    return any(Path("/dev").glob("nvidia[0-9]*")) or any(
        Path(node).exists() for node in ("/dev/kfd", "/dev/dxg")
    )


def temporary_log() -> Path:
    """A new file for vLLM's output."""
    handle, name = tempfile.mkstemp(prefix="neurorit-vllm-", suffix=".log")
    os.close(handle)
    return Path(name)


def start_failure(log: Path, what: str) -> NeuroritError:
    """One error that says what failed, the likely cause from the log, and where the log is."""
    lines = last_lines(log, 200)
    causes = [line for line in lines if _CAUSE.match(line)]
    # The first cause is the root; vLLM's later ones say that "the engine core did not start".
    roots = [line for line in causes if "ngine core" not in line]
    cause = (roots or causes or lines[-1:] or ["its log is empty"])[0]
    return NeuroritError(f"{what}: {cause[:400]} (whole log: {log})")


def last_lines(log: Path, count: int) -> list[str]:
    """The last `count` lines of a log that say something, without vLLM's prefixes."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    kept = [_LEADER.sub("", line).strip() for line in text.splitlines() if not _NOISE.search(line)]
    return [line for line in kept if line][-count:]


def _of_text(config: dict[str, Any]) -> dict[str, Any]:
    """What a model that also sees has of its language model stands in a part of its own."""
    return {**config, **(config.get("text_config") or {})}


def _config(directory: Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return config
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from error
