"""Checkpoints answer, and the run is killed ten times: no answer that was kept comes again."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from neurorit.data.example_files import write_examples
from neurorit.eval.predictions import read_predictions
from neurorit.eval.run.rendering import render_prompts
from tests.conftest import make_example
from tests.forks import command
from tests.neurorit.pipelines.evaluation.vllm_of_the_test import digest

CONDITIONS = ("closed-book", "clean", "distractor-1", "distractor-2", "distractor-4", "random-4")
QUESTIONS, KILLS, BEHIND = 30, 10, 32


class Runs:
    """Runs of one evaluation, and the answers that the engine has finished in all of them."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._folder, self.ledger = folder, folder / "ledger"
        self.ledger.touch()
        engine = folder / "engine" / "vllm"
        engine.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("vllm_of_the_test.py"), engine / "__init__.py")
        examples = [make_example(i) for i in range(QUESTIONS)]
        write_examples(folder / "e.jsonl", examples)
        shown, _ = render_prompts({"a": model}, examples, CONDITIONS, 0)
        self.prompts = {(p.example.id, p.condition): digest(list(p.ids)) for p in shown}
        self._arguments = ["eval", "--system", f"a={model}", "--examples", str(folder / "e.jsonl")]
        self._arguments += [text for name in CONDITIONS for text in ("--condition", name)]

    def start(self, out: Path) -> BaseProcess:
        return command(
            [*self._arguments, "--out", str(out)],
            out.with_suffix(".log"),
            LEDGER=str(self.ledger),
            PYTHONPATH=str(self._folder / "engine"),
        )

    def finish(self, out: Path) -> None:
        process = self.start(out)
        process.join(300)
        assert process.exitcode == 0, out.with_suffix(".log").read_text(encoding="utf-8")

    def finished(self) -> Counter[str]:
        return Counter(self.ledger.read_text(encoding="ascii").split())

    def kept(self, out: Path) -> set[str]:
        """Prompts whose answers stand in the journal."""
        held = read_predictions(out / "predictions.jsonl").values()
        return {self.prompts[p.id, p.condition] for p in held}


@pytest.mark.slow
def test_killed_at_ten_moments_no_kept_answer_is_asked_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    runs, out, whole = Runs(tiny_model, tmp_path), tmp_path / "cut", tmp_path / "whole"
    answers = QUESTIONS * len(CONDITIONS)
    moments = sorted(random.Random(3).sample(range(1, answers - 10), KILLS))
    held: list[tuple[set[str], Counter[str]]] = []
    for moment in moments:
        process = runs.start(out)
        while process.is_alive() and len(runs.finished()) < moment:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        while (before := runs.ledger.stat().st_size) is not None:
            time.sleep(0.3)  # the worker ends when it cannot tell of an answer
            if runs.ledger.stat().st_size == before:
                break
        kept, finished = runs.kept(out), runs.finished()
        assert kept <= finished.keys()
        assert len(finished.keys() - kept) <= BEHIND
        held.append((kept, Counter({one: finished[one] for one in kept})))
    runs.finish(out)
    finished = runs.finished()
    for kept, times in held:
        assert {one: finished[one] for one in kept} == dict(times), "a kept answer came again"
    assert len(finished) == len(set(runs.prompts.values()))
    print(f"{sum(finished.values()) - len(finished)} of {answers} were lost at {KILLS} kills")
    runs.finish(whole)
    assert (out / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()
    one, other = (json.loads((run / "report.json").read_text()) for run in (out, whole))
    for name in ("results", "comparisons", "pooled", "verdicts"):
        assert one[name] == other[name]
