"""Robustness, tables, comparison of runs, power, trace and the page, on small made-up runs."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from neurorit.core.errors import BadInput, GateMissed
from neurorit.data.examples import Example, Passage
from neurorit.data.ranking import ndcg, recall
from neurorit.eval.conditions import build_condition
from neurorit.eval.leave_one_out import Case, trace
from neurorit.eval.metrics.faithfulness import is_misled, read_in
from neurorit.eval.metrics.robustness import robustness
from neurorit.eval.metrics.scoring import is_right, score
from neurorit.eval.metrics.settings import Analysis
from neurorit.eval.predictions import Journal, Prediction
from neurorit.eval.report.compare_runs import Run, compare_runs, read_run
from neurorit.eval.report.summary import summarise
from neurorit.eval.report.tables import as_csv, as_latex, as_markdown
from neurorit.eval.report.write import print_table, write_report
from neurorit.eval.stats.intervals import rate_intervals, sign_flip_score
from neurorit.eval.stats.power import questions_needed
from neurorit.pipelines.evaluation.gates import check_gates, parse_gates
from neurorit.pipelines.evaluation.report import show_report
from tests.conftest import make_example

CONDITIONS = ("closed-book", "clean", "distractor-1", "distractor-2", "distractor-4")
CONDITIONS += ("counterfactual-1", "noise-only-2", "noise-only-4")
SYSTEMS = ("base", "neuro-rit")


def make_run(questions: int = 40, seed: int = 0) -> tuple[list[Prediction], dict[Any, Any]]:
    """base follows the first noisy passage more often the more of them; neuro-rit half as often."""
    rng = np.random.default_rng(seed)
    examples = [make_example(i) for i in range(questions)]
    passages = {(e.id, c): build_condition(e, c) for e in examples for c in CONDITIONS}
    held = []
    for share, system in zip((0.2, 0.1), SYSTEMS, strict=True):
        for name in CONDITIONS:
            for e in examples:
                shown = passages[e.id, name]
                noise = [p for p in shown if p.kind != "gold"]
                if not shown or rng.random() < share * len(noise):
                    text = noise[0].text.rsplit(" ", 1)[1] if noise else "nobody"
                elif any(p.kind == "gold" for p in shown):
                    text = e.answers[0]
                else:
                    text = ""
                held.append(score(system, name, e, shown, f"{system}{name}{e.id}", text))
    return held, passages


@pytest.fixture
def run(tmp_path: Path) -> Path:
    held, passages = make_run()
    out = tmp_path / "run"
    Journal(out / "predictions.jsonl").append(held)
    write_report(summarise(held, SYSTEMS, CONDITIONS, passages), out)
    return out


def prediction(condition: str, number: int, right: bool, ids: Sequence[str] = ()) -> Prediction:
    passages = [Passage(i, "", i, "gold" if i == "g" else "distractor") for i in ids]
    text = "yes" if right else "no"
    return score("s", condition, Example(f"q{number}", "?", ("yes",)), passages, "", text)


def test_area_size_and_no_degradation_by_hand() -> None:
    right = {"closed-book": 0, "clean": 1, "distractor-1": 1, "distractor-4": 0, "noise-only-1": 0}
    cells = {("s", name): [prediction(name, 0, bool(hit))] for name, hit in right.items()}
    cells["s", "closed-book"].append(prediction("closed-book", 1, True))
    for name in list(right)[1:]:
        cells["s", name].append(prediction(name, 1, name != "noise-only-1"))
    rows = {row["metric"]: row for row in robustness(cells, ["s"], list(right))}
    # Question 0: 1 from count 0 to 1, then down to 0 at 4: (1 + 1.5) / 4. Question 1: always 1.
    assert rows["noise-area:distractor"]["value"] == pytest.approx((2.5 / 4 + 1) / 2)
    assert rows["robustness"]["value"] == rows["noise-area:distractor"]["value"]
    assert rows["size"]["value"] == pytest.approx(0.75)
    # Only question 1 is right without passages, so only it can lose an answer to them.
    for metric, value, published in (("gold", 1, 1), ("no-gold", 0, 0.5)):
        row = rows[f"no-degradation:{metric}"]
        assert (row["n"], row["value"]) == (1, value)
        assert row["published"]["value"] == pytest.approx(published)
    assert "order" not in rows
    for row in rows.values():
        assert row["ci95"][0] <= row["value"] <= row["ci95"][1]


def test_another_order_is_no_more_noise() -> None:
    right = {
        "noise-only-2": 1,
        "noise-only-2@ranked": 0,
        "noise-only-4": 1,
        "noise-only-4@ranked": 0,
    }
    cells = {("s", name): [prediction(name, 0, bool(hit))] for name, hit in right.items()}
    (row,) = robustness(cells, ["s"], list(right))
    assert (row["metric"], row["value"]) == ("size", 1.0)
    assert row["over"] == ["noise-only-2", "noise-only-4"]


def test_nothing_right_is_not_robust() -> None:
    cells = {
        ("s", name): [prediction(name, i, False, ids) for i in range(3)]
        for name, ids in (
            ("closed-book", []),
            ("clean", ["g"]),
            ("distractor-1", ["g", "d"]),
            ("distractor-1@last", ["d", "g"]),
        )
    }
    rows = {r["metric"]: r for r in robustness(cells, ["s"], [c for _, c in cells])}
    for metric in ("no-degradation", "size", "order"):
        assert (rows[metric]["n"], rows[metric]["value"], rows[metric]["ci95"]) == (0, None, None)
    assert rows["no-degradation"]["published"]["value"] == 1
    assert rows["robustness"]["value"] == 0


def test_order_is_found_by_the_passages() -> None:
    cells = {
        ("s", "distractor-1"): [prediction("", i, True, ["g", "d"]) for i in range(4)],
        ("s", "random-1"): [prediction("", i, i > 0, ["d", "g"]) for i in range(4)],
        ("s", "clean"): [prediction("", i, True, ["g"]) for i in range(4)],
    }
    rows = {r["metric"]: r for r in robustness(cells, ["s"], ["clean", "distractor-1", "random-1"])}
    assert rows["order"]["value"] == pytest.approx(0.75)
    assert rows["order"]["over"] == ["distractor-1", "random-1"]


def test_reading() -> None:
    gold = Passage("g", "", "He lives in Oslo.", "gold")
    noise = Passage("n", "", "She lives in Rome.", "counterfactual")
    both = [gold, noise]
    for said, misled in (("Rome", True), ("Oslo", False), ("Paris", False), ("", False)):
        assert is_misled(said, ["Oslo"], both, read_in(said, "", both)) is misled
    assert read_in("rome", "", both) == [2] and read_in("Paris", "", both) == []
    assert recall([True, False], 2) == 0.5
    assert ndcg([False, True], 1) == pytest.approx(1 / np.log2(3))
    assert ndcg([False], 1) == 0


def test_wilson_by_scipy_and_clusters() -> None:
    from scipy.stats import binomtest

    hits = np.array([1.0] * 4 + [0.0] * 196)[:, None]
    exact = binomtest(4, 200).proportion_ci(0.95, "wilson")
    assert rate_intervals(hits)[0] == pytest.approx((exact.low, exact.high))
    low, high = rate_intervals(np.repeat(hits, 4, axis=0), [str(i // 4) for i in range(800)])[0]
    assert high - low > 0.95 * (exact.high - exact.low)
    with pytest.raises(ValueError, match="between 0 and 1"):
        rate_intervals(np.array([[2.0]]))


def test_score_test_by_hand() -> None:
    a, b = np.array([1] * 12 + [0] * 4), np.array([0] * 12 + [1] * 4)
    assert sign_flip_score(a - b) == pytest.approx(0.0455, abs=1e-4)
    assert sign_flip_score(a - a) == 1


def test_power_is_reached_in_simulation() -> None:
    rng = np.random.default_rng(0)
    pilot = rng.choice([-1.0, 0.0, 1.0], size=4_000, p=[0.1, 0.8, 0.1])
    needed = questions_needed(pilot, 0.06).needed
    seen = 0
    for _ in range(400):
        drawn = rng.choice([-1, 0, 1], size=needed, p=[0.07, 0.8, 0.13])
        seen += sign_flip_score(drawn) <= 0.05
    assert 0.72 <= seen / 400 <= 0.88
    with pytest.raises(ValueError, match="difference"):
        questions_needed(pilot, 0)


def test_tables_hold_every_interval(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert {row["part"] for row in rows} >= {"results", "robustness", "abstention", "comparisons"}
    for row in rows:
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"])
    assert re.search(r"^\| distractor-4 +\|", as_markdown(report), re.MULTILINE)
    latex = as_latex(report | {"systems": ["base", "neuro-rit"]})
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 13
    assert "95 \\%" in latex


HOSTILE = ("=1+1", "+x", "-y", "@z", "a|b_c%\x1b[31m\nd", "tuned[/v2]")


def test_names_are_no_formulas_commands_or_cells() -> None:
    predictions, passages = make_run(12)
    renamed = [
        replace(p, system=name, key=f"{name}{p.key}")
        for name in HOSTILE
        for p in predictions
        if p.system == "base"
    ]
    report = summarise(renamed, HOSTILE, CONDITIONS, passages)
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    assert {row["system"] for row in rows} >= {"'=1+1", "'+x", "'-y", "'@z", "tuned[/v2]"}
    for row in rows:
        assert not any(row[name].startswith(("=", "+", "-", "@")) for name in ("system", "metric"))
    lines = as_markdown(report).splitlines()
    head = next(line for line in lines if line.startswith("| condition"))
    assert r"a\|b_c%\x1b[31m\nd" in head
    assert len(re.findall(r"(?<!\\)\|", head)) == len(HOSTILE) + 2
    latex = as_latex(report)
    assert "\x1b" not in latex
    assert r"a|b\_c\%\textbackslash x1b[31m\textbackslash nd" in latex


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    predictions, passages = make_run(12)
    named = [replace(p, system="tuned[/v2]") for p in predictions if p.system == "base"]
    report = summarise(named, ["tuned[/v2]"], CONDITIONS, passages)
    report["judge"] = {"name": "j[/x]", "kappa": 1.0, "agreement": 1.0, "n": 3}
    printed = io.StringIO()
    print_table(report, Console(file=printed, width=200))
    assert "tuned[/v2]" in printed.getvalue() and "Judge j[/x]: kappa" in printed.getvalue()


def test_runs_are_compared_pair_by_pair(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    Journal(other / "predictions.jsonl").append(make_run(seed=1)[0])
    rows = compare_runs(read_run(run, "a"), read_run(other, "b"))
    assert len(rows) == len(SYSTEMS) * len(CONDITIONS)
    assert all(row["paired"] and row["n"] == 40 for row in rows)
    same = compare_runs(read_run(run, "a"), read_run(run, "a"))
    assert all(row["delta"] == 0 and row["p_holm"] == 1 for row in same)
    moved = [replace(p, id=f"new-{p.id}") for p in make_run()[0]]
    Journal(tmp_path / "far" / "predictions.jsonl").append(moved)
    far = compare_runs(read_run(run, "a"), read_run(tmp_path / "far", "c"))
    assert all(not row["paired"] and row["ci95"][0] <= 0 <= row["ci95"][1] for row in far)
    renamed = tmp_path / "run[/v2]"
    shutil.copytree(other, renamed)
    assert len(show_report([run, renamed])["comparisons"]) == len(rows)


def test_runs_that_share_no_question_are_compared_by_cluster(tmp_path: Path) -> None:
    held = [replace(p, system="a", condition="clean") for p in make_run(400)[0][:400]]

    def read(name: str, clusters: int, shift: int) -> Run:
        # All answers of a cluster are alike: there are as many answers as clusters.
        size = len(held) // 20
        predictions = [
            replace(
                p,
                id=f"{name}{i}",
                em=(i // size + shift) % 2 == 0,
                cluster=f"{i // size}" if clusters else "",
            )
            for i, p in enumerate(held)
        ]
        Journal(tmp_path / name / "predictions.jsonl").append(
            [replace(p, key=f"{name}{i}") for i, p in enumerate(predictions)]
        )
        return read_run(tmp_path / name, name)

    plain = compare_runs(read("p", 0, 0), read("q", 0, 1))[0]
    clustered = compare_runs(read("c", 20, 0), read("d", 20, 1))[0]
    assert not plain["paired"] and not clustered["paired"]
    widths = [row["ci95"][1] - row["ci95"][0] for row in (plain, clustered)]
    assert widths[1] > 4 * widths[0]  # about the square root of 20
    own = [row["a_ci95"][1] - row["a_ci95"][0] for row in (plain, clustered)]
    assert own[1] > 4 * own[0]


def test_two_runs_are_one_comparison_whichever_is_named_first(tmp_path: Path) -> None:
    def read(name: str, seed: int, cluster: Callable[[int], str]) -> Run:
        labelled = [replace(p, cluster=cluster(int(p.id[1:]))) for p in make_run(seed=seed)[0]]
        Journal(tmp_path / name / "predictions.jsonl").append(labelled)
        return read_run(tmp_path / name, name)

    plain = read("plain", 0, lambda i: "")
    documents = read("documents", 1, lambda i: f"document {i // 2}")
    shelves = read("shelves", 2, lambda i: f"shelf {i // 8}")
    for a, b in ((plain, documents), (documents, shelves), (plain, shelves)):
        there, back = compare_runs(a, b), compare_runs(b, a)
        assert any(row["delta"] for row in there)
        for row, other in zip(there, back, strict=True):
            assert other["delta"] == -row["delta"]
            assert other["p"] == pytest.approx(row["p"])
            assert other["needed"] == row["needed"]
            assert other["ci95"] == pytest.approx([-end for end in reversed(row["ci95"])])
    halves = read("halves", 3, lambda i: f"half {i % 2}")
    with pytest.raises(BadInput, match="documents and halves cluster the same questions otherwise"):
        compare_runs(documents, halves)


def test_gates(run: Path) -> None:
    report = json.loads((run / "report.json").read_text())
    passing = [
        "robustness=0.1",
        "base:robustness=0",
        "base:clean:em=0.9",
        "size=0.3",
    ]
    check_gates(report, parse_gates(passing), run)
    with pytest.raises(GateMissed, match=r"robustness of neuro-rit .*95 % interval"):
        show_report([run], fail_under=["robustness=0.999"])
    for bad in ("robustness", "x=1", "a:b:c=1", "base:clean:em=x"):
        with pytest.raises(BadInput, match="fail_under"):
            parse_gates([bad])
    with pytest.raises(BadInput, match="not measured"):
        check_gates(report, parse_gates(["order=0.5"]), run)
    # Nobody is right without passages here, so nothing can be kept.
    with pytest.raises(BadInput, match="right to begin with"):
        check_gates(report, parse_gates(["no-degradation:gold=0.5"]), run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "pdf"}, "table=pdf"),
        ({"out": Path("x")}, "out wants table"),
        ({"power": 2.0}, "power=2"),
    ],
)
def test_wrong_use(run: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        show_report([run], **options)


def test_format_and_power(run: Path, tmp_path: Path) -> None:
    show_report([run], table="md", out=tmp_path / "t.md")
    assert (tmp_path / "t.md").read_text().startswith("# ")
    power = show_report([run], power=0.1)["power"]
    assert power and all(row["needed"] >= 1 for row in power)


def gullible(asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
    """Follows a counterfactual passage where there is one, else reads the gold one."""
    said = []
    for _, shown in asked:
        kinds = {p.kind: p.text.rsplit(" ", 1)[1] for p in shown}
        said.append(kinds.get("counterfactual") or kinds.get("gold") or "")
    return said


def test_trace_names_the_passage() -> None:
    example = make_example(1)
    shown = build_condition(example, "counterfactual-1")
    case = Case(example, "counterfactual-1", shown, gullible([("", shown)])[0])
    ids = {p.kind: p.id for p in shown}
    found = trace([case], gullible, why={("q1", ids["counterfactual"]): "answer replaced"})[0]
    assert found["repeated"] and found["wrong"]
    culprit = found["passages"][found["culprits"][0] - 1]
    assert (len(found["culprits"]), culprit["kind"]) == (1, "counterfactual")
    assert culprit["says_the_answer"] and culprit["why"] == "answer replaced"
    assert trace([], gullible) == []
    with pytest.raises(ValueError, match="answers to"):
        trace([case], lambda asked: [])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(0, 8), st.booleans(), st.integers(0, 10**6))
def test_halves_name_the_passage_that_one_by_one_does(
    size: int, culprit: int, told: bool, seed: int
) -> None:
    """One passage misleads, said by its text or not; the gold one is needed."""
    rng = random.Random(seed)
    example = Example("q", "Who?", ("Ada",))
    noise = [Passage(f"n{i}", "", f"Word{i} here.", "distractor") for i in range(size)]
    culprit %= size + 1  # at `size` none of them misleads: the model cannot read
    said = "Word" + str(culprit) if told else "nothing said"
    shown = [*noise, Passage("g", "", "It was Ada.", rng.choice(("gold", None)))]
    rng.shuffle(shown)
    asked = []

    def answer(questions: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        asked.append([len(passages) for _, passages in questions])
        held = [{p.id for p in passages} for _, passages in questions]
        return [
            said if f"n{culprit}" in ids or culprit == size else "Ada" if "g" in ids else ""
            for ids in held
        ]

    case = Case(example, "c", shown, said)
    (each,) = trace([case], answer)
    asked.clear()
    (found,) = trace([case], answer, halves=True)
    assert found["culprits"] == each["culprits"]
    assert (found["wrong"], found["output"]) == (each["wrong"], each["output"])
    assert found["asked"] == sum(map(len, asked)) and found["read"] == sum(map(sum, asked))
    assert each["read"] == (size + 1) ** 2 == found["read_one_by_one"]
    if told and size > 3:
        assert found["read"] <= 2 * size + 2


def test_halves_look_at_all_cases_in_a_few_rounds() -> None:
    example = make_example(1)
    shown = build_condition(example, "counterfactual-1")
    rounds = []

    def answer(asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        rounds.append(len(asked))
        return gullible(asked)

    case = Case(example, "counterfactual-1", shown, gullible([("", shown)])[0])
    right = Case(example, "clean", build_condition(example, "clean"), "x")
    first, second, third = trace([case, right, case], answer, halves=True)
    assert first["culprits"] == third["culprits"] and first["passages"][0]["kind"]
    assert (second["wrong"], second["culprits"], second["asked"]) == (False, [], 1)
    assert rounds == [3, 2]
    untested = [p for p in first["passages"] if p["without_it"] is None]
    assert [p["kind"] for p in untested] == ["gold"]


def test_what_stays_right_when_the_question_is_put_otherwise() -> None:
    def cell(name: str, right: Sequence[bool]) -> list[Prediction]:
        return [
            score("a", name, make_example(i), (), f"{name}{i}", make_example(i).answers[0] * yes)
            for i, yes in enumerate(right)
        ]

    cells = {
        ("a", name): cell(name, right)
        for name, right in {
            "clean": (1, 1, 1, 0),
            "clean+typos": (1, 0, 1, 1),
            "clean+upper": (0, 0, 1, 0),
            "distractor-2": (1, 1, 0, 0),
        }.items()
    }
    rows = {row["metric"]: row for row in robustness(cells, ["a"], [name for _, name in cells])}
    assert rows["query:typos"]["value"] == pytest.approx(2 / 3)
    assert rows["query:upper"]["value"] == pytest.approx(1 / 3)
    assert rows["query"]["value"] == pytest.approx(0.5) and rows["query"]["n"] == 3
    assert rows["query"]["over"] == ["clean", "clean+typos", "clean+upper"]
    assert rows["robustness"]["over"] == ["clean", "distractor-2"]


def test_a_right_answer_in_a_sentence_is_not_traced_where_the_run_matches() -> None:
    example = make_example(1)
    shown = build_condition(example, "counterfactual-1")
    false = next(i for i, p in enumerate(shown) if p.kind == "counterfactual")

    def wordy(asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        return [f"It is {text}." for text in gullible(asked)]

    case = Case(example, "counterfactual-1", shown, wordy([("", shown)])[0])
    by_match = trace([case], wordy, analysis=Analysis(metric="match"))[0]
    assert by_match["wrong"] and by_match["culprits"] == [false + 1]
    assert trace([case], wordy)[0]["culprits"] == []  # no sentence is an exact match
    right = f"It is {example.answers[0]}."
    assert is_right(right, example, Analysis(metric="match"))
    assert not is_right(right, example, Analysis())


def test_a_run_is_traced_by_its_own_rules() -> None:
    example = make_example(1)
    shown = build_condition(example, "counterfactual-1")
    false = next(i for i, p in enumerate(shown) if p.kind == "counterfactual")

    def reasoned(asked: Sequence[tuple[str, Sequence[Passage]]]) -> list[str]:
        return [f"A passage says so. Answer: {text}" for text in gullible(asked)]

    case = Case(example, "counterfactual-1", shown, reasoned([("", shown)])[0])
    after = Analysis(answer_after="Answer:")
    assert trace([case], reasoned, analysis=after)[0]["culprits"] == [false + 1]
    assert trace([case], reasoned)[0]["culprits"] == []


def test_what_a_report_leaves_out_is_not_compared(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    ids = sorted({p.id for p in make_run()[0]})[:4]
    report = {"manifest": {"left_out": ids}}
    (other / "report.json").write_text(json.dumps(report))
    cut = [replace(p, em=False) if p.id in ids else p for p in make_run()[0]]
    (other / "predictions.jsonl").unlink()
    Journal(other / "predictions.jsonl").append(cut)
    rows = compare_runs(read_run(run, "a"), read_run(other, "b"))
    assert all(row["n"] == 36 and row["delta"] == 0 for row in rows)


def test_trace_command(run: Path, tmp_path: Path) -> None:
    from contextlib import nullcontext

    from neurorit.data.example_files import write_examples
    from neurorit.pipelines.evaluation.trace import trace_run

    examples = tmp_path / "examples.jsonl"
    write_examples(examples, [make_example(i) for i in range(40)])

    def traced(system: str, out: Path | None = None) -> Any:
        return trace_run(
            run, Path("m"), examples, system, "counterfactual-1", None, 3, 8, out,
            opened=lambda model, tokens: nullcontext(gullible),
        )  # fmt: skip

    done = traced("base", tmp_path / "t.jsonl")
    assert done["culprit_kinds"] == {"counterfactual": done["traced"]}
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == done["traced"] > 0
    with pytest.raises(BadInput, match="system=nobody"):
        traced("nobody")
    write_examples(examples, [make_example(99)])
    with pytest.raises(BadInput, match="no example"):
        traced("base")


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280])
def test_page_in_a_browser(run: Path, width: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    from tests.eval.report.test_frontier import with_frontier

    report = with_frontier(json.loads((run / "report.json").read_text()))
    write_report(report | {"families": dict.fromkeys(SYSTEMS, "one")}, run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((run / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # No figure may run out of its cell, where it would lie upon the next one.
        spilling = page.evaluate(
            "[...document.querySelectorAll('td')].filter(c => c.scrollWidth > c.clientWidth + 1)"
            ".map(c => c.textContent)"
        )
        assert spilling == []
        assert page.locator("svg polyline.line").count() >= len(SYSTEMS)
        assert page.locator(".maps table").count() == len(SYSTEMS)
        assert page.get_by_text("Robustness", exact=True).first.is_visible()
        frontier = page.get_by_label("Robustness against retention")
        box = frontier.bounding_box()
        assert frontier.is_visible() and box and box["width"] > 0.6 * min(width, 420)
        assert frontier.locator("polyline.joined").count() == 1
        # No name runs out of the picture or lies upon another.
        names = [n.bounding_box() for n in frontier.locator("text.label").all()]
        assert all(n and n["x"] >= box["x"] - 1 for n in names)
        assert all(n and n["x"] + n["width"] <= box["x"] + box["width"] + 1 for n in names)
        tops = sorted(n["y"] for n in names if n)
        assert all(b - a > 6 for a, b in pairwise(tops))
        assert len(asked) == 1, asked
        browser.close()
