"""Greedy answers are the most likely tokens, whatever a checkpoint says of sampling."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GenerationConfig

from neurorit.model.generation import greedy_answers
from neurorit.model.shared_prefix import Prefix
from tests.neurorit.tiny_models import tiny

PROMPTS = [[5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [3, 4, 5, 6, 7]]


def answers(model: Any, most: int = 8, ends: tuple[int, ...] = (2,)) -> list[list[int]]:
    batches = greedy_answers(model, PROMPTS, most=most, ends=ends)
    found = dict(answer for batch in batches for answer in batch)
    return [found[i] for i in range(len(PROMPTS))]


@pytest.mark.parametrize(
    "said",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1},
        {"do_sample": True, "temperature": 0.6, "top_k": 3, "max_length": 12},
        {"suppress_tokens": list(range(3, 40))},
        {"begin_suppress_tokens": list(range(3, 40))},
        {"bad_words_ids": [[i] for i in range(3, 40)]},
        {"forced_eos_token_id": 7},
        {"stop_strings": ["a"]},
    ],
)
def test_only_the_ends_of_a_generation_config_count(said: dict[str, Any]) -> None:
    model = tiny("llama")
    plain = Prefix(model, PROMPTS).greedy(8, [2])
    model.generation_config = GenerationConfig(eos_token_id=2, **said)
    before = model.generation_config.to_dict()
    assert answers(model) == [ids[: ids.index(2)] if 2 in ids else ids for ids in plain]
    assert model.generation_config.to_dict() == before
    model.generation_config.eos_token_id = [2, plain[0][-1]]
    short = plain[0][: plain[0].index(plain[0][-1])]
    assert answers(model)[0] == Prefix(model, PROMPTS).greedy(8, [2, plain[0][-1]])[0] == short
