"""The command over several data sets: one family of tests, means, nothing asked anew."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.example_files import write_examples
from neurorit.pipelines.evaluation.command import evaluate_settings
from neurorit.pipelines.evaluation.report import show_report
from neurorit.pipelines.evaluation.settings import EvalSettings
from tests.conftest import make_example
from tests.eval.chat_server import Reply, said, serving


def refusing(body: dict[str, Any]) -> Reply:
    """In sentences: the gold passage's answer for even questions, else a refusal in words."""
    prompt = body["messages"][-1]["content"]
    gold = re.search(r"Town(\d+)x0", prompt)
    if gold and int(gold[1]) % 2 == 0:
        return said(f"It is {gold[0]}.")
    return said("The passages do not say where.")


def test_two_sets_from_a_file(tmp_path: Path) -> None:
    for name, numbers in (("one", range(30)), ("two", range(30, 50))):
        examples = [replace(make_example(i), meta={"document": f"d{i % 10}"}) for i in numbers]
        write_examples(tmp_path / f"{name}.jsonl", examples)
    config, out = tmp_path / "e.yaml", tmp_path / "run"
    with serving(refusing) as server:
        text = (
            f"root: {tmp_path}\nsystems: {{x: '{server.url}#m', y: '{server.url}#n'}}\n"
            "data: {one: one.jsonl, two: two.jsonl}\nconditions: [closed-book, clean]\n"
        )
        config.write_text(text + "metric: match\nlimit: 16\n")
        found = evaluate_settings(EvalSettings.read(config, {}), out, None)
        asked = len(server.requests)
        # Another way to score and to compare asks nothing: only the figures change.
        config.write_text(text + "metric: f1\nlimit: 16\nrefusals: []\ncluster: document\n")
        again = evaluate_settings(EvalSettings.read(config, {}), out, None)
        assert len(server.requests) == asked
        config.write_text(text + "limit: 16\ncluster: nothing\n")
        with pytest.raises(BadInput, match="cluster 'nothing'"):
            evaluate_settings(EvalSettings.read(config, {}), out, None)
    one = found["datasets"]["one"]
    (row,) = (r for r in one["results"] if (r["system"], r["condition"]) == ("x", "clean"))
    assert 0 < row["match"] < 1 and row["em"] == 0
    assert row["match"] + row["abstain_rate"] == 1
    assert row["refusals"]["verbal"] == row["verdicts"]["abstained"] == row["abstain_rate"] * 16
    families = {r["family"] for d in found["datasets"].values() for r in d["comparisons"]}
    assert families == {4}
    written = json.loads((out / "one" / "report.json").read_text())
    assert written["comparisons"] == again["datasets"]["one"]["comparisons"]
    assert written["manifest"]["analysis"]["cluster"] == "document"
    assert again["datasets"]["one"]["clusters"] <= 10
    assert {r["abstain_rate"] for r in again["datasets"]["one"]["results"]} == {0.0}
    macro = json.loads((out / "macro.json").read_text())
    assert macro == json.loads(json.dumps(again["macro"]))
    assert macro["metric"] == "f1" and macro["datasets"] == {"one": 16, "two": 16}
    assert (out / "macro.md").read_text().startswith("# Means over 2 data sets")
    with pytest.raises(BadInput, match="several data sets; name one: one, two"):
        show_report([out])
    table = show_report([out / "one"], table="md", out=tmp_path / "t.md")
    assert "## Token F1 in percent" in (tmp_path / "t.md").read_text() and table["metric"] == "f1"
    power = show_report([out / "two"], power=0.1)["power"]
    assert all(row["alpha"] == 0.05 / 4 and row["needed"] > row["needed_alone"] for row in power)
    rows = show_report([out / "one", out / "two"])["comparisons"]
    assert {row["metric"] for row in rows} == {"f1"}
