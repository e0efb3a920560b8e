"""Where an answer was read: also within a sentence, and in the passages that it cites."""

from __future__ import annotations

import numpy as np
import pytest

from neurorit.data.examples import Example, Passage
from neurorit.data.ranking import ndcg
from neurorit.eval.metrics.answers import exact_match_all, parts_recalled
from neurorit.eval.metrics.faithfulness import found_in, is_cited_faithful, is_misled, read_in
from neurorit.eval.metrics.scoring import score
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.report.summary import summarise

GOLD = Passage("g", "", "Ada was born in Oslo in 1912.", "gold")
NOISE = Passage("n", "", "Ida was born in Rome in 1915.", "distractor")
QUESTION = "Where was Ada born?"


@pytest.mark.parametrize(
    ("said", "misled"),
    [
        ("Rome", True),
        ("It is Rome.", True),
        ("Ada was born in Rome [2].", True),
        ("According to passage 2, she was born in Rome.\nThat is all.", False),
        ("She was born in Rome in 1915.", True),
        ("She was born in Rome in 1912.", False),
        ("It is Oslo.", False),
        ("It is Paris.", False),
        ("", False),
    ],
)
def test_misled_in_a_sentence(said: str, misled: bool) -> None:
    shown = [GOLD, NOISE]
    assert is_misled(said, ["Oslo"], shown, read_in(said, QUESTION, shown)) is misled


def test_a_known_false_answer_is_the_answer() -> None:
    text = "Scholars of every school agree that Rome saw her birth"
    shown = [GOLD, NOISE]
    assert not is_misled(text, ["Oslo"], shown, read_in(text, QUESTION, shown))
    assert is_misled(text, ["Oslo"], shown, read_in(text, QUESTION, shown, ["Rome"]))


def test_faithful_to_what_it_cites() -> None:
    shown = [GOLD, NOISE]
    for said, faithful in (
        ("It is Rome [2].", True),
        ("It is Rome [1].", False),
        ("It is Rome [7].", None),
        ("It is Rome.", None),
    ):
        read = read_in(said, QUESTION, shown)
        assert read == [2] and found_in(said, shown) == []
        assert is_cited_faithful(said, shown, read) is faithful
    assert read_in("Where was Ada born?", QUESTION, [GOLD]) == []


def test_recall_counts_all_gold_passages() -> None:
    """One of two gold passages found, at rank 1: recall 0.5 and nDCG 0.61, not 1 and 1."""
    example = Example("q", QUESTION, ("Oslo",), (), {"gold": ["g", "h"]})
    held = [score("s", "retrieved-2", example, [GOLD, NOISE], "", "Oslo")]
    row = summarise(held, ["s"], ["retrieved-2"], {})["results"][0]
    assert row["recall"] == 0.5
    assert row["ndcg"] == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert ndcg([True, False], 2) == row["ndcg"]
    nameless = Example("q", QUESTION, ("Oslo",))
    held = [score("s", "retrieved-1", nameless, [NOISE], "", "Oslo")]
    row = summarise(held, ["s"], ["retrieved-1"], {})["results"][0]
    assert row["recall"] is None and row["n_of"]["recall"] == 0


def test_a_gateway_is_read_in_its_own_passages() -> None:
    """Two gateways that retrieve other passages: each one's answer is looked for in its own."""
    example = Example("q", QUESTION, ("Oslo",), (), {"gold": ["g"]})
    held = [
        score(name, "retrieved-1", example, [passage], name, "It is Rome.")
        for name, passage in (("a", GOLD), ("b", NOISE))
    ]
    place = ("q", "retrieved-1")
    own = {"b": {place: [NOISE]}}
    rows = summarise(held, ["a", "b"], ["retrieved-1"], {place: [GOLD]}, own=own)["results"]
    assert [row["faithfulness"] for row in rows] == [0.0, 1.0]
    assert [row["misled_rate"] for row in rows] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("said", "figures"),
    [
        # (exact match, misled, faithful)
        ("Rome is a big town.\nAnswer: Oslo", (1, 0, 1)),
        ("Oslo stands there.\nAnswer: Rome", (0, 1, 1)),
        ("Oslo and Rome stand there.\nAnswer: Bern", (0, 0, 0)),
    ],
)
def test_the_answer_after_its_evidence_is_what_was_read(
    said: str, figures: tuple[int, ...]
) -> None:
    after = Analysis(answer_after="Answer:")
    conditions = ["clean", "distractor-1"]
    shown = {
        (f"q{i}", c): [GOLD, NOISE][: 1 + (c != "clean")] for i in range(30) for c in conditions
    }
    held = [
        score(
            "s", c, Example(i, QUESTION, ("Oslo",)), passages, i + c,
            "Answer: Oslo" if c == "clean" else said, analysis=after,
        )
        for (i, c), passages in shown.items()
    ]  # fmt: skip
    report = summarise(held, ["s"], conditions, shown, analysis=after)
    row = report["results"][1]
    assert (row["em"], row["misled_rate"], row["faithfulness"]) == figures
    # Those that noise misled are shown, with the passage that says the answer.
    assert [example["of"] for example in report["examples"]] == [30] * figures[1]
    assert [one["outputs"][0]["found_in"] for one in report["examples"]] == [[2]] * figures[1]


def test_what_the_run_counts_as_right_is_not_misled() -> None:
    """By letters `Romeo` holds `Rome`: right for a run that rests on that, wrong for others."""
    noise = Passage("n", "", "Ida was born in Romeo.", "distractor")
    held = [score("s", "retrieved-1", Example("q", QUESTION, ("Rome",)), [noise], "", "Romeo")]
    place = {("q", "retrieved-1"): [noise]}
    for metric, misled in (("match-substring", 0), ("match", 1)):
        analysis = Analysis(metric)  # type: ignore[arg-type]
        row = summarise(held, ["s"], ["retrieved-1"], place, analysis=analysis)["results"][0]
        assert row["misled_rate"] == misled


def test_parts_in_any_order() -> None:
    parts = [["Ann Lee", "A. Lee"], ["Bob"], ["Simon and Garfunkel", "S&G"]]
    for said in (
        "Ann Lee, Bob and Simon and Garfunkel",
        "Bob, S&G, and A. Lee.",
        "simon and garfunkel bob ann lee",
    ):
        assert exact_match_all(said, parts), said
    for said in ("Ann Lee and Bob", "Bob, S&G, A. Lee and Bob", "Bob Bob S&G", ""):
        assert not exact_match_all(said, parts), said


def test_share_of_parts() -> None:
    readings = [["1912"], ["Oslo", "Christiania"]]
    assert parts_recalled("In Oslo.\nThat was in 1912.", readings) == 1
    assert parts_recalled("In Christiania", readings) == 0.5
    assert parts_recalled("", readings) == 0
    asqa = Example("a", "When and where?", ("1912", "Oslo"), (), {"readings": readings})
    rgb = Example("b", "Who?", ("Ann and Bob",), (), {"parts": [["Ann"], ["Bob"]]})
    plain = Example("c", "Where?", ("Oslo",))
    texts = {"a": "Oslo", "b": "Bob and Ann", "c": "Rome"}
    held = [score("s", "clean", e, [], e.id, texts[e.id]) for e in (asqa, rgb, plain)]
    assert [p.parts for p in held] == [0.5, 1.0, None]
    assert held[1].em
    report = summarise(held, ["s"], ["clean"], {})
    assert report["results"][0]["parts"] == pytest.approx(0.5)
