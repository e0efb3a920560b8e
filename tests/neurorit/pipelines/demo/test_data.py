"""What the demonstration on a real model reads from a folder, and what it leaves out."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.example_files import read_examples
from neurorit.pipelines.demo.data import find_sources, lay_out
from neurorit.pipelines.demo.settings import DemoSettings

LENGTHS = (5, 20, 20, 20, 20, 20, 20, 90)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def question(name: str, *gold: str) -> dict[str, Any]:
    return {"id": name, "question": f"What of {name}?", "answers": ["word"], "gold": list(gold)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    write(
        made / "corpus.jsonl.gz",
        [
            {"id": f"p{i}", "title": f"T{i}", "text": " ".join(["word"] * length)}
            for i, length in enumerate(LENGTHS)
        ],
    )
    return made


def ids(path: Path) -> list[str]:
    return [example.id for example in read_examples(path)]


def test_passages_of_the_wanted_length_and_the_questions_about_them_are_taken(
    folder: Path, tmp_path: Path
) -> None:
    train = [question(f"t{i}", f"p{i}") for i in range(7)]
    write(folder / "squad-train.jsonl.gz", [*train, question("both", "p1", "p7")])
    write(folder / "squad-dev.jsonl", [question("d", "p3"), question("long", "p7")])
    write(folder / "nq-dev.jsonl", [question("n", "p2")])
    (folder / "README.md").write_text("not data")
    sources = find_sources(folder)
    assert sorted(sources.tests) == ["nq-dev", "squad-dev"]
    told = lay_out(sources, tmp_path / "out", DemoSettings(least_words=10, most_words=60))
    assert told["passages"] == 6 and told["passages_of_other_length"] == 2
    assert ids(tmp_path / "out" / "squad-dev.jsonl") == ["d"]
    # What the tests ask about is not tuned on.
    assert ids(tmp_path / "out" / "questions-train.jsonl") == ["t1", "t4", "t5", "t6"]


def test_what_data_fetch_writes_is_parted_by_gold_passages(folder: Path, tmp_path: Path) -> None:
    rows = [question(f"q{i}-{j}", f"p{i}") for i in range(8) for j in range(3)]
    write(folder / "questions.jsonl", rows)
    told = lay_out(find_sources(folder), tmp_path / "out", DemoSettings(test_share=0.5))
    train, test = (ids(tmp_path / "out" / f"{n}.jsonl") for n in ("questions-train", "test"))
    assert told["train"] + told["test"] == len(rows) == len(train) + len(test)
    assert not {name.split("-")[0] for name in train} & {name.split("-")[0] for name in test}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no questions"),
        ({"train.jsonl": ["p1"]}, "train.jsonl"),
        ({"a-train.jsonl": ["p1"], "b-train.jsonl": ["p1"], "dev.jsonl": ["p2"]}, "b-train"),
        ({"dev.jsonl": ["p2"]}, "dev.jsonl"),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(
    folder: Path, files: Mapping[str, Sequence[str]], said: str
) -> None:
    for name, golds in files.items():
        write(folder / name, [question("q", *golds)])
    with pytest.raises(BadInput, match=said):
        find_sources(folder)


def test_what_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        find_sources(tmp_path / "nowhere")
    write(folder / "questions.jsonl", [question("q", "p99")])
    with pytest.raises(BadInput, match=r"questions.jsonl: question 'q': its gold passage p99"):
        lay_out(find_sources(folder), tmp_path / "out", DemoSettings())
    write(folder / "questions.jsonl", [question("q", "p0")])
    with pytest.raises(BadInput, match="no question is about a passage that was taken"):
        lay_out(find_sources(folder), tmp_path / "out", DemoSettings(least_words=10))


def test_settings_of_the_demonstration_are_checked() -> None:
    for wrong, said in (
        ({"least_words": 9, "most_words": 5}, "most_words"),
        ({"test_share": 1.0}, "test_share"),
        ({"conditions": ("clen",)}, "clen"),
    ):
        with pytest.raises(BadInput, match=said):
            DemoSettings(**wrong)  # type: ignore[arg-type]
