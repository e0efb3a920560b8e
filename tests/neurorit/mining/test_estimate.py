"""What mining is said to need, against what a pass of rows really keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.mining.attributor import SLACK, row_bytes, rows_within
from neurorit.mining.estimate import Prompts, plan, plan_of
from neurorit.mining.settings import MiningSettings

SETTINGS = MiningSettings(samples=4, steps=10, rows=88, device="cpu")
PROMPTS = Prompts(mean=150, longest=200, bare=20, count=8, asked=32)


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of eight layers, with grouped queries."""
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
    )
    folder = tmp_path_factory.mktemp("eight") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_rows_keep_what_is_said(eight: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(eight).requires_grad_(False)
    path = SETTINGS.steps + 1
    kept = row_bytes(model, list(range(200))).of(88, path, 8)
    said = plan_of(eight, SETTINGS, PROMPTS)["activations_gib"] * 2**30 / SLACK
    assert said == pytest.approx(kept, rel=0.2)


def test_contexts_that_share_a_pass_are_counted(eight: Path) -> None:
    one, three = (
        plan_of(eight, replace(SETTINGS, rows=rows), PROMPTS)["activations_gib"]
        for rows in (88, 3 * 88)
    )
    assert three == pytest.approx(3 * one, rel=0.1)


def test_a_budget_takes_the_place_of_rows(eight: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(eight).requires_grad_(False)
    path = SETTINGS.steps + 1
    for rows in (40, 2 * 88):
        kept = row_bytes(model, list(range(200))).of(min(rows, 88), path, 8) * max(1, rows // 88)
        budget = int(1.02 * SLACK * kept)
        wanted = replace(SETTINGS, rows=rows_within(budget, model, list(range(200)), path))
        said = plan_of(eight, replace(SETTINGS, memory=budget), PROMPTS)["activations_gib"]
        assert said == pytest.approx(plan_of(eight, wanted, PROMPTS)["activations_gib"], rel=0.25)
        assert said * 2**30 <= budget


def test_parts_hold_less_and_lines_take_less_time(eight: Path) -> None:
    found = plan_of(eight, SETTINGS, PROMPTS)
    by = {(row["devices"], row["pipeline"]): row for row in found["devices"]}
    assert len(by) == 10
    needs = [by[8, parts]["gib_each"] for parts in (1, 2, 4, 8)]
    assert needs == sorted(needs, reverse=True)
    assert needs[0] == pytest.approx(sum(v for k, v in found.items() if k.endswith("_gib")))
    assert by[8, 2]["hours"] == pytest.approx(by[1, 1]["hours"] / 4)
    assert by[8, 2]["gib_each"] == by[2, 2]["gib_each"]
    weights = {p: plan_of(eight, replace(SETTINGS, pipeline=p), PROMPTS) for p in (1, 8)}
    assert weights[8]["weights_gib"] < weights[1]["weights_gib"] / 4


def test_weights_of_two_bytes_are_raised_one_at_a_time(eight: Path) -> None:
    low = replace(SETTINGS, dtype="bfloat16")
    whole, half = (plan_of(eight, settings, PROMPTS) for settings in (SETTINGS, low))
    assert half["weights_gib"] == pytest.approx(whole["weights_gib"] / 2)
    assert half["raised_weight_gib"] * 2**30 == 4 * 500 * 64
    assert whole["raised_weight_gib"] == 0
    for activations in ("bfloat16-inputs", "as-weights"):
        told = plan_of(eight, replace(low, activations=activations), PROMPTS)
        assert told["raised_weight_gib"] == 0
    assert told["activations_gib"] < half["activations_gib"]


def test_the_copy_that_reads_prompts_is_counted(eight: Path) -> None:
    def weights(**changes: Any) -> float:
        return float(plan_of(eight, replace(SETTINGS, **changes), PROMPTS)["weights_gib"])

    reads = {"prefill": "as-asking"}
    assert weights(**reads, asking="bfloat16") == pytest.approx(1.5 * weights())
    assert weights(**reads, asking="float32") == weights()
    for asking in ("float32", "bfloat16"):
        low = weights(dtype="bfloat16", **reads, asking=asking)
        assert low == weights(dtype="bfloat16")


def test_the_examples_prompts_are_counted(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    found = plan(checkpoint, examples_path, replace(SETTINGS, contexts="all"))
    assert found["contexts"] == 8
    assert 20 < found["tokens_of_a_prompt"] < 200
    out = tmp_path / "atlas"
    given = ["--model", checkpoint, "--examples", examples_path, "--out", out, "--plan", "--json"]
    done = CliRunner().invoke(app, ["mine", *map(str, given), "--set", "samples=4"])
    assert done.exit_code == 0, done.output
    assert [row["devices"] for row in json.loads(done.stdout)["devices"]][-1] == 8
    assert not out.exists()
