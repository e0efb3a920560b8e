"""Cores and units as the system names them, in files that the tests write."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurorit.core import cores
from neurorit.core.cores import bfloat16_unit, physical_cores, usable_cores


def test_hyperthreads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(8):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    monkeypatch.setattr(cores, "_TOPOLOGY", tmp_path)
    for affinity, quotas, wanted in (
        (set(range(8)), [], 4),
        ({0, 4}, [], 1),
        ({0, 1, 4}, [], 2),
        (set(range(8)), [2.5], 2),  # what a container gets of the time
        ({0, 9}, [], 2),  # one that the system does not describe
    ):
        monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _, a=affinity: a)
        monkeypatch.setattr(cores, "_quotas", lambda *_, q=quotas: iter(q))
        assert physical_cores() == wanted
        assert usable_cores() >= wanted


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("flags\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n", "AMX"),
        ("flags\t: fpu avx512f avx512_bf16\n", "AVX512-BF16"),
        ("Features\t: fp asimd bf16\n", "Arm BF16"),
        ("model name\t: amx_bf16\nflags\t: fpu avx2\n", None),
        ("", None),
    ],
)
def test_units_are_found_by_their_flags(tmp_path: Path, text: str, unit: str | None) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert bfloat16_unit(tmp_path / "cpuinfo") == unit
    assert bfloat16_unit(tmp_path / "absent") is None
