"""A run that is killed, while it answers and while it judges: what was done is never done again."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.endpoint.reply_cache import Cache
from neurorit.data.example_files import write_examples
from neurorit.eval.conditions import CONDITIONS
from neurorit.eval.judges.endpoint import EndpointJudge
from neurorit.eval.judges.judge import CachedJudge
from neurorit.eval.predictions import read_predictions
from neurorit.eval.run.rendering import render_prompts
from tests.conftest import make_example
from tests.eval.chat_server import ChatServer, Reply, said, serving
from tests.eval.run.test_remote import answer_by_prompt
from tests.forks import command

CONCURRENCY = 4
QUESTIONS = 60


def judged(body: dict[str, Any]) -> Reply:
    held = re.search(r"<answer>(.*)</answer>", body["messages"][0]["content"])
    assert held is not None
    return said("Yes" if held[1].startswith("Town") else "No")


def start(examples: Path, out: Path, url: str, judge: str) -> BaseProcess:
    arguments = ["eval", "--system", f"a={url}#m", "--judge", f"{judge}#j"]
    arguments += ["--examples", str(examples), "--out", str(out)]
    arguments += ["--concurrency", str(CONCURRENCY)]
    return command(arguments, out.with_suffix(".log"))


def until(holds: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not holds() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)


def finish(process: BaseProcess, out: Path) -> None:
    process.join(120)
    assert process.exitcode == 0, out.with_suffix(".log").read_text(encoding="utf-8")


class Ledger:
    """What was on disk at each kill, as the turns that the servers saw: it must not come again."""

    def __init__(self, examples: Path, out: Path, judge: str) -> None:
        made = [make_example(i) for i in range(QUESTIONS)]
        shown, _ = render_prompts({}, made, CONDITIONS, 0)
        self._turns = {(p.example.id, p.condition): p.turn for p in shown}
        self._out, self._judge = out, judge

    def answered(self) -> set[str]:
        """Turns whose answers stand in the journal."""
        held = read_predictions(self._out / "predictions.jsonl").values()
        return {self._turns[p.id, p.condition] for p in held}

    def decided(self) -> set[str]:
        """Turns whose verdicts stand in the cache."""
        held = read_predictions(self._out / "predictions.jsonl").values()
        if not held:
            return set()
        with Cache(self._out) as cache:
            judge = EndpointJudge(self._judge, "j")
            wrapped = CachedJudge(judge, cache)
            keys = {wrapped.key(p.item): judge.turn(p.item) for p in held}
            return {keys[key] for key in cache.find(keys)}


@pytest.mark.slow
def test_killed_ten_times_a_run_repeats_nothing_that_was_done(tmp_path: Path) -> None:
    """Of all calls only those under way at a kill are made again: at most four at each.

    Which of the ten kills hit the answering and which the judging is drawn once.
    """
    examples, cut = tmp_path / "e.jsonl", tmp_path / "cut"
    write_examples(examples, [make_example(i) for i in range(QUESTIONS)])
    rng = random.Random(7)
    answers = QUESTIONS * len(CONDITIONS)
    moments = sorted(rng.sample(range(5, answers - 20), 6))
    done: list[tuple[ChatServer, set[str], Counter[str]]] = []
    repeated = 0
    with serving(answer_by_prompt, 0.01) as server, serving(judged, 0.01) as judge:
        ledger = Ledger(examples, cut, judge.url)
        verdicts = sorted(rng.sample(range(5, 200), 4))
        kills = [(server, m) for m in moments] + [(judge, m) for m in verdicts]
        for asked, moment in kills:
            process = start(examples, cut, server.url, judge.url)
            until(lambda a=asked, m=moment: len(a.requests) >= m, process)  # type: ignore[misc]
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL
            for one, held in ((server, ledger.answered()), (judge, ledger.decided())):
                # A judge is asked one thing more: whether it gives probabilities.
                extra = one is judge and bool(one.asked)
                assert len(set(one.asked) - held) <= CONCURRENCY + extra
                done.append((one, held, Counter({t: one.asked[t] for t in held})))
        finish(start(examples, cut, server.url, judge.url), cut)
        for one, held, before in done:
            assert {t: one.asked[t] for t in held} == dict(before), "a finished call came again"
        assert len(server.asked) == answers
        repeated = sum(server.asked.values()) - answers
        assert repeated <= len(kills) * CONCURRENCY
        print(f"of {answers} answers {repeated} were under way at a kill and asked again")
        whole = tmp_path / "whole"
        finish(start(examples, whole, server.url, judge.url), whole)
    assert (cut / "predictions.jsonl").read_bytes() == (whole / "predictions.jsonl").read_bytes()
    one, other = (json.loads((run / "report.json").read_text()) for run in (cut, whole))
    for name in ("results", "comparisons", "pooled", "verdicts"):
        assert one[name] == other[name]
    assert one["verdicts"]["unscored"] == 0
