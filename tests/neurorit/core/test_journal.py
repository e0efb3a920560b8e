"""Journals: what is read back after a kill, and one writer at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.core import journal as module
from neurorit.core.errors import BadInput
from neurorit.core.journal import appending, read_journal


def values(path: Path, identity: dict[str, Any] | None = None) -> list[Any]:
    return [json.loads(line)["value"] for _, line in read_journal(path, identity)]


def write(path: Path, *numbers: Any, identity: dict[str, Any] | None = None) -> None:
    with appending(path, identity) as append:
        append({"value": number} for number in numbers)


@given(
    st.lists(st.text(max_size=6), max_size=5),
    st.integers(0, 400),
    st.booleans(),
    st.sampled_from([1, 7, 1 << 16]),
)
def test_what_was_whole_at_any_cut_is_kept(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int, named: bool, block: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "deep" / "j.jsonl"
    identity = {"seed": 3} if named else None
    write(path, *texts, identity=identity)
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n") - (1 if named and b"\n" in content[:cut] else 0)
    assert values(path, identity) == texts[:whole]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)
        write(path, "new", identity=identity)
    assert values(path, identity) == [*texts[:whole], "new"]


def test_of_another_identity_nothing_is_used(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, 1, 2, identity={"seed": 0})
    assert values(path, {"seed": 1}) == []
    write(path, 3, identity={"seed": 1})
    assert values(path, {"seed": 1}) == [3]
    assert values(path, {"seed": 0}) == []
    assert [where for where, _ in read_journal(path, {"seed": 1})] == [f"{path}:2"]


def test_records_are_in_the_file_before_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with appending(path) as append:
        append([{"value": 1}])
        assert values(path) == [1]
        with pytest.raises(BadInput, match="another process writes it"), appending(path):
            pass


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from neurorit.core.journal import appending\n"
        "with appending(Path(sys.argv[1])) as append:\n"
        "    append([{'value': 1}])\n"
        "    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], env=environment)
    try:
        deadline = time.monotonic() + 60
        while not values(path) and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(BadInput, match="another process writes it"):
            write(path, 2)
    finally:
        writer.kill()
        writer.wait()
    write(path, 2)
    assert values(path) == [1, 2]
