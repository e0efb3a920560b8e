"""Sample files of other tools: the same figures as of our own answers, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput
from neurorit.data.examples import Example
from neurorit.eval.metrics.scoring import score
from neurorit.eval.predictions import Prediction
from neurorit.eval.report.compare_runs import compare_runs, read_run
from neurorit.eval.report.sample_files import compare_samples, read_samples

TITLES = ("Rome", "Oslo", "Bern", "Kyiv", "Lima", "Doha")


def answers(seed: int, rate: float, n: int = 60) -> list[Prediction]:
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        example = Example(f"q{i}", f"Who {i}?", ("Ada Byron",))
        text = "Ada Byron" if rng.random() < rate else "Ada" if rng.random() < 0.5 else "Bo"
        made.append(score("m", "clean", example, (), f"{seed}-{i}", text))
    return made


def ours(folder: Path, predictions: Iterable[Prediction]) -> Path:
    folder.mkdir()
    lines = (json.dumps(asdict(p)) + "\n" for p in predictions)
    (folder / "predictions.jsonl").write_text("".join(lines))
    return folder


def harness(folder: Path, predictions: Sequence[Prediction]) -> Path:
    """As lm_eval 0.4.13 writes them (`loggers/evaluation_tracker.py`)."""
    folder.mkdir(exist_ok=True)
    lines = [
        {
            "doc_id": i,
            "doc": {"question": p.question, "title": TITLES[i % 6]},
            "target": p.answers[0],
            "arguments": {"gen_args_0": {"arg_0": p.question}},
            "resps": [[p.output]],
            "filtered_resps": [p.output],
            "filter": "none",
            "metrics": ["em", "f1", "perplexity"],
            "doc_hash": f"hash of {p.question}",
            "em": float(p.em),
            "f1": p.f1,
            "perplexity": [1.0, 2],
        }
        for i, p in enumerate(predictions)
    ]
    path = folder / "samples_noisy_qa_2026-11-29T12-00-00.000001.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def bergen(folder: Path, predictions: Iterable[Prediction]) -> Path:
    """As BERGEN's eval.py writes them."""
    folder.mkdir()
    records = [
        {
            "q_id": p.id,
            "response": p.output,
            "instruction": "...",
            "label": list(p.answers),
            "question": p.question,
            "ranking_label": None,
            "EM": float(p.em),
            "F1": p.f1,
        }
        for p in predictions
    ]
    (folder / "eval_dev_out.json").write_text(json.dumps(records))
    return folder


FORMS: dict[str, tuple[Callable[..., Path], dict[str, str]]] = {
    "ours": (ours, {"em": "em", "f1": "f1"}),
    "lm-eval": (harness, {"em": "em", "f1": "f1"}),
    "bergen": (bergen, {"em": "EM", "f1": "F1"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_figures_equal_ours_on_the_same_answers(form: str, tmp_path: Path) -> None:
    write, names = FORMS[form]
    sides = answers(1, 0.7), answers(2, 0.5)
    runs = [read_run(ours(tmp_path / f"run-{i}", side), f"run-{i}") for i, side in enumerate(sides)]
    written = [write(tmp_path / f"{form}-{i}", side) for i, side in enumerate(sides)]
    # The order of the samples is nothing.
    rows = compare_samples(*(read_samples(place, place.name) for place in written))
    for metric, theirs in names.items():
        (expected,) = compare_runs(*runs, metric=metric)  # type: ignore[arg-type]
        (row,) = [row for row in rows if row["metric"] == theirs]
        for figure in ("delta", "ci95", "p", "p_exact", "test", "n", "needed", "a_ci95"):
            assert row[figure] == expected[figure], figure
        assert row["a_value"] == expected[f"a_{metric}"]
    assert {row["metric"] for row in rows} >= set(names.values())
    assert all(row["metric"] != "perplexity" for row in rows)


def test_what_a_report_leaves_out_counts_by_neither_route(tmp_path: Path) -> None:
    sides = answers(1, 0.7), answers(2, 0.5)
    places = [ours(tmp_path / f"run-{i}", side) for i, side in enumerate(sides)]
    left_out = {"manifest": {"left_out": [f"q{i}" for i in range(8)]}}
    (places[0] / "report.json").write_text(json.dumps(left_out))
    (run,) = compare_runs(*(read_run(place, place.name) for place in places))
    for names in (places, [place / "predictions.jsonl" for place in places]):
        rows = compare_samples(*(read_samples(place, place.name) for place in names))
        assert (rows[0]["n"], rows[0]["delta"]) == (run["n"], run["delta"])
    assert run["n"] == 52


def test_clusters_and_missing_scores(tmp_path: Path) -> None:
    sides = answers(1, 0.7), answers(2, 0.5)
    places = [harness(tmp_path / str(i), side) for i, side in enumerate(sides)]
    alone = compare_samples(*(read_samples(place, "x") for place in places))[0]
    held = compare_samples(*(read_samples(place, "x", "title") for place in places))[0]
    assert held["delta"] == alone["delta"] and held["ci95"] != alone["ci95"]
    with pytest.raises(BadInput, match=r"\.jsonl:1: has no field 'page'"):
        read_samples(places[0], "x", "page")
    path = next(places[0].iterdir())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[3]["em"] = float("nan")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines[::-1]))
    rows = {r["metric"]: r for r in compare_samples(*(read_samples(p, "x") for p in places))}
    assert (rows["em"]["n"], rows["f1"]["n"]) == (59, 60)


def test_the_coarser_clusters_count_whichever_side_has_them(tmp_path: Path) -> None:
    plain, clustered = answers(1, 0.7), answers(2, 0.5)
    clustered = [replace(p, cluster=f"c{i % 6}") for i, p in enumerate(clustered)]
    places = ours(tmp_path / "plain", plain), ours(tmp_path / "clustered", clustered)
    a, b = (read_samples(place, place.name) for place in places)
    for row, other in zip(compare_samples(a, b), compare_samples(b, a), strict=True):
        assert other["p"] == pytest.approx(row["p"])
        assert other["ci95"] == pytest.approx([-end for end in reversed(row["ci95"])])
    alone = compare_samples(a, read_samples(ours(tmp_path / "b", answers(2, 0.5)), "b"))
    assert compare_samples(a, b)[0]["p"] != alone[0]["p"]


def test_what_is_refused(tmp_path: Path) -> None:
    place = harness(tmp_path / "a", answers(1, 0.5))
    few = harness(tmp_path / "b", answers(1, 0.5, n=5))
    with pytest.raises(BadInput, match="share 5 questions of noisy_qa"):
        compare_samples(read_samples(place, "a"), read_samples(few, "b"))
    other = bergen(tmp_path / "c", answers(1, 0.5))
    with pytest.raises(BadInput, match="a and c share no question"):
        compare_samples(read_samples(place, "a"), read_samples(other, "c"))
    (tmp_path / "x.jsonl").write_text('{"doc_id": 1}\n')
    with pytest.raises(BadInput, match=r"x.jsonl:1: no sample of lm-evaluation-harness"):
        read_samples(tmp_path / "x.jsonl", "x")
    (tmp_path / "x.json").write_text('[{"id": 1}]')
    with pytest.raises(BadInput, match="no answers of BERGEN"):
        read_samples(tmp_path / "x.json", "x")
    with pytest.raises(BadInput, match="no samples there"):
        read_samples(tmp_path / "none", "x")
    twice = next(place.iterdir())
    twice.write_text(twice.read_text() * 2)
    with pytest.raises(BadInput, match="stands there twice"):
        read_samples(place, "a")


def test_command(tmp_path: Path) -> None:
    places = [harness(tmp_path / str(i), answers(i, 0.4 + 0.3 * i)) for i in range(2)]
    asked = ["report", "--samples", *map(str, places), "--json"]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 0, found.output
    document: dict[str, Any] = json.loads(found.stdout)
    assert [row["metric"] for row in document["comparisons"]] == ["em", "f1"]
    assert document["comparisons"][0]["delta"] < 0
    both = CliRunner().invoke(app, [*asked, "--format", "md"])
    assert both.exit_code == 2 and "compared alone" in both.stderr
    assert isinstance(CliRunner().invoke(app, ["report"]).exception, BadInput)
