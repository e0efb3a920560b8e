"""Peak memory of tuning on a CPU against what `tune --plan` says, at three sizes.

Each run is a process of its own: two steps of sft on a Llama of random weights, of samples of
equal length, after a tiny run that imports everything. What counts is the rise of its resident
memory, the checkpoint's writing included, where freed memory is given back: what a run needs.
`holes`: the same where there is room to keep it.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench import Bench, options, peak_above_now, random_llama, table

from neurorit.data.examples import Example, Passage
from neurorit.lab import base_model_dir
from neurorit.model import memory
from neurorit.model.load import load_tokenizer
from neurorit.model.prompts import PromptTemplate
from neurorit.tuning.estimate import plan
from neurorit.tuning.samples import make_samples
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.tune import tune


@dataclass(frozen=True)
class Case:
    """A model, a batch, and the settings that change what a step keeps."""

    layers: int
    hidden: int
    vocabulary: int
    batch: int
    words: int
    settings: dict[str, Any]


FLOAT, MIXED = {"precision": "float32"}, {"precision": "bf16"}
CASES = {
    "6 x 384, float32": Case(6, 384, 8_000, 4, 200, FLOAT),
    "6 x 384, autocast": Case(6, 384, 8_000, 4, 200, MIXED),
    "8 x 512, float32": Case(8, 512, 4_000, 4, 450, FLOAT),
    "8 x 512, autocast": Case(8, 512, 4_000, 4, 450, MIXED),
    "8 x 512, float32, checkpoints": Case(
        8, 512, 4_000, 4, 450, FLOAT | {"gradient_checkpointing": True}
    ),
    "6 x 768, float32": Case(6, 768, 3_000, 2, 200, FLOAT),
    "6 x 768, autocast": Case(6, 768, 3_000, 2, 200, MIXED),
}
TINY = Case(2, 64, 2_048, 2, 20, {})


def main() -> None:
    """Measure every case with and without holes, and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--case", choices=CASES, help="measure one, in this process")
    parser.add_argument("--holes", action="store_true", help="with --case: keep the holes")
    given = parser.parse_args()
    if given.case:
        print(*measure(CASES[given.case], given.holes))
        return
    bench = Bench("tuning_memory", {"cases": list(CASES)})
    rows = []
    for name in CASES:
        planned, taken = _in_a_process(name)
        _, with_holes = _in_a_process(name, "--holes")
        for metric, value in (("planned", planned), ("taken", taken), ("holes", with_holes)):
            bench.add(name, metric, value / 2**20, "MiB")
        bench.ratios[f"planned_vs_taken: {name}"] = planned / taken
        megabytes = [f"{value / 2**20:,.0f}" for value in (planned, taken, with_holes)]
        rows.append([name, *megabytes, f"{planned / taken:.2f}"])
    table("Peak memory, MiB", ["case", "planned", "taken", "with holes", "ratio"], rows)
    bench.finish(given.json)


def _in_a_process(case: str, *more: str) -> tuple[float, float]:
    command = [sys.executable, __file__, "--case", case, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    planned, taken = done.stdout.split()[-2:]
    return float(planned), float(taken)


def measure(case: Case, holes: bool) -> tuple[float, float]:
    """Bytes that were planned, and by which the process's memory rose."""
    # Whatever this machine has free.
    memory._ROOM = memory._STILL_ROOM = 0.0 if holes else math.inf
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(TINY, folder / "tiny")
        model = save(case, folder / "model")
        length, settings = samples_length(model, case), settings_of(case)
        planned = plan(model, settings, length=length)["total_gib"] * 2**30
        taken = peak_above_now(lambda: _tune(model, case, folder / "tuned"))
    return planned, taken


def save(case: Case, folder: Path) -> Path:
    """A Llama of random weights with the lab's tokenizer."""
    random_llama(
        vocab_size=case.vocabulary,
        hidden_size=case.hidden,
        intermediate_size=case.hidden * 8 // 3,
        num_hidden_layers=case.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    ).save_pretrained(folder)
    load_tokenizer(base_model_dir()).save_pretrained(folder)
    return folder


def examples(case: Case) -> list[Example]:
    """Questions of one passage each, all of one length."""
    text = " ".join(["river"] * case.words)
    passage = Passage("p", "", f"{text} Karvel", "gold")
    return [
        Example(str(i), "Where was she born?", ("Karvel",), (passage,))
        for i in range(4 * case.batch)
    ]


def settings_of(case: Case) -> TuneSettings:
    """Two steps of plain fine-tuning."""
    return TuneSettings(
        method="sft",
        steps=2,
        stage1_steps=0,
        batch_size=case.batch,
        max_length=1024,
        device="cpu",
        **case.settings,
    )


def samples_length(model: Path, case: Case) -> int:
    """Tokens of the longest sample."""
    made, _ = make_samples(examples(case), load_tokenizer(model), PromptTemplate(), 1024)
    return max(sample.length for sample in made)


def _tune(model: Path, case: Case, out: Path) -> None:
    tune(model, None, examples(case), None, settings_of(case), out=out)


def _run(case: Case, folder: Path) -> None:
    _tune(save(case, folder / "model"), case, folder / "tuned")


if __name__ == "__main__":
    main()
