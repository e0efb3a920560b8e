"""Sentences that no passage supports: the words say what is clear, a judge what they leave open."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.reply_cache import Cache
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage
from neurorit.data.support import support_of, unsupported_spans
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.judges.judge import CachedJudge
from neurorit.eval.judges.support import Answered, judge_support, support_judge
from neurorit.eval.predictions import Item, Verdict
from neurorit.eval.report.html import render_page
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import parse_system
from tests.eval.chat_server import Reply, said, serving

QUICK = CallSettings(timeout=5.0, retries=0, pause=0.0, concurrency=4)
PASSAGES = [
    Passage("a", "Ada Lovelace", "Lovelace was born in 1815 in London. She published long notes."),
    Passage("b", "Bergen", "The harbour of Bergen was founded in 1070 by King Olav."),
]
TRUE = "Ada was born in London in 1815."  # one sentence says all of it
FALSE = "Weather ruined crops everywhere."  # nobody says any of it
SAID_OTHERWISE = "Lovelace printed lengthy notes."  # half of its words
TWISTED = "Lovelace was born in London, with long notes in 1815."  # words of two sentences
LOST = "Olav built the harbour at Bergen."


@pytest.mark.parametrize(
    ("sentence", "supported", "doubtful"),
    [
        (TRUE, True, False),
        (FALSE, False, False),
        (SAID_OTHERWISE, False, True),
        (TWISTED, True, True),
        (LOST, False, True),
        ("The answer is Olav [2].", True, False),
        ("It is so.", True, False),
    ],
)
def test_what_the_words_leave_in_doubt(sentence: str, supported: bool, doubtful: bool) -> None:
    (found,) = support_of(sentence, PASSAGES)
    assert (found.supported, found.doubtful) == (supported, doubtful)


@given(st.lists(st.sampled_from([TRUE, FALSE, TWISTED, "1070 Paris. So.", "\n"]), max_size=5))
def test_what_is_marked_without_a_judge_is_what_the_words_say(sentences: list[str]) -> None:
    answer = " ".join(sentences)
    spans, counts = judge_support(None, [Answered("Who?", answer, PASSAGES)])
    assert spans == [unsupported_spans(answer, PASSAGES, "Who?")]
    assert (counts["judged"], counts["unscored"], counts["judge"]) == (0, 0, None)


def judge(body: dict[str, Any]) -> Reply:
    """It knows what is said otherwise, sees a twist, and loses what it is asked about Olav."""
    text = body["messages"][0]["content"]
    if "<sentence>" not in text:
        return said("No")
    found = re.search("<sentence>(.*?)</sentence>", text)
    assert found and "Ada Lovelace: Lovelace was born" in text
    assert "Bergen: The harbour" in text and "{" not in text
    if found[1] == LOST:
        return 500, {"error": "down"}
    return said("Yes" if "lengthy" in found[1] else "No")


def test_a_judge_settles_what_is_in_doubt(tmp_path: Path) -> None:
    answer = f"{TRUE} {FALSE} {SAID_OTHERWISE} {TWISTED} {LOST} {TWISTED}"
    with serving(judge) as server, Cache(tmp_path) as store:
        made = support_judge(CachedJudge(EndpointJudge(server.url, "j", calls=QUICK), store))
        before = sum(server.asked.values())
        asked = [Answered("Who?", answer, PASSAGES), Answered("Who?", answer, PASSAGES)]
        spans, counts = judge_support(made, asked)
        assert sum(server.asked.values()) - before == 3, "equal sentences are asked once"
        marked = [answer[a:b].removesuffix(" [1]") for a, b in spans[0]]
        assert marked == [FALSE, TWISTED, LOST, TWISTED]
        assert spans[0] == spans[1]
        assert counts == {
            "sentences": 12, "unsupported": 8, "doubtful": 8, "judged": 6, "unscored": 2,
            "judge": "j",
        }  # fmt: skip
        before = sum(server.asked.values())
        again, _ = judge_support(made, asked)
        assert again == spans
        assert sum(server.asked.values()) - before == 1, (
            "what was lost is asked again, nothing else"
        )


def test_a_judge_of_another_form_is_not_asked(tmp_path: Path) -> None:
    class Plain:
        name = fingerprint = "p"

        def decide(self, items: Sequence[Item], progress: Any = None) -> list[Verdict]:
            raise AssertionError("it was asked")

    with Cache(tmp_path) as store:
        judged = support_judge(CachedJudge(Plain(), store))
        spans, counts = judge_support(judged, [Answered("Who?", TWISTED, PASSAGES)])
    assert spans == [[]]
    assert (counts["doubtful"], counts["judged"], counts["judge"]) == (1, 0, None)


def test_the_report_shows_what_the_judge_settled(tmp_path: Path) -> None:
    gold = Passage("g", "Ada Lovelace", PASSAGES[0].text, "gold")
    noise = Passage("d", "Bergen", PASSAGES[1].text, "distractor")
    write_examples(
        tmp_path / "e.jsonl",
        [
            Example(f"q{i}", f"Who, {i}?", ("Lovelace printed lengthy notes",), (gold, noise))
            for i in range(2)
        ],
    )

    def answers(body: dict[str, Any]) -> Reply:
        noisy = "Bergen" in body["messages"][-1]["content"]
        return said(f"King Olav.\n{TWISTED} {FALSE}" if noisy else SAID_OTHERWISE)

    with serving(answers) as server, serving(judge) as judges:
        report = run_evaluation(
            [parse_system(f"a={server.url}#m")],
            tmp_path / "e.jsonl",
            ["clean", "distractor-1"],
            tmp_path / "run",
            EndpointJudge(judges.url, "j", calls=QUICK),
            0,
            calls=QUICK,
        )
    shown = [output for example in report["examples"] for output in example["outputs"]]
    marked = [[o["output"][a:b] for a, b in o["unsupported"]] for o in shown]
    assert marked == [[TWISTED, FALSE]]
    assert report["support"] == {
        "sentences": 3, "unsupported": 2, "doubtful": 1, "judged": 1, "unscored": 0, "judge": "j",
    }  # fmt: skip
    told = "by its words, and where these leave it in doubt by j (1 of 3 sentences)."
    assert told in render_page(report)
