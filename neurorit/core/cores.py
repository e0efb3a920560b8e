"""How many cores this process may use, and what they multiply quickly.

In a container they are fewer than the machine has. Two hyperthreads are one core to matrix
products: they share its multipliers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

FEW = 8  # cores, as of a laptop
_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")
_INFO = Path("/proc/cpuinfo")
# Linux's names of what multiplies bfloat16 matrices, best first, and ours.
_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}


def usable_cores() -> int:
    """Cores of the process's affinity, or fewer where its control groups get less time than those.

    A quota that is no whole number is rounded down, so that no thread is throttled; at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(_MEMBERSHIP, _MOUNT)])))


def physical_cores() -> int:
    """Usable cores, with the hyperthreads of one core counted once; at least 1.

    A virtual machine may call hyperthreads cores, which cannot be told from inside.
    """
    if not hasattr(os, "sched_getaffinity"):
        return usable_cores()
    return min(usable_cores(), len(_cores(os.sched_getaffinity(0), _TOPOLOGY)))


def wait_asleep() -> None:
    """On few cores, let OpenMP's threads sleep while they wait for each other; before it is loaded.

    One that waits busily takes the core of another that it waits for, wherever something else runs
    or two cores are hyperthreads of one. What the user set stays.
    """
    if usable_cores() <= FEW:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@cache
def fast_bfloat16() -> str | None:
    """The unit that multiplies bfloat16 matrices here; None where float32 is quicker."""
    return bfloat16_unit(_INFO)


def bfloat16_unit(info: Path) -> str | None:
    """As `fast_bfloat16`, of what the system says in a file like /proc/cpuinfo."""
    try:
        lines = info.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    flags: set[str] = set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    return next((ours for flag, ours in _UNITS.items() if flag in flags), None)


def _cores(processors: Iterable[int], topology: Path) -> set[str]:
    """The cores of processors, each named by the processors that share it."""
    shared: set[str] = set()
    for number in processors:
        folder = topology / f"cpu{number}" / "topology"
        try:
            shared.add((folder / "thread_siblings_list").read_text(encoding="ascii").strip())
        except OSError:
            shared.add(str(number))
    return shared


def _quotas(membership: Path, mount: Path) -> Iterator[float]:
    """Cores' worth of time that each control group of the process gets, with those above it."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # The second version has no controllers in this line and all in one tree.
        top = mount / "cpu" if controllers else mount
        group = top / path.lstrip("/")
        # In a container the path may be the host's, of which only the top is to be seen.
        for folder in [group, *group.parents]:
            if folder.is_relative_to(top) and (quota := _quota(folder)) is not None:
                yield quota


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            time, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            time = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
            period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
        # "max", and in the first version -1, is no limit.
        return int(time) / int(period) if int(time) > 0 else None
    except (OSError, ValueError):
        return None
