"""The journal of long runs: what is read back, and what is left out."""

from __future__ import annotations

from pathlib import Path

from neurorit.mining.journal import Journal


def records(*keys: str) -> list[dict[str, object]]:
    return [{"key": key, "value": 1} for key in keys]


def test_records_come_back_and_torn_ones_do_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "atlas", {"seed": 0}, rank=0, processes=1)
    with journal.appending() as append:
        append(records("a", "b"))
    path = tmp_path / ".atlas.journal-0.jsonl"
    with open(path, "a", encoding="utf-8") as stream:
        stream.write('{"key": "c", "val')
    assert sorted(journal.read()) == ["a", "b"]
    with journal.appending() as append:
        append(records("d"))
    assert sorted(journal.read()) == ["a", "b", "d"]
    journal.remove()
    assert not list(tmp_path.iterdir())


def test_a_journal_of_something_else_is_begun_anew(tmp_path: Path) -> None:
    old = Journal(tmp_path / "atlas", {"seed": 0}, rank=0, processes=1)
    with old.appending() as append:
        append(records("a"))
    new = Journal(tmp_path / "atlas", {"seed": 1}, rank=0, processes=1)
    assert new.read() == {}
    with new.appending() as append:
        append(records("b"))
    assert sorted(new.read()) == ["b"]
    assert old.read() == {}


def test_a_process_reads_what_others_wrote(tmp_path: Path) -> None:
    for rank, key in enumerate("ab"):
        with Journal(tmp_path / "atlas", {}, rank=rank, processes=1).appending() as append:
            append(records(key))
    assert sorted(Journal(tmp_path / "atlas", {}, rank=0, processes=1).read()) == ["a", "b"]
