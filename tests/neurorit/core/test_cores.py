"""Cores that a process may use, in a container too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neurorit.core import cores
from neurorit.core.cores import usable_cores, wait_asleep


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sixteen cores; control groups are read from the folder `groups`, below which nothing is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(cores, "_MEMBERSHIP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "groups")
    return tmp_path


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_of_its_affinity_without_control_groups(machine: Path) -> None:
    assert usable_cores() == 16


@pytest.mark.parametrize(
    ("own", "above", "wanted"),
    [
        ("max 100000", "max 100000", 16),
        ("250000 100000", "max 100000", 2),
        ("max 100000", "300000 100000", 3),
        ("400000 100000", "200000 100000", 2),
        ("50000 100000", "max 100000", 1),
        ("6400000 100000", "max 100000", 16),
        ("unreadable", "max 100000", 16),
    ],
)
def test_the_tightest_quota_above_it_counts(
    machine: Path, own: str, above: str, wanted: int
) -> None:
    write(machine, cgroup="0::/jobs/one")
    write(machine / "groups/jobs/one", cpu__max=own)
    write(machine / "groups/jobs", cpu__max=above)
    assert usable_cores() == wanted


def test_a_container_that_sees_only_the_top_of_its_groups(machine: Path) -> None:
    write(machine, cgroup="0::/../host/path")
    write(machine / "groups", cpu__max="150000 50000")
    assert usable_cores() == 3


def test_the_first_version_of_control_groups(machine: Path) -> None:
    write(machine, cgroup="5:memory:/m\n4:cpu,cpuacct:/docker/abc\n0::/")
    top = machine / "groups/cpu"
    write(top, cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000")
    assert usable_cores() == 2
    write(top, cpu__cfs_quota_us="-1")
    assert usable_cores() == 16


def test_on_few_cores_threads_sleep_unless_the_user_chose(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    wait_asleep()
    assert "OMP_WAIT_POLICY" not in os.environ  # sixteen
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_asleep()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
