"""HotpotQA's form, from a data set that the test writes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from retrieval.corpus import read_corpus
from retrieval.errors import BadInput
from retrieval.hotpotqa import write_hotpotqa


def row(number: int, answer: str) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": f"Who wrote book {number}?",
        "answer": answer,
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": ["Ada"], "sent_id": [0]},
        "context": {
            "title": ["Ada", f"Other {number}"],
            "sentences": [["Ada wrote it. ", " She did."], [f"Other text {number}."]],
        },
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("hotpot") / "saved"
    rows = [row(0, "Ada"), row(1, "yes"), row(2, "Ada")]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(folder)
    return folder


def test_questions_name_their_gold_passages(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "hotpot"
    arguments = ["data", "hotpotqa", "--source", str(source), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out_yes_or_no"] == 1
    passages = {passage.id: passage for passage in read_corpus(out / "corpus.jsonl")}
    assert len(passages) == 4
    questions = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    assert [question["id"] for question in questions] == ["q0", "q2"]
    (gold,) = questions[0]["gold"]
    assert passages[gold].text == "Ada wrote it. She did."


def test_what_is_no_hotpotqa_is_named(source: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    with pytest.raises(BadInput, match="--split test"):
        write_hotpotqa(tmp_path / "a", str(source), split="test")
    with pytest.raises(BadInput, match="no HotpotQA there"):
        write_hotpotqa(tmp_path / "a", str(source), split="validation")
    Dataset.from_list([{"id": 1}]).save_to_disk(tmp_path / "other")
    with pytest.raises(BadInput, match="row 0"):
        write_hotpotqa(tmp_path / "a", str(tmp_path / "other"))
    assert not (tmp_path / "a").exists()
