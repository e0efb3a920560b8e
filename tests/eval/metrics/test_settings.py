"""Which metric, systems and clusters the comparisons rest on; several data sets together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.metrics.scoring import score
from neurorit.eval.metrics.settings import Analysis, title_of
from neurorit.eval.predictions import Prediction
from neurorit.eval.report.macro import join_families, macro_average, macro_markdown
from neurorit.eval.report.summary import judge_bounds, summarise
from neurorit.eval.report.tables import as_markdown
from neurorit.eval.report.write import write_report
from neurorit.eval.run.plan import make_plan
from neurorit.eval.run.systems import System
from neurorit.eval.run.unscored import refuse_unscored
from neurorit.eval.stats.intervals import holm
from neurorit.pipelines.evaluation.settings import EvalSettings
from tests.conftest import make_example

CONDITIONS = ("closed-book", "clean", "distractor-1")


def answers(
    systems: dict[str, float], questions: int = 60, seed: int = 0, around: str = "It is {}."
) -> list[Prediction]:
    """Sentences that hold the answer as often as a system's number says."""
    rng = np.random.default_rng(seed)
    made = []
    for name, share in systems.items():
        for condition in CONDITIONS:
            for i in range(questions):
                example = make_example(i)
                right = rng.random() < share
                text = around.format(example.answers[0] if right else "Nowhere")
                made.append(score(name, condition, example, [], f"{name}{condition}{i}", text))
    return made


def test_an_answer_is_scored_after_its_evidence() -> None:
    example = make_example(1)  # Town1x0
    replies = {
        "It says Town1x0. Answer: Town1x0": (True, False),
        "Answer: Nowhere. Answer:\nTown1x0\nor so": (False, False),
        "It says Town1x0. Answer: Rome": (False, False),
        "Town1x0": (True, False),  # without the marker all of it is the answer
        "Town1x0 stands there. Answer: I do not know.": (False, True),
    }
    for text, (exact, refused) in replies.items():
        scored = score(
            "s", "clean", example, [], "k", text, analysis=Analysis(answer_after="Answer:")
        )
        assert (scored.em, scored.abstained) == (exact, refused), text
        assert scored.output == text
        assert score("s", "clean", example, [], "k", text).em is (text == "Town1x0")


def test_sentences_are_compared_by_match() -> None:
    systems = {"api": 0.2, "ours": 0.9}
    held = answers(systems)
    by_em = summarise(held, list(systems), CONDITIONS, {})
    by_match = summarise(held, list(systems), CONDITIONS, {}, analysis=Analysis("match"))
    assert by_em["comparisons"][0]["metric"] == "em" and by_em["comparisons"][0]["delta"] == 0
    first = by_match["comparisons"][0]
    assert (first["a"], first["b"], first["metric"]) == ("ours", "api", "match")
    assert first["delta"] > 0.4 and first["p_holm"] < 0.001
    assert {row["metric"] for row in by_match["comparisons"]} == {"match", "em", "f1"}
    assert {row["metric"] for row in by_match["power"]} == {"match"}
    area = next(row for row in by_match["robustness"] if row["metric"] == "robustness")
    assert area["score"] == "match" and area["value"] > 0
    assert by_match["findings"][0].startswith("ours is above api by ")
    assert "match on the first line" in by_match["findings"][0]
    text = as_markdown(by_match)
    assert text.index("## Match on the first line in percent") < text.index("## Exact match in")
    assert title_of("f1") == "Token F1"


def test_any_names_are_compared() -> None:
    names = ["a", "b", "c"]
    assert Analysis().pairs(names) == [("b", "a"), ("c", "a")]
    assert Analysis().pairs(["x", "base"]) == [("x", "base")]
    assert Analysis().pairs(["base", "sft", "neuro-rit"]) == [
        ("neuro-rit", "base"), ("sft", "base"), ("neuro-rit", "sft"),
    ]  # fmt: skip
    assert Analysis().pairs(["neuro-rit", "sft"]) == [("sft", "neuro-rit")]
    assert Analysis(compare=("b",)).pairs(names) == [("a", "b"), ("c", "b")]
    assert Analysis(compare=(("c", "b"),)).pairs(names) == [("c", "b")]
    assert Analysis().pairs(["alone"]) == []
    with pytest.raises(BadInput, match=r"compare names 'd', but the systems are a, b, c"):
        Analysis(compare=("d",)).check(names)
    with pytest.raises(BadInput, match="metric is 'bleu', but it must be one of em"):
        Analysis("bleu")  # type: ignore[arg-type]


def test_settings_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(
        "systems: {a: x, b: y}\ndata: d\nmetric: f1\ncompare: [[b, a]]\nrefusals: []\n"
        "cluster: title\nsample: first\n"
    )
    made = EvalSettings.read(path, {})
    assert made.analysis() == Analysis("f1", (("b", "a"),), (), "title")
    assert made.sample == "first"
    for line, message in (
        ("metric: bleu", "metric"),
        ("compare: [[a]]", "compare is .*, but it must be a list"),
        ("compare: c", "compare names 'c'"),
        ("refusals: ['(']", "no regular expression"),
    ):
        path.write_text(f"systems: {{a: x, b: y}}\ndata: d\n{line}\n")
        with pytest.raises(BadInput, match=message):
            EvalSettings.read(path, {})


def test_clusters_widen_what_rests_on_them() -> None:
    """Ten documents of thirty alike questions are ten witnesses, not three hundred."""
    rng = np.random.default_rng(0)
    examples, held = [], []
    for document in range(10):
        right = rng.random(2) < 0.5
        for i in range(30):
            e = Example(f"{document}-{i}", "?", ("yes",), (), {"title": f"d{document}"})
            examples.append(e)
    for s, name in enumerate(("a", "b")):
        rng = np.random.default_rng(s)
        right = rng.random(10) < 0.5
        for e in examples:
            text = "yes" if right[int(e.id.split("-")[0])] else "no"
            held.append((name, e, text))

    def report(analysis: Analysis) -> Any:
        made = [
            score(n, "clean", e, [], f"{n}{e.id}", text, analysis=analysis) for n, e, text in held
        ]
        return summarise(made, ["a", "b"], ["clean"], {}, analysis=analysis)

    alone, clustered = report(Analysis()), report(Analysis(cluster="title"))
    assert (alone["clusters"], clustered["clusters"]) == (None, 10)

    def width(row: Any, name: str) -> float:
        low, high = row["ci95"][name] if name else row["ci95"]
        return float(high - low)

    for part, name in (("results", "em"), ("comparisons", "")):
        assert width(clustered[part][0], name) > 3 * width(alone[part][0], name)
    assert clustered["comparisons"][0]["p"] > alone["comparisons"][0]["p"]
    assert clustered["power"][0]["needed"] > 10 * alone["power"][0]["needed"]


def test_cluster_of_a_gold_passage() -> None:
    gold = Passage("g", "Oslo", "text", "gold")
    assert Analysis(cluster="title").cluster_of(Example("q", "?", ("x",), (gold,))) == "Oslo"
    with pytest.raises(BadInput, match=r"cluster 'title': example 'q' has no such field"):
        Analysis(cluster="title").cluster_of(Example("q", "?", ("x",)))


def test_a_limit_draws_from_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    write_examples(path, [make_example(i) for i in range(200)])
    system = System("s", "endpoint", url="http://127.0.0.1:9/v1", remote="m")

    def chosen(limit: int, seed: int = 0, **more: Any) -> list[int]:
        plan = make_plan(
            [system], path, ["clean"], seed, max_tokens=8, engine={}, limit=limit, **more
        )
        return [int(p.example.id[1:]) for p in plan.prompts]

    drawn = chosen(20)
    assert drawn == sorted(drawn) and max(drawn) > 100
    assert drawn == chosen(20) and drawn != chosen(20, seed=1)
    assert set(drawn) < set(chosen(40))
    assert chosen(20, sample="first") == list(range(20))


def test_data_sets_are_one_family(tmp_path: Path) -> None:
    systems = {"base": 0.5, "tuned": 0.62}
    reports = {
        name: summarise(
            answers(systems, questions, seed, "{}"), list(systems), CONDITIONS, {}
        )
        for seed, (name, questions) in enumerate({"nq": 150, "hotpot": 90, "pop": 60}.items())
    }  # fmt: skip
    ps = [r["p"] for one in reports.values() for r in one["comparisons"] if r["metric"] == "em"]
    before = [dict(r) for r in reports["nq"]["comparisons"]]
    power = [dict(row) for row in reports["nq"]["power"]]
    join_families(reports)
    assert_power_is_that_of_the_family(power, reports["nq"])
    after = [
        r["p_holm"] for one in reports.values() for r in one["comparisons"] if r["metric"] == "em"
    ]
    assert after == pytest.approx(holm(ps))
    assert any(
        b["p_holm"] < a["p_holm"] for b, a in zip(before, reports["nq"]["comparisons"], strict=True)
    )
    assert reports["nq"]["family_over"] == ["nq", "hotpot", "pop"]
    macro = macro_average(reports)
    row = next(r for r in macro["results"] if (r["system"], r["condition"]) == ("tuned", "clean"))
    held = [
        next(r for r in one["results"] if (r["system"], r["condition"]) == ("tuned", "clean"))
        for one in reports.values()
    ]
    assert row["em"] == pytest.approx(np.mean([r["em"] for r in held])) and row["n"] == 300
    low, high = row["ci95"]["em"]
    assert low < row["em"] < high
    assert high - low < min(r["ci95"]["em"][1] - r["ci95"]["em"][0] for r in held)
    difference = next(r for r in macro["comparisons"] if r["condition"] == "distractor-mean")
    assert difference["ci95"][0] < difference["delta"] < difference["ci95"][1]
    assert difference["p"] <= difference["p_holm"]
    text = macro_markdown(macro)
    assert "nq (150), hotpot (90), pop (60)" in text and "| clean " in text
    write_report(reports["nq"], tmp_path)
    assert "all data sets (nq, hotpot, pop)" in (tmp_path / "report.html").read_text()
    json.dumps(macro, allow_nan=False)


def assert_power_is_that_of_the_family(alone: list[Any], report: Any) -> None:
    """As if every question of the set had been asked for the larger family at once."""
    for before, row in zip(alone, report["power"], strict=True):
        family = next(r["family"] for r in report["comparisons"] if r["metric"] == row["metric"])
        assert row["alpha"] == 0.05 / family < before["alpha"]
        assert row["needed"] > before["needed"] and row["smallest"] > before["smallest"]
        assert row["needed_alone"] == before["needed_alone"]


@pytest.mark.slow
def test_the_macro_test_keeps_its_level_and_covers() -> None:
    """Three sets of unequal size and accuracy, no difference: how often is one claimed?"""
    rng = np.random.default_rng(3)
    claimed = covered = 0
    trials = 400
    for _ in range(trials):
        reports = {}
        for name, n, share in (("a", 40, 0.1), ("b", 60, 0.5), ("c", 90, 0.9)):
            row = []
            for system in ("x", "y"):
                hits = rng.random(n) < share
                row += [
                    score(
                        system, "clean", Example(f"{i}", "?", ("yes",)), [], f"{system}{i}",
                        "yes" if hit else "no",
                    )
                    for i, hit in enumerate(hits)
                ]  # fmt: skip
            reports[name] = summarise(row, ["x", "y"], ["clean"], {})
        macro = macro_average(reports)
        claimed += macro["comparisons"][0]["p"] <= 0.05
        low, high = macro["results"][0]["ci95"]["em"]
        covered += low <= 0.5 <= high
    assert 0.03 <= claimed / trials <= 0.075
    assert 0.92 <= covered / trials <= 0.98


def test_unscored_are_borne_per_system_and_condition() -> None:
    def verdicts(missing: int) -> list[Prediction]:
        made = answers({"a": 0.5, "b": 0.5}, 100)
        left = [missing]

        def one(p: Prediction) -> Prediction:
            if (p.system, p.condition) == ("b", "clean") and left[0]:
                left[0] -= 1
                return p
            return p.judged("right", "j")

        return [one(p) for p in made]

    refuse_unscored("j", verdicts(2), 0.02)
    # Three of 600 are few of all answers, but more than 2 % of the one cell that they are in.
    with pytest.raises(NeuroritError, match=r"3 of 100 answers of b under clean"):
        refuse_unscored("j", verdicts(3), 0.02)
    with pytest.raises(NeuroritError, match="1 of 600"):
        refuse_unscored("j", verdicts(1), 0.0)
    counts = {"right": 70, "wrong": 20, "abstained": 8, "unscored": 2}
    assert judge_bounds(counts) == (0.7, 0.72)
    report = summarise(verdicts(2), ["a", "b"], CONDITIONS, {})
    row = next(r for r in report["results"] if (r["system"], r["condition"]) == ("b", "clean"))
    assert row["judge_bounds"] == [0.98, 1.0] and row["judge"] == 1.0
