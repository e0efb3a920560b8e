"""Published data in their own forms, from data sets that the test writes itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.data.example_files import read_examples
from neurorit.data.examples import Example
from neurorit.data.formats.converters import FORMATS
from neurorit.data.published import KNOWN, write_published
from neurorit.eval.conditions import build_condition
from neurorit.eval.metrics.matching import match_all
from neurorit.retrieval.corpus.reader import read_corpus


def hotpot_row(number: int, answer: str) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": f"Who wrote book {number}?",
        "answer": answer,
        "type": "bridge",
        "level": "easy",
        "supporting_facts": {"title": ["Ada", f"Book {number}"], "sent_id": [0, 0]},
        "context": {
            "title": ["Ada", f"Book {number}", f"Other {number}"],
            "sentences": [["Ada wrote it. ", " She did."], ["A book."], [f"Other {number}."]],
        },
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("hotpot") / "saved"
    rows = [hotpot_row(0, "Ada"), hotpot_row(1, "yes"), hotpot_row(2, "Ada")]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(folder)
    return folder


def written(tmp_path: Path, form: str, rows: list[dict[str, Any]]) -> list[Example]:
    """What a form's rows become, by way of a file of JSON lines."""
    given = tmp_path / f"{form}.json"
    given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_published(form, tmp_path / form, source=str(given))
    return list(read_examples(tmp_path / form / "questions.jsonl", unanswered="unanswerable"))


def test_questions_name_all_their_gold_passages(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "hotpot"
    arguments = ["data", "fetch", "hotpotqa", "--source", str(source), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"] == {"yes or no": 1}
    passages = {passage.id: passage for passage in read_corpus(out / "corpus.jsonl")}
    assert len(passages) == 7
    questions = list(read_examples(out / "questions.jsonl"))
    assert [question.id for question in questions] == ["q0", "q2"]
    golds = [passages[identity] for identity in questions[0].meta["gold"]]
    assert [gold.text for gold in golds] == ["Ada wrote it. She did.", "A book."]


def test_squad_and_flashrag_and_kilt_and_asqa(tmp_path: Path) -> None:
    squad = {
        "id": "s1",
        "title": "Some_Town",
        "context": "It lies on the Rhine.",
        "question": "Where does it lie?",
        "answers": {"text": ["on the Rhine", "the Rhine", "on the Rhine"], "answer_start": []},
    }
    rows = [squad, squad | {"id": "s2", "answers": {"text": []}}]
    one, other = written(tmp_path, "squad", rows)
    assert (other.id, other.answers, other.unanswerable) == ("s2", (), True)
    assert one.answers == ("on the Rhine", "the Rhine")
    (gold,) = read_corpus(tmp_path / "squad" / "corpus.jsonl")
    assert (gold.title, [gold.id]) == ("Some Town", one.meta["gold"])
    flashrag = {"id": "test_0", "question": "who?", "golden_answers": ["A", "B"], "metadata": {}}
    (one,) = written(tmp_path, "flashrag", [flashrag])
    assert (one.id, one.answers) == ("test_0", ("A", "B"))
    assert not (tmp_path / "flashrag" / "corpus.jsonl").exists()
    kilt = {
        "id": "k1",
        "input": "who?",
        "output": [
            {"answer": "A", "provenance": [{"wikipedia_id": "7"}]},
            {"answer": "", "provenance": [{"wikipedia_id": "8"}]},
        ],
    }
    (one,) = written(tmp_path, "kilt", [kilt])
    assert (one.answers, one.meta["wikipedia"]) == (("A",), ["7", "8"])
    asqa = {
        "sample_id": "a1",
        "ambiguous_question": "when?",
        "qa_pairs": [{"short_answers": ["1990"]}, {"short_answers": ["1991", "in 1991"]}],
    }
    (one,) = written(tmp_path, "asqa", [asqa])
    assert one.answers == ("1990", "1991", "in 1991")


def test_rgb_questions_bring_typed_passages_and_answers_in_parts(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "id": 0,
            "query": "when?",
            "answer": [["Jan 2 2022", "2 January 2022"]],
            "positive": ["It was on Jan 2 2022.", "On Jan 2 2022 it was."],
            "negative": ["Nothing.", "Nothing else."],
            "positive_wrong": ["It was on May 5 2021."],
            "fakeanswer": "May 5 2021",
        },
        {
            "id": 1,
            "query": "who and where?",
            "answer": [["Ada", "Ada L."], ["Rome"]],
            "positive": [["Ada did.", "Ada."], ["In Rome."]],
            "negative": ["No one."],
        },
    ]
    first, second = written(tmp_path, "rgb", rows)
    kinds = [passage.kind for passage in first.passages]
    assert kinds == ["gold", "gold", "distractor", "distractor", "counterfactual"]
    assert first.answers == ("Jan 2 2022", "2 January 2022")
    assert match_all("It was 2 January 2022", first.parts)
    shown = build_condition(second, "distractor-1@first")
    assert [passage.text for passage in shown] == ["Ada did.", "In Rome.", "No one."]
    assert match_all("Ada, in Rome", second.parts)
    assert not match_all("Ada", second.parts)
    assert second.answers == ("Ada and Rome", "Ada L. and Rome")


def test_what_cannot_be_read_is_named(source: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    out = tmp_path / "out"
    with pytest.raises(BadInput, match="known sets are hotpotqa"):
        write_published("trivia", out)
    with pytest.raises(BadInput, match="with source"):
        write_published("rgb", out)
    with pytest.raises(BadInput, match="split validation"):
        write_published("hotpotqa", out, source=str(source), split="validation")
    Dataset.from_list([{"id": 1}]).save_to_disk(tmp_path / "other")
    with pytest.raises(BadInput, match="row 0: not in the form hotpotqa"):
        write_published("hotpotqa", out, source=str(tmp_path / "other"))
    (tmp_path / "bad.json").write_text('{"query": "q", "answer": "a", "positive": ["a"]}\n[]\n')
    with pytest.raises(BadInput, match=r"bad\.json:2: no row"):
        write_published("rgb", out, source=str(tmp_path / "bad.json"))
    (tmp_path / "none.json").write_text('{"query": "q", "answer": [], "positive": []}\n')
    with pytest.raises(BadInput, match="no question"):
        write_published("rgb", out, source=str(tmp_path / "none.json"))
    assert not out.exists()


def test_a_folder_of_files_is_read_by_datasets(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    row = {"id": "1", "question": "who?", "golden_answers": ["A"]}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n")
    made = write_published("flashrag", tmp_path / "out", source=str(folder), split="train")
    assert (made["questions"], made["left_out"]) == (1, {})


def test_every_known_set_has_a_form() -> None:
    assert {known.form for known in KNOWN.values()} <= FORMATS.keys()
