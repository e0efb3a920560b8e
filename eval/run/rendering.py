"""Prompts of a run: every question under every condition, once, alike for all systems."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import (
    Retrieved,
    TooFewPassages,
    asked_question,
    build_condition,
)
from neurorit.model.prompts import TEMPLATE_FILE, PromptTemplate, render_prompt

_PROMPT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    TEMPLATE_FILE,
)


@dataclass(frozen=True)
class Prompt:
    """One question under one condition, as every system gets it.

    turn: the user's turn as text, for servers; ids: the whole prompt as token ids, for checkpoints
    (empty where no checkpoint is evaluated); question: as the condition puts it.
    """

    example: Example
    condition: str
    passages: list[Passage]
    turn: str
    ids: Sequence[int]
    question: str


def render_prompts(
    models: Mapping[str, Path],
    examples: Sequence[Example],
    conditions: Sequence[str],
    seed: int,
    retrieved: Retrieved | None = None,
    template: PromptTemplate | None = None,
) -> tuple[list[Prompt], dict[str, str]]:
    """Render every question under every condition once, for all systems alike.

    models: the checkpoints among the systems; template: the wording where there are none. A
    question whose pools cannot fill one of the conditions is left out of all of them, so that
    conditions compare the same questions: the second result says of each why. Raises BadInput if no
    question is left, or if a checkpoint's tokenizer or template would render another prompt.
    """
    wording = template or PromptTemplate()
    if models:
        wording = PromptTemplate.of_checkpoint(next(iter(models.values())))
    shown: list[Prompt] = []
    skipped: dict[str, str] = {}
    for example in examples:
        try:
            built = [(name, build_condition(example, name, seed, retrieved)) for name in conditions]
        except TooFewPassages as error:
            skipped[example.id] = str(error)
            continue
        for name, passages in built:
            question = asked_question(example, name, seed)
            turn = wording.user_turn(question, passages)
            shown.append(Prompt(example, name, passages, turn, [], question))
    if not shown:
        reason = next(iter(skipped.values()), "there are no examples")
        raise BadInput(f"no question can be evaluated under {', '.join(conditions)}: {reason}")
    if not models:
        return shown, skipped
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
    return [replace(p, ids=tokens) for p, tokens in zip(shown, ids, strict=True)], skipped


def digest_turns(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of all user turns with question and condition: equal for systems asked the same."""
    digest = hashlib.sha256()
    for prompt in prompts:
        line = [prompt.example.id, prompt.condition, prompt.turn]
        digest.update(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def digest_ids(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of all prompts' token ids."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps(list(prompt.ids)).encode() + b"\n")
    return digest.hexdigest()


def _render(directory: Path, shown: Sequence[Prompt]) -> list[Sequence[int]]:
    from neurorit.model.load import load_tokenizer

    tokenizer = load_tokenizer(directory)
    template = PromptTemplate.of_checkpoint(directory)
    # Lists of Python numbers would take nine times the memory of the arrays.
    return [array("i", render_prompt(tokenizer, template, p.question, p.passages)) for p in shown]


def _prompt_files(directory: Path) -> list[bytes | None]:
    paths = [directory / name for name in _PROMPT_FILES]
    return [path.read_bytes() if path.is_file() else None for path in paths]
