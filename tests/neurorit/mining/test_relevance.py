"""Relevance patching: what goes back by its rules adds up to what came out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neurorit.mining.integrated_gradients import Query, Settings, attribute
from neurorit.mining.relevance import relevance_rules
from tests.neurorit.tiny_models import ARCHITECTURES, tiny

IDS = torch.tensor([[1, 5, 9, 13, 7, 22]])
# Types without biases in what values go through.
CONSERVING = ["llama", "mistral", "qwen3", "gemma2", "gemma3_text", "olmo", "olmo2", "phi3"]
MORE: dict[str, dict[str, Any]] = {"gemma2": {"final_logit_softcapping": None}}
QUERY = Query([1, 5, 9, 13, 7, 22], [1, 5, 22], (30,))


@pytest.mark.parametrize("kind", CONSERVING)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_relevance_is_neither_made_nor_lost(kind: str, attention: str) -> None:
    model = tiny(kind, **MORE.get(kind, {})).requires_grad_(False)
    model.set_attn_implementation(attention)
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()

    def relevance() -> tuple[float, float]:
        logit = model(inputs_embeds=embedded, use_cache=False).logits[0, -1, 30]
        (gradient,) = torch.autograd.grad(logit, embedded)
        return float(logit.detach()), float((gradient * embedded.detach()).sum())

    plain, slope = relevance()
    with relevance_rules(model):
        logit, total = relevance()
    assert logit == pytest.approx(plain, rel=1e-5, abs=1e-5)
    assert total == pytest.approx(logit, rel=1e-3, abs=1e-4)
    assert abs(slope - plain) > 10 * abs(total - logit)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_rules_change_scores_and_nothing_else(kind: str) -> None:
    model = tiny(kind).requires_grad_(False)
    found, plain = (
        attribute(model, [QUERY], Settings(method=method))[0]
        for method in ("relevance", "gradient-activation")
    )
    assert found.residual == 0.0
    assert found.scores.abs().max() > 0
    # Beside its attention, GPT-NeoX's first block sees the last token alone: no context changes it.
    for below in range(1 if kind == "gpt_neox" else 0, 2):
        assert not torch.allclose(found.scores[below], plain.scores[below], rtol=1e-3, atol=0)
    torch.testing.assert_close(found.context_gain, plain.context_gain)
