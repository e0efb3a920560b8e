"""One evaluation run: systems x conditions, answered, judged, summed up, reported.

The answers come from a callable, the verdicts from a judge: it knows nothing of engines or servers.
Every system gets the same prompt ids, and a resumed run asks nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from eval.calibration import Labelled, calibrate
from eval.conditions import TooFewPassages, build_condition, parse_condition
from eval.journal import Journal, Prediction, score
from eval.judge import Item, Judge, Verdict, fingerprint_model, give_verdicts
from eval.report import write_report
from eval.summary import summarise
from neurorit.prompts import TEMPLATE_FILE, PromptTemplate, render_prompt
from retrieval.artifact import MANIFEST, hash_inputs, read_manifest
from retrieval.errors import BadInput, NeuroritError
from retrieval.examples import Example, Passage, read_examples

# More unscored answers than this, and a judge's figure says little: the run stops.
MAX_UNSCORED = 0.02
_PROMPT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    TEMPLATE_FILE,
)


class Completion(Protocol):
    """One answer of an engine; white space around the text does not count."""

    @property
    def text(self) -> str: ...


Generate = Callable[[str, Path, list[list[int]]], Sequence[Completion]]
"""(system name, model directory, prompts as token ids) -> one completion per prompt, in order."""

Progress = Callable[[str, int, int], None]
"""(what is being done, how much is done, how much there is)"""


@dataclass(frozen=True)
class Prompt:
    """One question under one condition, as every system gets it."""

    example: Example
    condition: str
    passages: list[Passage]
    ids: list[int]


def run_evaluation(
    systems: Mapping[str, Path],
    examples: Path,
    conditions: Sequence[str],
    out: Path,
    judge: Judge | None,
    seed: int,
    *,
    generate: Generate,
    engine: Mapping[str, Any] | None = None,
    limit: int | None = None,
    chunk_size: int = 1_024,
    calibration: Sequence[Labelled] | None = None,
    mining: Mapping[str, Any] | None = None,
    atlas_plot: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluate and write predictions.jsonl, report.json and report.html into `out`.

    systems: name -> checkpoint directory, `base` first by custom; examples: an artifact of kind
    `examples` or a JSONL file whose examples carry pools of typed passages; engine: everything
    about generation that could change an answer, kept in the manifest and in the journal's keys;
    limit: only the first questions; chunk_size: prompts per call of `generate`, each followed by a
    write to disk; mining and atlas_plot are shown in the report. Returns the report.
    Raises BadInput for unusable input, NeuroritError when more than 2 % of the verdicts fail.
    """
    started = time.perf_counter()
    tell = progress or (lambda stage, done, total: None)
    out = Path(out)
    models = {name: Path(directory) for name, directory in systems.items()}
    if not models:
        raise BadInput("no system to evaluate: name at least one checkpoint")
    names = list(dict.fromkeys(conditions))
    for name in names:
        parse_condition(name)
    for directory in models.values():
        _check_model(directory)
    chosen = list(islice(_read(examples), limit))
    tell("prompts", 0, len(chosen) * len(names))
    prompts, skipped = render_prompts(models, chosen, names, seed)
    tell("prompts", len(prompts), len(prompts))
    prints = {name: fingerprint_model(path) for name, path in models.items()}
    settings = dict(engine or {})
    journal = Journal(out / "predictions.jsonl")
    timings: dict[str, Any] = {"prepare": time.perf_counter() - started, "generate": {}}
    predictions: list[Prediction] = []
    asked = 0
    for name, directory in models.items():
        begun = time.perf_counter()
        keys = [_key(name, prints[name], settings, prompt) for prompt in prompts]
        waiting = [i for i, key in enumerate(keys) if key not in journal.answered]
        done = len(prompts) - len(waiting)
        tell(f"answers of {name}", done, len(prompts))
        for chunk in _chunks(waiting, chunk_size):
            completions = generate(name, directory, [prompts[i].ids for i in chunk])
            if len(completions) != len(chunk):
                raise NeuroritError(
                    f"the engine gave {len(completions)} answers to {len(chunk)} prompts of {name}"
                )
            journal.append(
                _scored(name, prompts[i], keys[i], completion.text)
                for i, completion in zip(chunk, completions, strict=True)
            )
            done += len(chunk)
            tell(f"answers of {name}", done, len(prompts))
        asked += len(waiting)
        predictions += [journal.answered[key] for key in keys]
        timings["generate"][name] = time.perf_counter() - begun
    begun = time.perf_counter()
    predictions = _judge(judge, predictions, tell)
    journal.replace_all(predictions)
    calibrated = calibrate(judge, calibration, seed=seed) if judge and calibration else None
    timings["judge"] = time.perf_counter() - begun
    _refuse_unscored(judge, predictions)
    begun = time.perf_counter()
    passages = {(p.example.id, p.condition): p.passages for p in prompts}
    report = summarise(predictions, list(models), names, passages, seed=seed)
    timings["summary"] = time.perf_counter() - begun
    report["judge"] = calibrated
    report["mining"] = dict(mining) if mining else None
    report["atlas_plot"] = _shown(atlas_plot) if atlas_plot else None
    report["timings"] = timings | {
        "total": time.perf_counter() - started,
        "answers_asked": asked,
        "answers_from_journal": len(predictions) - asked,
    }
    report["manifest"] = {
        "kind": "report",
        "seed": seed,
        "examples": _shown(examples),
        "inputs": hash_inputs(examples=Path(examples)),
        "systems": {n: {"model": _shown(models[n]), "fingerprint": prints[n]} for n in models},
        "engine": settings,
        "judge": {"name": judge.name, "fingerprint": judge.fingerprint} if judge else None,
        "questions": len(chosen) - len(skipped),
        "skipped": skipped,
        "limit": limit,
    }
    return write_report(report, out, atlas_plot=atlas_plot)


def render_prompts(
    models: Mapping[str, Path], examples: Sequence[Example], conditions: Sequence[str], seed: int
) -> tuple[list[Prompt], list[str]]:
    """Render every question under every condition once, for all systems alike.

    A question whose pools cannot fill one of the conditions is left out of all of them, so that
    conditions compare the same questions: the second result names these. Raises BadInput if no
    question is left, or if a system's tokenizer or template would render another prompt.
    """
    shown: list[tuple[Example, str, list[Passage]]] = []
    skipped: list[str] = []
    reason = "there are no examples"
    for example in examples:
        try:
            built = [(example, name, build_condition(example, name, seed)) for name in conditions]
        except TooFewPassages as error:
            skipped.append(example.id)
            reason = str(error)
            continue
        shown += built
    if not shown:
        raise BadInput(f"no question can be evaluated under {', '.join(conditions)}: {reason}")
    first, *others = models.items()
    ids = _render(first[1], shown)
    files = _prompt_files(first[1])
    for name, directory in others:
        # Equal files render equal prompts; only files that differ in bytes need the long way.
        if _prompt_files(directory) != files and _render(directory, shown) != ids:
            raise BadInput(
                f"{name} renders other prompts than {first[0]}: its tokenizer, chat template or "
                f"{TEMPLATE_FILE} in {directory} differs, so their answers cannot be compared"
            )
    prompts = [Prompt(*parts, ids=tokens) for parts, tokens in zip(shown, ids, strict=True)]
    return prompts, skipped


def _shown(path: Path) -> str:
    """A path for a report that may be handed on: relative to here, or its last part alone."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _read(examples: Path) -> Iterator[Example]:
    path = Path(examples)
    if path.is_dir():
        read_manifest(path, "examples")
        path = path / "examples.jsonl"
    return read_examples(path)


def _check_model(directory: Path) -> None:
    """Refuse a folder without a model, and a checkpoint changed since its manifest was sealed."""
    if not (directory / "config.json").is_file():
        raise BadInput(f"no checkpoint at {directory}: it has no config.json")
    if (directory / MANIFEST).is_file():
        read_manifest(directory, "checkpoint")


def _render(
    directory: Path, shown: Sequence[tuple[Example, str, list[Passage]]]
) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    template = PromptTemplate.of_checkpoint(directory)
    return [
        render_prompt(tokenizer, template, example.question, passages)
        for example, _, passages in shown
    ]


def _prompt_files(directory: Path) -> list[bytes | None]:
    paths = [directory / name for name in _PROMPT_FILES]
    return [path.read_bytes() if path.is_file() else None for path in paths]


def _key(system: str, fingerprint: str, engine: Mapping[str, Any], prompt: Prompt) -> str:
    parts = [system, fingerprint, dict(engine), prompt.example.id, prompt.condition, prompt.ids]
    parts.append(list(prompt.example.answers))
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _scored(system: str, prompt: Prompt, key: str, text: str) -> Prediction:
    return score(system, prompt.condition, prompt.example, prompt.passages, key, text)


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _judge(
    judge: Judge | None, predictions: Sequence[Prediction], tell: Progress
) -> list[Prediction]:
    mark = judge.fingerprint if judge else None
    known: dict[Item, Verdict] = {
        p.item: p.verdict
        for p in predictions
        if p.judged_by is not None and p.judged_by == mark and p.verdict != "unscored"
    }
    items = [p.item for p in predictions]
    verdicts = give_verdicts(judge, items, known, lambda done, total: tell("judge", done, total))
    return [p.judged(v, mark) for p, v in zip(predictions, verdicts, strict=True)]


def _refuse_unscored(judge: Judge | None, predictions: Sequence[Prediction]) -> None:
    unscored = sum(p.verdict == "unscored" for p in predictions)
    if judge is not None and unscored > MAX_UNSCORED * len(predictions):
        raise NeuroritError(
            f"the judge {judge.name} gave no verdict on {unscored} of {len(predictions)} answers; "
            "the answers are kept: run again with the same --out to ask it for these alone"
        )
