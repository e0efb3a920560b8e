"""The one pass against whole forward passes, layer by layer, for every supported architecture."""

from __future__ import annotations

import pytest
import torch

from neurorit.attribution import attribute, attribute_by_loop
from neurorit.models import feed_forward
from retrieval.errors import BadInput
from tests.neurorit.tiny import ARCHITECTURES, tiny

WITH, WITHOUT = [1, 5, 9, 13, 22, 31, 7, 8], [1, 7, 8]


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_one_pass_equals_the_loop(kind: str) -> None:
    model = tiny(kind)
    reference = attribute_by_loop(model, WITH, WITHOUT, 17, steps=8)
    found = attribute(model, WITH, WITHOUT, 17, steps=8)
    assert (found.scores - reference).abs().max() <= 1e-4 * reference.abs().max()


@pytest.mark.parametrize("rows", [1, 5, 27, 1000])
def test_the_row_budget_changes_nothing(rows: int) -> None:
    model = tiny("llama")
    whole = attribute(model, WITH, WITHOUT, 17, steps=8)
    parts = attribute(model, WITH, WITHOUT, 17, steps=8, rows=rows)
    torch.testing.assert_close(
        parts.scores, whole.scores, rtol=0, atol=1e-4 * float(whole.scores.abs().max())
    )
    assert parts.residual == pytest.approx(whole.residual, rel=1e-2, abs=1e-5)


def test_scores_add_up_to_the_gain_as_steps_grow() -> None:
    model = tiny("llama")
    residuals = [attribute(model, WITH, WITHOUT, 17, steps=m).residual for m in (2, 8, 64)]
    assert residuals[2] < residuals[0]
    assert residuals[2] < 0.01


def test_log_prob_is_another_objective_that_adds_up() -> None:
    found = attribute(tiny("llama"), WITH, WITHOUT, 17, steps=64, objective="log-prob")
    assert found.residual < 0.01


def test_no_target_means_the_models_own_answer() -> None:
    model = tiny("llama")
    own = int(model(torch.tensor([WITH])).logits[0, -1].argmax())
    assert attribute(model, WITH, WITHOUT, steps=2).target == own


def test_gradient_times_activation_is_the_gradient_at_the_context() -> None:
    model = tiny("llama")
    found = attribute(model, WITH, WITHOUT, 17, method="gradient-activation")
    blocks = feed_forward(model)
    seen: list[torch.Tensor] = []
    for layer in range(blocks.depth):
        blocks.down(layer).register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    probability = model(torch.tensor([WITH])).logits[0, -1].softmax(-1)[17]
    gradients = torch.autograd.grad(probability, seen)
    with torch.no_grad():
        present = torch.stack([values[0, -1] for values in seen])
        seen.clear()
        model(torch.tensor([WITHOUT]))
        without = torch.stack([values[0, -1] for values in seen])
    wanted = (present - without) * torch.stack([gradient[0, -1] for gradient in gradients])
    torch.testing.assert_close(found.scores, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_a_prompt_longer_than_the_window_is_refused() -> None:
    model = tiny("mistral")
    model.config.sliding_window = 4
    with pytest.raises(BadInput, match="sliding window of 4"):
        attribute(model, WITH, WITHOUT, 17)


def test_mixtures_of_experts_are_refused() -> None:
    model = tiny("llama")
    model.config.model_type = "mixtral"
    with pytest.raises(BadInput, match="mixtral"):
        feed_forward(model)
