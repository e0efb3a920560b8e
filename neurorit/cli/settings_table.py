"""Writes docs/settings.md from the fields of the settings: `make docs`."""

from __future__ import annotations

from dataclasses import MISSING
from types import FunctionType
from typing import Any

from neurorit.cli import app
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.settings import Setting, settings_of, takes
from neurorit.core.units import write_bytes
from neurorit.mining.settings import MiningSettings
from neurorit.pipelines.demo.settings import DemoSettings
from neurorit.pipelines.evaluation.retention import RetentionSettings
from neurorit.pipelines.evaluation.settings import (
    EvalSettings,
    JudgeSettings,
    RetrieverSettings,
    SystemSettings,
)
from neurorit.pipelines.experiment.document import Experiment
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.noise.settings import MixSettings, PoolSettings
from neurorit.retrieval.settings import BuildSettings, SearchSettings
from neurorit.serving.settings import ServeSettings
from neurorit.tuning.settings import TuneSettings

_HEAD = """# Settings

What can be set, where, and what it is when it is not. `make docs` writes this page from the fields
themselves; do not edit it. In Python each table is a class, and a wrong value raises
`neurorit.errors.BadInput` when one is made.
"""
# Heading, settings, the command with options of its own for some of them, and where else to say it.
_TABLES: tuple[tuple[str, type, str, str], ...] = (
    ("Building an index", BuildSettings, "index", ""),
    ("Cutting documents", Chunking, "index", "In Python: `BuildSettings(chunking=...)`."),
    (
        "Searching",
        SearchSettings,
        "search",
        "Also `serve --retriever` and `--rerank`.",
    ),
    ("Mixing to train", MixSettings, "mix", "A recipe's section `mix`, or `--set`."),
    (
        "Mixing to evaluate",
        PoolSettings,
        "mix",
        "A recipe's section `mix-eval`, or `--set`: as above, with these defaults.",
    ),
    ("Mining", MiningSettings, "mine", "A recipe's section `mine`, or `--set`."),
    (
        "Tuning",
        TuneSettings,
        "tune",
        "A recipe's sections `tune` and, for one method, `tune-METHOD`, or `--set`.",
    ),
    ("Serving", ServeSettings, "serve", ""),
    ("Evaluating", EvalSettings, "eval", "The file of `eval --config`."),
    ("Evaluating: a system", SystemSettings, "", "Under `systems: NAME:` there."),
    (
        "Evaluating: the judge",
        JudgeSettings,
        "",
        "Under `judge:`; `eval --judge-labels`.",
    ),
    ("Evaluating: the retriever", RetrieverSettings, "eval", "Under `retriever:` there."),
    ("Evaluating: calls of servers", CallSettings, "eval", "Under `calls:` there."),
    (
        "Evaluating: retention",
        RetentionSettings,
        "",
        "Under `retention:` there and of `experiment`.",
    ),
    ("Experiments", Experiment, "", "The file of `experiment`."),
    ("The demonstration on a real model", DemoSettings, "demo", "A recipe's section `demo`."),
)
_LONG = 200  # letters of a default; a longer one is not for a table


def table() -> str:
    """The page, in Markdown."""
    parts = [_HEAD]
    for heading, kind, command, where in _TABLES:
        settings = settings_of(kind)
        if kind is PoolSettings:
            mixed = settings_of(MixSettings)
            settings = {n: s for n, s in settings.items() if s.default != mixed[n].default}
        options = _options(command) if command else {}
        parts.append(f"## {heading}\n\n`{kind.__name__}`: {kind.__doc__} {where}".rstrip() + "\n")
        parts.append("| setting | option | default | takes | what it is |\n|---|---|---|---|---|")
        parts += [_row(s, options.get(name, "")) for name, s in settings.items() if s.doc]
        parts.append("")
    return "\n".join(parts)


def _row(setting: Setting, option: str) -> str:
    doc = setting.doc.replace("|", "\\|")
    cells = (f"`{setting.name}`", option, _default(setting), takes(setting.hint), doc)
    return f"| {' | '.join(cells)} |"


def _default(setting: Setting) -> str:
    value: Any = setting.default
    if value is MISSING:
        return "*needed*"
    if isinstance(value, FunctionType):
        value = ", ".join(f"{name}: {weight}" for name, weight in value().items())
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    if value is None or isinstance(value, type) or value == "" or len(str(value)) > _LONG:
        return ""
    if "amount" in takes(setting.hint):
        value = write_bytes(value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _options(command: str) -> dict[str, str]:
    """Parameter -> option of a command."""
    from typer.main import get_command

    chosen: Any = get_command(app).get_command(None, command)  # type: ignore[attr-defined]
    options = {p.name: max(p.opts, key=len) for p in chosen.params if p.opts[0].startswith("-")}
    return {name: f"`{option}`" for name, option in options.items()}


if __name__ == "__main__":
    print(table(), end="")
