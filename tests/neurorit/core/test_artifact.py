"""Artifact directories: whole or not at all, and what a killed process left is cleared away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neurorit.core.artifact import Manifest, hash_inputs, read_manifest, writing
from neurorit.core.atomic_files import own_mark
from neurorit.core.errors import ArtifactError, BadInput
from neurorit.data.example_files import examples_file

MANIFEST = Manifest(kind="index", command="neurorit-rag index", made={"passages": 1})


def make(out: Path, text: str = "one", *, overwrite: bool = False) -> None:
    with writing(out, MANIFEST, overwrite=overwrite) as directory:
        (directory / "data.txt").write_text(text)


def test_it_is_made_whole_and_checked_on_loading(tmp_path: Path) -> None:
    make(tmp_path / "a")
    assert read_manifest(tmp_path / "a", "index").made == {"passages": 1}
    with pytest.raises(ArtifactError, match="is a index, but a atlas is needed"):
        read_manifest(tmp_path / "a", "atlas")
    (tmp_path / "a" / "data.txt").write_text("two")
    with pytest.raises(ArtifactError, match="was changed"):
        read_manifest(tmp_path / "a", "index")


def test_examples_that_were_changed_are_refused_and_a_plain_folder_is_hashed_whole(
    tmp_path: Path,
) -> None:
    mixed = tmp_path / "mixed"
    with writing(mixed, Manifest("examples", "test")) as directory:
        (directory / "examples.jsonl").write_text('{"id": "1", "question": "?", "answers": ["a"]}')
    assert examples_file(mixed) == mixed / "examples.jsonl"
    (mixed / "examples.jsonl").write_text('{"id": "2", "question": "?", "answers": ["b"]}')
    with pytest.raises(ArtifactError, match="was changed"):
        examples_file(mixed)
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "examples.jsonl").write_text("one")
    before = hash_inputs(examples=plain)
    (plain / "examples.jsonl").write_text("two")
    assert hash_inputs(examples=plain) != before
    assert hash_inputs(examples=tmp_path / "nowhere") == {"examples": "absent"}


def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(BadInput, match="exists already"):
        make(tmp_path / "a")
    with pytest.raises(RuntimeError), writing(tmp_path / "a", MANIFEST, overwrite=True) as where:
        (where / "data.txt").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "data.txt").read_text() == "one"
    make(tmp_path / "a", "two", overwrite=True)
    assert (tmp_path / "a" / "data.txt").read_text() == "two"


def test_of_two_that_write_one_the_second_to_end_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = Manifest("atlas", "a test")
    with (
        pytest.raises(BadInput, match="another process has written it meanwhile"),
        writing(out, manifest) as slow,
    ):
        (slow / "by").write_text("the slow one")
        # Another process's temporary folder has another name.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("neurorit.core.artifact.own_mark", lambda: "elsewhere-1")
            with writing(out, manifest) as quick:
                (quick / "by").write_text("the quick one")
    assert (out / "by").read_text() == "the quick one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with (
        writing(out, manifest, overwrite=True) as slow,
        pytest.MonkeyPatch.context() as patch,
    ):
        (slow / "by").write_text("the slow one")
        patch.setattr("neurorit.core.artifact.own_mark", lambda: "elsewhere-1")
        with writing(out, manifest, overwrite=True) as quick:
            (quick / "by").write_text("the quick one")
    assert (out / "by").read_text() == "the slow one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_another_machine_writes_is_left_to_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    elsewhere = tmp_path / f".a.writing-0123abcd-{done.stdout.strip()}"
    here = tmp_path / f".a.writing-{own_mark().partition('-')[0]}-{done.stdout.strip()}"
    for left in (elsewhere, here):
        left.mkdir()
    make(tmp_path / "a")
    assert (elsewhere.exists(), here.exists()) == (True, False)


def test_what_a_killed_process_left_is_cleared_but_not_a_living_ones(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    dead = tmp_path / f".a.writing-{done.stdout.strip()}"
    living = tmp_path / f".a.writing-{os.getppid()}"
    for left in (dead, living):
        left.mkdir()
    make(tmp_path / "a")
    assert not dead.exists()
    assert living.exists()
