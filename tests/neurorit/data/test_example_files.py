"""Questions as people have them: ids of numbers, answers that are no texts, and other forms."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurorit.core.errors import BadInput
from neurorit.data.example_files import example_record, parse_example, read_examples
from neurorit.data.examples import Example
from neurorit.data.formats.squad_beir import read_qrels
from neurorit.data.published import write_published

HOTPOT = {
    "_id": "h1",
    "answer": "Tolm",
    "question": "In which town was the maker of the bell born?",
    "type": "bridge",
    "level": "easy",
    "supporting_facts": [["Bell", 0], ["Mira", 0]],
    "context": [["Bell", ["Mira cast it.", " It hangs."]], ["Mira", ["She was born in Tolm."]]],
}


def read_lines(path: Path, *rows: Any, **options: Any) -> list[Example]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(read_examples(path, **options))


ASKED = {"id": "q", "question": "Which wheel?", "answers": ["oak wheel"]}


@given(
    st.one_of(st.integers(), st.text(min_size=1), st.integers(-(2**40), 2**40).map(float)),
    st.lists(st.one_of(st.integers(), st.text(min_size=1)), max_size=4),
)
def test_ids_are_texts_whatever_json_has(identity: Any, gold: list[Any]) -> None:
    example = parse_example(ASKED | {"id": identity, "gold": gold})
    wanted = str(int(identity)) if isinstance(identity, float) else str(identity)
    assert example.id == wanted
    assert example.meta["gold"] == list(dict.fromkeys(map(str, gold)))
    again = parse_example(json.loads(json.dumps(example_record(example))))
    assert again == example


@given(
    st.one_of(
        *(st.none(), st.booleans(), st.just(""), st.just(1.5), st.just(float("inf"))),
        st.lists(st.integers(), min_size=1),
    )
)
def test_what_is_no_id_is_refused(identity: Any) -> None:
    with pytest.raises(ValueError, match="'id' must be a non-empty string or a whole number"):
        parse_example(ASKED | {"id": identity})


@pytest.mark.parametrize(
    ("fields", "answers"),
    [
        ({"golden_answers": [True]}, ("yes", "true")),
        ({"golden_answers": [False]}, ("no", "false")),
        ({"golden_answers": [1945, 4.0, 2.5]}, ("1945", "4", "2.5")),
        ({"golden_answers": 5}, ("5",)),
        ({"answers": "oak"}, ("oak",)),
        ({"golden_answers": [2], "choices": ["cools", "sings", "heats"]}, ("heats",)),
        ({"golden_answers": [1.0], "choices": ["cools", "sings"]}, ("sings",)),
        ({"golden_answers": ["sings"], "choices": ["cools", "sings"]}, ("sings",)),
        ({"answers": {"text": ["oak"], "answer_start": [3]}}, ("oak",)),
    ],
)
def test_answers_that_are_no_texts_become_texts(fields: dict[str, Any], answers: Any) -> None:
    assert parse_example({"id": 1, "question": "q?", **fields}).answers == answers


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answers": [None]}, "'answers' holds null"),
        ({"answers": [["a"]]}, "'answers' holds a list"),
        ({"answers": [""]}, "'answers' holds an empty text"),
        ({"answers": [7], "choices": ["a"]}, "names choice 7 of 1"),
        ({"answers": {"score": "x"}}, "not an object of 'score'"),
        ({"meta": {"parts": 3}}, "'meta.parts' is read as the parts of an answer"),
        ({"meta": {"parts": ["wheel", "axle"]}}, "'meta.parts' is read as"),
        ({"meta": {"readings": 12}}, "'meta.readings' is read as"),
        ({"gold": True}, "an id in 'gold' must be"),
        ({"unanswerable": True}, "said to be unanswerable and has answers"),
        ({"answers": ["1"], "choices": ["x", "y"]}, "'1', the text of none of its choices"),
        ({"answers": [2.0], "choices": ["x", "y"]}, "names choice 2.0 of 2, counted from 0"),
        ({"ctxs": [{"text": "x"}]}, "stand in 'ctxs', which is not read: put them into 'passages'"),
        ({"gold_ids": ["x"]}, "stand in 'gold_ids', which is not read"),
    ],
)
def test_what_cannot_be_is_told_in_the_data_s_words(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_example(ASKED | change)


@pytest.mark.parametrize(
    ("row", "answers", "gold"),
    [
        ("1,q?,oak,101", ("oak",), ["101"]),
        ('1,q?,"[""oak"", ""ash""]","[101, 102]"', ("oak", "ash"), ["101", "102"]),
        ("1,q?,\"['oak', 'ash']\",", ("oak", "ash"), None),
        ("1,q?,[oak],", ("[oak]",), None),
        ("1,q?,,101", (), ["101"]),
        ("1,q?,[],", (), None),
    ],
)
def test_lists_in_the_cells_of_a_table_are_lists(
    tmp_path: Path, row: str, answers: tuple[str, ...], gold: list[str] | None
) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"id,question,answers,gold\n{row}\n")
    (example,) = read_examples(path, unanswered="all")
    assert (example.answers, example.meta.get("gold")) == (answers, gold)
    assert example.unanswerable == ("[]" in row)


def test_a_table_without_a_header_says_so(tmp_path: Path) -> None:
    path = tmp_path / "nq.tsv"
    path.write_text("who cast the bell\t['Mira']\n")
    with pytest.raises(BadInput, match=r"nq\.tsv:1: the header must name the columns id and que"):
        list(read_examples(path))


def test_questions_without_answers_are_for_searching_or_for_abstaining(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    bare = {"id": 1, "question": "What fires tiles?", "gold": [101]}
    (example,) = read_lines(path, bare, unanswered="all")
    assert (example.answers, example.meta["gold"], example.unanswerable) == ((), ["101"], False)
    for unanswered in ("refused", "unanswerable"):
        with pytest.raises(BadInput, match=r"q\.jsonl:1: .* no 'answers' .*; .*search --questions"):
            list(read_examples(path, unanswered=unanswered))  # type: ignore[arg-type]
    (example,) = read_lines(path, bare | {"answers": []}, unanswered="unanswerable")
    assert example.unanswerable
    assert parse_example(example_record(example), "unanswerable") == example
    with pytest.raises(BadInput, match="'answers' is empty"):
        list(read_examples(path))


def test_a_second_empty_field_does_not_take_answers_away() -> None:
    given = {"question": "Where?", "answers": ["Paris"], "ground_truths": []}
    example = parse_example(given)
    assert example.answers == ("Paris",) and "unanswerable" not in example.meta
    assert parse_example(example_record(example)) == example


def test_squad_2_has_questions_to_abstain_on(tmp_path: Path) -> None:
    asked = {"id": "u1", "question": "Who painted it?", "answers": [], "is_impossible": True}
    paragraph = {"context": "The kiln fires tiles.", "qas": [asked]}
    document = {"version": "v2.0", "data": [{"title": "Kiln", "paragraphs": [paragraph]}]}
    path = tmp_path / "squad2.json"
    path.write_text(json.dumps(document))
    (example,) = read_examples(path, unanswered="unanswerable")
    assert example.unanswerable and [p.kind for p in example.passages] == ["distractor"]
    done = write_published("squad", tmp_path / "out", source=str(path))
    assert (done["questions"], done["passages"], done["left_out"]) == (1, 1, {})


@pytest.mark.parametrize("lines", [True, False])
def test_hotpotqa_is_fetched_from_its_makers_file(tmp_path: Path, lines: bool) -> None:
    path = tmp_path / "hotpot.json"
    path.write_text(json.dumps(HOTPOT if lines else [HOTPOT]))
    done = write_published("hotpotqa", tmp_path / "out", source=str(path))
    assert (done["questions"], done["passages"]) == (1, 2)
    (question,) = read_examples(tmp_path / "out" / "questions.jsonl")
    assert (question.id, question.answers, len(question.meta["gold"])) == ("h1", ("Tolm",), 2)
    with pytest.raises(BadInput, match="in the form of hotpotqa: `neurorit-rag data fetch"):
        list(read_examples(path))


def test_a_form_that_is_not_known_is_told_with_what_is_read(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="its fields are frage, id; read are id, question, answers"):
        read_lines(tmp_path / "q.jsonl", {"id": 1, "frage": "Was?"})
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"id": 1, "question": "q"}]))
    with pytest.raises(BadInput, match=r"rows\.json:1: .*'golden_answers' is missing; it has id,"):
        write_published("flashrag", tmp_path / "out", source=str(path))


def test_autorag_s_questions_are_read_from_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = {
        "qid": "a1",
        "query": "What does the kiln fire?",
        "retrieval_gt": [["d-1"], ["d-2"]],
        "generation_gt": ["tiles"],
        "metadata": {"made": datetime.datetime(2024, 5, 1)},
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "qa.parquet")
    (example,) = read_examples(tmp_path / "qa.parquet")
    assert (example.id, example.answers) == ("a1", ("tiles",))
    assert example.meta == {"made": "2024-05-01T00:00:00", "gold": ["d-1", "d-2"]}


TABLES = {
    "query-id\tcorpus-id\tscore\n1\t11\t1\n1\t12\t0\n": {"1": ["11"]},
    "1\t11\t1\n": {"1": ["11"]},
    "q1\t0\td1\t1\nq2\t0\td2\t2\n": {"q1": ["d1"], "q2": ["d2"]},
    "q1 0 d1 1\nq1 Q0 d2 -1\n": {"q1": ["d1"]},
    "\ufeffq1 0 d1 1\r\n": {"q1": ["d1"]},
}


@pytest.mark.parametrize("table", TABLES)
def test_tables_of_relevance_are_read_in_both_forms(tmp_path: Path, table: str) -> None:
    (tmp_path / "test.tsv").write_bytes(table.encode())
    assert read_qrels(tmp_path / "test.tsv") == TABLES[table]


def test_another_table_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text("q1 0 d1 1\nq1 d1\n")
    with pytest.raises(BadInput, match=r"test\.tsv:2: no line of qrels: 2 columns.*TREC's"):
        read_qrels(tmp_path / "test.tsv")


def test_beir_s_numbers_are_ids_and_queries_need_no_answers(tmp_path: Path) -> None:
    asked = {"_id": 1, "text": "What fires tiles?", "metadata": {"answer": "the kiln"}}
    (tmp_path / "queries.jsonl").write_text(json.dumps(asked) + "\n")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\t11\t1\n")
    (example,) = read_examples(tmp_path)
    assert (example.id, example.answers, example.meta["gold"]) == ("1", ("the kiln",), ["11"])
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "What fires tiles?"}\n')
    (example,) = read_examples(tmp_path, unanswered="all")
    assert (example.answers, example.meta["gold"]) == ((), ["11"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    form=st.sampled_from(["lines", "array", "pretty", "pretty array", "gzip"]),
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4
    ),
)
def test_questions_are_read_in_every_encoding_and_form_of_json(
    tmp_path: Path, encoding: str, end: str, form: str, texts: list[str]
) -> None:
    rows = [
        {"id": i, "question": f"Q {text}", "answers": [f"A {text}"]} for i, text in enumerate(texts)
    ]
    indent = 2 if "pretty" in form else None
    if "array" in form:
        text = json.dumps(rows, ensure_ascii=False, indent=indent)
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=False, indent=indent) for row in rows)
    # A line's end in a text is escaped in JSON: only those between its parts are replaced.
    data = (text.replace("\n", end) + end).encode(encoding)
    path = tmp_path / "questions.json"
    path.write_bytes(gzip.compress(data) if form == "gzip" else data)
    found = list(read_examples(path))
    assert [(e.question, e.answers[0]) for e in found] == [
        (row["question"], row["answers"][0])
        for row in rows  # type: ignore[index]
    ]


TRIVIA = {"Value": "Ada", "Aliases": ["A. L.", "Ada"], "NormalizedValue": "ada"}


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        ({"Question": "Who?", "Answer": "Ada"}, ("Ada",)),
        ({"Question": "Who?", "QuestionId": "t", "Answer": TRIVIA}, ("Ada", "A. L.")),
        ({"user_input": "Who?", "reference": "Ada"}, ("Ada",)),
        ({"question": "Who?", "ground_truths": ["Ada", "Lovelace"]}, ("Ada", "Lovelace")),
        ({"query": "Who?", "answers": ["No Answer Present."]}, ()),
        ({"question": "Who?", "answers": 1815, "meta": '{"page": 3}'}, ("1815",)),
    ],
)
def test_names_and_answers_of_other_tools(
    tmp_path: Path, row: dict[str, Any], answers: tuple[str, ...]
) -> None:
    (example,) = read_lines(tmp_path / "q.jsonl", row, unanswered="unanswerable")
    assert (example.question, example.answers) == ("Who?", answers)
    assert example.unanswerable == (not answers)
    assert len(example.id) == (1 if "QuestionId" in row else 16)
    listed = tmp_path / "q.json"
    listed.write_text(json.dumps({"Version": 1, "Data": [row]}))
    assert list(read_examples(listed, unanswered="unanswerable")) == [example]


def test_a_question_without_an_id_is_named_by_its_words(tmp_path: Path) -> None:
    row = {"question": "Who?", "answers": ["Ada"]}
    with pytest.raises(
        BadInput, match=r"q\.jsonl:2: its question was asked before, and it has no id"
    ):
        read_lines(tmp_path / "q.jsonl", row, row)


def test_grades_of_gold_are_read_as_qrels_are() -> None:
    assert parse_example(ASKED | {"gold": {"p1": 2, "p2": 0, "p3": 1}}).meta["gold"] == ["p1", "p3"]


def test_what_is_near_a_form_is_told_rightly(tmp_path: Path) -> None:
    tuning = {"instruction": "Who?", "input": "", "output": "Ada"}
    with pytest.raises(BadInput, match="no 'question'; its fields are input, instruction, output"):
        read_lines(tmp_path / "q.jsonl", tuning)
    with pytest.raises(
        BadInput, match=r"has no 'answers' \(its fields are id, question, solution\)"
    ):
        read_lines(tmp_path / "q.jsonl", {"id": 1, "question": "Who?", "solution": "Ada"})
