"""How many replies may be missing: of a system, and of each condition."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurorit.core.errors import NeuroritError
from neurorit.data.example_files import write_examples
from neurorit.eval.conditions import CONDITIONS
from neurorit.eval.run.answering import Unanswered
from neurorit.eval.run.plan import Plan, make_plan
from neurorit.eval.run.systems import System
from neurorit.eval.run.unscored import refuse_unanswered
from tests.conftest import make_example

SYSTEM = System("s", "endpoint", url="http://127.0.0.1:9/v1", remote="m")


def plan(folder: Path, questions: int, conditions: tuple[str, ...]) -> Plan:
    write_examples(folder / "e.jsonl", [make_example(i) for i in range(questions)])
    return make_plan([SYSTEM], folder / "e.jsonl", conditions, 0, max_tokens=8, engine={})


def cut(number: int, condition: str, reason: str = "cut") -> list[Unanswered]:
    return [Unanswered("s", condition, f"q{i}", "it is cut", reason) for i in range(number)]


def test_what_is_missing_is_borne_per_condition(tmp_path: Path) -> None:
    asked = plan(tmp_path, 100, CONDITIONS)
    assert len(asked.prompts) == 800
    spread = [one for condition in CONDITIONS for one in cut(2, condition)]
    refuse_unanswered("s", asked, spread, 0.02)
    # As many of one condition would shift its figure alone.
    with pytest.raises(NeuroritError, match=r"16 of 100 replies under clean cannot be scored"):
        refuse_unanswered("s", asked, cut(16, "clean"), 0.02)
    failed = [*cut(2, "clean"), *cut(1, "clean", "failed")]
    with pytest.raises(NeuroritError, match=r"3 of 100 replies under clean .*\(2 cut, 1 failed"):
        refuse_unanswered("s", asked, failed, 0.02)
    with pytest.raises(NeuroritError, match=r"17 of 800 replies cannot be scored \(17 cut"):
        refuse_unanswered("s", asked, [*spread, *cut(1, "clean")], 0.02)


def test_one_of_few_questions_is_borne(tmp_path: Path) -> None:
    asked = plan(tmp_path, 20, CONDITIONS)
    refuse_unanswered("s", asked, [*cut(1, "clean"), *cut(1, "closed-book")], 0.02)
    with pytest.raises(NeuroritError, match=r"2 of 20 replies under clean"):
        refuse_unanswered("s", asked, cut(2, "clean"), 0.02)
    with pytest.raises(NeuroritError, match=r"1 of 160 replies"):
        refuse_unanswered("s", asked, cut(1, "clean"), 0.0)
