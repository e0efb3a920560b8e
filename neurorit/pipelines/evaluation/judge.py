"""The judge that settings name: the lab's, a folder's, or one behind an endpoint.

It starts and asks nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from neurorit.core.errors import BadInput
from neurorit.core.registry import Registry
from neurorit.pipelines.evaluation.settings import EvalSettings, JudgeSettings

if TYPE_CHECKING:
    from neurorit.core.endpoint.call_settings import CallSettings
    from neurorit.eval.judges.calibration import Labelled
    from neurorit.eval.judges.judge import Judge

LABELLED = 600
# What makes each; a folder and an address need no name.
JUDGES: Registry[Callable[[], Judge]] = Registry(
    "judge", {"lab": "neurorit.pipelines.evaluation.judge:lab_judge"}
)


def make_judge(
    settings: JudgeSettings, seed: int, calls: CallSettings | None = None
) -> tuple[Judge | None, list[Labelled] | None]:
    """The judge by its settings, with the labelled answers that say how far to trust it."""
    if settings.model == "none" and not settings.url:
        return None, None
    return _judge_alone(settings, calls), _labels(settings, seed)


def judge_of_run(settings: EvalSettings) -> tuple[Judge | None, list[Labelled] | None]:
    """The judge of an evaluation, whose paths start at its root."""
    given = settings.judge_settings()
    if given.model != "none" and given.model not in JUDGES and not given.url:
        given = replace(given, model=str(settings.path(given.model)))
    if given.labels not in ("", "lab"):
        given = replace(given, labels=str(settings.path(given.labels)))
    return make_judge(given, settings.seed, settings.call_settings())


def _judge_alone(settings: JudgeSettings, calls: CallSettings | None) -> Judge:
    if settings.url:
        from neurorit.eval.judges.endpoint import EndpointJudge
        from neurorit.eval.judges.prompts import RUBRIC

        if "@" in urlsplit(settings.url).netloc:
            raise BadInput(
                "the judge's address holds a name or password, which errors would show; put the "
                "key into an environment variable and name that"
            )
        if settings.key and settings.key not in os.environ:
            raise BadInput(f"the judge's key: the variable {settings.key} is not set")
        key = os.environ.get(settings.key) if settings.key else None
        return EndpointJudge(
            settings.url,
            settings.model,
            api_key=key,
            mode=settings.mode,
            rubric=settings.rubric or RUBRIC,
            passing=settings.passing,
            repeats=settings.repeats,
            thinking_tokens=settings.thinking_tokens,
            request=settings.request,
            calls=calls,
        )
    for name in ("mode", "rubric", "passing", "repeats", "thinking_tokens", "request"):
        if getattr(settings, name) != getattr(JudgeSettings(), name):
            raise BadInput(
                f"the judge's {name} is for one behind an address (URL/v1#MODEL); "
                f"{settings.model} answers Yes or No, once"
            )
    if settings.model in JUDGES:
        return JUDGES.get(settings.model, "judge")()
    from neurorit.eval.judges.local import LocalJudge

    return LocalJudge(Path(settings.model))


def lab_judge() -> Judge:
    """The packaged judge of the embedded world."""
    from neurorit.eval.judges.local import LocalJudge
    from neurorit.lab import judge_model_dir

    return LocalJudge(judge_model_dir())


def _labels(settings: JudgeSettings, seed: int) -> list[Labelled] | None:
    from neurorit.eval.judges.calibration import read_labelled

    if settings.labels not in ("", "lab"):
        return read_labelled(Path(settings.labels))
    if settings.labels == "" and (settings.url or settings.model != "lab"):
        return None
    return lab_labels(seed, LABELLED)


def lab_labels(seed: int, n: int) -> list[Labelled]:
    """n labelled answers of the embedded world, of every kind."""
    from neurorit.eval.judges.calibration import Labelled
    from neurorit.eval.predictions import Item
    from neurorit.lab.judge import labelled_verdicts

    return [
        Labelled(Item(a.question, a.answers, a.answer), a.label, a.kind)
        for a in labelled_verdicts(seed, n)
    ]
