"""Artifact directories: whole or not at all, and what a killed process left is cleared away."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from neurorit.core import atomic_files
from neurorit.core.artifact import Manifest, hash_inputs, read_manifest, seal, writing
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
        pytest.raises(BadInput, match="was written by another process meanwhile"),
        writing(out, manifest) as slow,
    ):
        (slow / "by").write_text("the slow one")
        with writing(out, manifest) as quick:
            (quick / "by").write_text("the quick one")
    assert (out / "by").read_text() == "the quick one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with writing(out, manifest, overwrite=True) as slow:
        (slow / "by").write_text("the slow one")
        with writing(out, manifest, overwrite=True) as quick:
            (quick / "by").write_text("the quick one")
    assert (out / "by").read_text() == "the slow one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    foreign, of_others, file = tmp_path / "models", tmp_path / "page", tmp_path / "file"
    for folder in (foreign, of_others):
        folder.mkdir()
        (folder / "thesis.tex").write_text("years of work")
    (of_others / "manifest.json").write_text('{"name": "a page", "icons": []}')
    file.write_text("mine")
    for out in (foreign, of_others, file):
        with pytest.raises(BadInput, match=f"{out} is no artifact of this program"):
            make(out, overwrite=True)
    assert (foreign / "thesis.tex").read_text() == "years of work"
    assert file.read_text() == "mine"
    # One that appears while the artifact is made.
    late = tmp_path / "late"
    with (
        pytest.raises(BadInput, match="late is no artifact"),
        writing(late, MANIFEST, overwrite=True),
    ):
        late.mkdir()
        (late / "notes").write_text("somebody's")
    assert [path.name for path in late.iterdir()] == ["notes"]
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty",
        "file",
        "late",
        "models",
        "page",
    ]


def test_what_a_link_stands_for_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    make(tmp_path / "first")
    (tmp_path / "latest").symlink_to("first")
    make(tmp_path / "latest", "two", overwrite=True)
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "first" / "data.txt").read_text() == "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "latest"]


def test_what_killed_processes_left_is_cleared_but_not_what_is_in_use(tmp_path: Path) -> None:
    # As they are named on other machines, in containers, and by processes of this number.
    names = [f".a[1].writing-{mark}" for mark in ("0123abcd", f"deadbeef-{os.getpid()}", "1")]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_text("x")
    with pytest.raises(RuntimeError), writing(tmp_path / "a[1]", MANIFEST):
        before = sorted(path.name for path in tmp_path.iterdir())
        assert len(before) == 1 and before[0] not in names
        make(tmp_path / "a[1]")
        assert sorted(path.name for path in tmp_path.iterdir()) == [*before, "a[1]"]
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a[1]"]


def test_a_directory_that_is_cleared_away_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, locked = atomic_files.lock, list[Path]()

    def late(place: Path, busy: str, **more: Any) -> int:
        if not locked:
            locked.append(place)
            place.rmdir()
        return lock(place, busy, **more)

    monkeypatch.setattr(atomic_files, "lock", late)
    make(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_without_locks_everything_is_written_and_nothing_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> int:
        raise BadInput("its file system takes no locks")

    monkeypatch.setattr(atomic_files, "lock", refused)
    (tmp_path / ".a.writing-0123abcd").mkdir()
    make(tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.writing-0123abcd", "a"]


def test_a_kill_between_two_renames_is_mended_by_whoever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "_exchanged", lambda one, other: False)
    out = tmp_path / "a"
    make(out)
    out.rename(tmp_path / ".a.replaced-0123abcd")
    with pytest.raises(ArtifactError, match=r"mv .*brings the former one back"):
        read_manifest(out, "index")
    with pytest.raises(BadInput, match="exists already"):
        make(out, "two")
    make(out, "two", overwrite=True)
    # One of a process that was killed while it cleared it away.
    (tmp_path / ".a.replaced-0123abcd").mkdir()
    make(out, "three", overwrite=True)
    assert (out / "data.txt").read_text() == "three"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_another_one_puts_back_meanwhile_is_replaced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic_files, "_exchanged", lambda one, other: False)
    rename, moved = os.rename, list[Path]()

    def disturbed(one: Path, other: Path) -> None:
        rename(one, other)
        if not moved and ".replaced-" in Path(other).name:
            moved.append(other)
            atomic_files.put_back(tmp_path / "a")

    make(tmp_path / "a")
    monkeypatch.setattr(atomic_files.os, "rename", disturbed)
    make(tmp_path / "a", "two", overwrite=True)
    assert moved and (tmp_path / "a" / "data.txt").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    atomic_files.write_text(tmp_path / "a", "one")
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_files.write_text(tmp_path / "a", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "one"


def test_what_a_killed_process_was_writing_is_no_part_of_an_artifact(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "segments").mkdir(parents=True)
    (made / "segments" / "vectors").write_text("x")
    for left in (made / ".manifest.json.writing-1", made / "segments" / ".progress.json.writing-1"):
        left.write_text("{")
    seal(made, MANIFEST, tmp_path / "a")
    assert list(read_manifest(tmp_path / "a", "index").files) == ["segments/vectors"]
    assert sorted(path.name for path in (tmp_path / "a").rglob(".*")) == []
