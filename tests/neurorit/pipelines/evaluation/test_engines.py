"""Who answers for loaded models, without a run around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.model.load import load_model
from neurorit.model.source import ModelSource
from neurorit.pipelines.evaluation.engines import transformers_engine


def test_a_prompt_that_the_model_does_not_take_is_refused(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    model.config.max_position_embeddings = 12
    sources = {"base": ModelSource.of(model, tokenizer)}
    with transformers_engine(sources, 4, []) as generate:
        (batch,) = generate("base", checkpoint, [[1, 7, 8, 9, 10, 11, 12, 13]])
        assert len(batch) == 1
        with pytest.raises(BadInput, match="needs 13 tokens, but the model takes 12; use fewer"):
            list(generate("base", checkpoint, [[1] * 9]))
