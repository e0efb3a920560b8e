"""Greedy answers of a loaded model, in batches of prompts of like length, padded on the left; what
ends an answer, and how long it may be with its prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from neurorit.core.errors import BadInput
from neurorit.model.prompts import end_token_id

_BATCH = 16


def greedy_answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    most: int,
    ends: Sequence[int],
    batch_size: int = _BATCH,
) -> Iterator[list[tuple[int, list[int]]]]:
    """The most likely continuation of each prompt, without the token that ends it.

    They come in batches, each with the number of its prompt.

    prompts: token ids. most: tokens of an answer. ends: tokens that end one, beside those that the
    model's generation config names; of what else that says, such as penalties, nothing counts. Any
    model with transformers' `generate` will do; one in training mode answers in evaluation mode and
    is given back as it came.
    """
    stops = sorted({*ends, *_named_ends(model)})
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=most,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )
    training = model.training
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    try:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(len(prompts[i]) for i in batch)
            ids = torch.full((len(batch), width), stops[0])
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(prompts[i]) :] = torch.tensor(list(prompts[i]))
                mask[row, width - len(prompts[i]) :] = 1
            with torch.inference_mode(), _instead(model.generation_config, settings):
                said = model.generate(
                    ids.to(model.device),
                    attention_mask=mask.to(model.device),
                    generation_config=settings,
                )
            answers = []
            for i, tokens in zip(batch, said[:, width:].tolist(), strict=True):
                ended = next((at for at, token in enumerate(tokens) if token in stops), None)
                answers.append((i, tokens[:ended]))
            yield answers
    finally:
        model.train(training)


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's, and those that the generation config names."""
    return sorted({end_token_id(tokenizer), *_named_ends(model)})


def _named_ends(model: Any) -> list[int]:
    named = model.generation_config.eos_token_id
    return named if isinstance(named, list) else [named] if named is not None else []


def context_of(model: Any) -> int:
    """The most tokens, prompt and answer together, that a loaded model was made for."""
    return int(getattr(model.config, "max_position_embeddings", None) or sys.maxsize)


def check_context(model: Any, prompts: Iterable[Sequence[int]], most: int) -> None:
    """Raise BadInput where a prompt with an answer of `most` tokens is more than a model takes."""
    needed, allowed = max(map(len, prompts), default=0) + most, context_of(model)
    if needed > allowed:
        raise BadInput(
            f"a prompt with its answer needs {needed} tokens, but the model takes {allowed}; use "
            "fewer or shorter passages"
        )


@contextmanager
def _instead(own: GenerationConfig, settings: GenerationConfig) -> Iterator[None]:
    """Let a model's own settings be others for a while: they fill in what a call leaves open."""
    kept = dict(vars(own))
    _become(own, vars(settings))
    try:
        yield
    finally:
        _become(own, kept)


def _become(settings: GenerationConfig, said: Mapping[str, Any]) -> None:
    vars(settings).clear()
    vars(settings).update(said)
