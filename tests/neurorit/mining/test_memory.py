"""A memory budget against the memory that a pass really takes, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Grouped queries and a long prompt: what is kept of its keys and values is of no row.
_CODE = """
import json, sys, torch
from dataclasses import replace
torch.set_num_threads(1)
from transformers import LlamaConfig, LlamaForCausalLM
from neurorit.mining import attributor, integrated_gradients as ig
tokens, steps, depth = 1200, 20, 8
config = LlamaConfig(vocab_size=4000, hidden_size=256, intermediate_size=512,
    num_hidden_layers=depth, num_attention_heads=8, num_key_value_heads=2,
    max_position_embeddings=4096)
model = LlamaForCausalLM(config).eval().requires_grad_(False)
prompt = [i % 4000 for i in range(tokens)]
def high():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
def peak(work):
    def measured(*given):
        open("/proc/self/clear_refs", "w").write("5")
        before = high()
        result = work(*given)
        peaks.append(high() - before)
        return result
    return measured
peaks = []
method = ig.INTEGRATED_GRADIENTS
ig.INTEGRATED_GRADIENTS = replace(method, score=peak(method.score))
query = ig.Query(prompt, prompt[:20], [5])
measured = {}
for rows in map(int, sys.argv[1:]):
    for _ in range(2):  # the first makes room that stays
        ig.attribute(model, [query], ig.Settings(steps=steps, rows=rows))
    wanted = attributor.SLACK * attributor.row_bytes(model, prompt).of(rows, steps + 1, depth)
    measured[rows] = {"peak": peaks[-1], "wanted": wanted}
print(json.dumps(measured))
"""
ROWS = (12, 84, 168)


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    """What passes of so many rows took, and what was foreseen, in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *map(str, ROWS)],
        cwd=Path(__file__).parents[3],
        # Freed memory goes back at once, so that peaks are seen.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("rows", ROWS)
def test_what_a_pass_takes_is_within_the_budget_and_near_it(
    measured: dict[str, dict[str, float]], rows: int
) -> None:
    one = measured[str(rows)]
    assert 0.95 * one["peak"] <= one["wanted"] <= 1.5 * one["peak"]
