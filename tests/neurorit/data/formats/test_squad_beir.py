"""Questions in SQuAD's own JSON and in a BEIR folder, read as examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.example_files import examples_file, read_examples

PARAGRAPH = {
    "context": "The Amazon is a river. It flows east.",
    "qas": [
        {"id": "1", "question": "Which river?", "answers": [{"text": "Amazon", "answer_start": 4}]},
        {"id": "2", "question": "Where to?", "answers": [], "is_impossible": True},
    ],
}
SQUAD: dict[str, Any] = {
    "version": "v2.0",
    "data": [{"title": "Amazon_River", "paragraphs": [PARAGRAPH]}],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_document(tmp_path: Path, indent: int | None) -> None:
    """The paragraph is the gold passage; what cannot be answered is left out."""
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(SQUAD, indent=indent))
    left_out: dict[str, int] = {}
    (example,) = read_examples(path, left_out=left_out)
    assert left_out == {"unanswerable": 1}
    assert (example.id, example.answers) == ("1", ("Amazon",))
    (gold,) = example.passages
    assert (gold.title, gold.text, gold.kind) == ("Amazon River", PARAGRAPH["context"], "gold")


def test_squad_document_that_is_broken_names_the_question(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    broken = {"context": "x", "qas": [{"id": "7", "question": "Who?"}]}
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [broken]}]}))
    with pytest.raises(BadInput, match=r"article 1, question 7.*'answers'"):
        list(read_examples(path))


def test_beir_folder(tmp_path: Path) -> None:
    queries = [
        {"_id": "q1", "text": "Which river?", "metadata": {"answer": "Amazon"}},
        {"_id": "q2", "text": "Unjudged?", "metadata": {"answer": "x"}},
        {"_id": "q3", "text": "Unanswered?"},
    ]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    (tmp_path / "qrels").mkdir()
    table = "query-id\tcorpus-id\tscore\nq1\tp1\t1\nq1\tp2\t0\nq3\tp3\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(table)
    left_out: dict[str, int] = {}
    (example,) = read_examples(examples_file(tmp_path), left_out=left_out)
    assert left_out == {"not in the qrels": 1, "no answer": 1}
    assert (example.question, example.answers) == ("Which river?", ("Amazon",))
    assert example.meta["gold"] == ["p1"]


def test_beir_folder_without_answers_says_so(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "Which river?"}\n')
    with pytest.raises(BadInput, match="have no answers"):
        list(read_examples(tmp_path))


def test_lines_of_json_are_still_lines(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"id": "1", "question": "Q?", "answers": ["a"]}\n{"id": "2", broken\n')
    with pytest.raises(BadInput, match=r"e\.jsonl:2: not an example"):
        list(read_examples(path))
    path.write_text('{"id": "1", broken\n{"id": "2"}\n')
    with pytest.raises(BadInput, match=r"e\.jsonl:1: not an example"):
        list(read_examples(path))
