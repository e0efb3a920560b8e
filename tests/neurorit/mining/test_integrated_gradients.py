"""The one pass against whole forward passes, layer by layer, for every supported architecture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from neurorit.core.errors import BadInput
from neurorit.mining.integrated_gradients import (
    Attribution,
    Query,
    Settings,
    attribute,
    attribute_by_loop,
)
from neurorit.mining.settings import ATTRIBUTIONS
from neurorit.model.feed_forward import feed_forward
from neurorit.model.hooks import recording
from neurorit.model.shared_prefix import Prefix, Rows
from tests.neurorit.tiny_models import ARCHITECTURES, WINDOWED, tiny

WITH, WITHOUT = [1, 5, 9, 13, 22, 31, 7, 8], [1, 7, 8]
ANSWER = (17, 30, 4)
OBJECTIVES = ("first-token", "answer-span", "log-prob")


def one(model: Any, target: Sequence[int] | None = ANSWER, **settings: Any) -> Attribution:
    return attribute(model, [Query(WITH, WITHOUT, target)], Settings(**settings))[0]


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_one_pass_equals_the_loop(kind: str, objective: str) -> None:
    model = tiny(kind)
    query = Query(WITH, WITHOUT, ANSWER)
    reference = attribute_by_loop(model, query, steps=8, objective=objective)
    close(one(model, steps=8, objective=objective).scores, reference)
    # In parts, the lower layers of the upper layers' rows are computed once.
    close(one(model, steps=8, objective=objective, rows=15).scores, reference)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_heads_are_scored_as_by_the_loop(kind: str, objective: str) -> None:
    model = tiny(kind)
    query = Query(WITH, WITHOUT, ANSWER)
    reference = attribute_by_loop(model, query, steps=6, objective=objective, site="heads")
    assert reference.shape == (3, 4)
    how = {"steps": 6, "objective": objective, "site": "heads"}
    close(one(model, **how).scores, reference)
    # In parts, each of which begins in another layer.
    close(one(model, **how, rows=15).scores, reference)
    assert one(model, **how, method="gradient-activation").scores.abs().max() > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_batch_of_unequal_prompts_equals_one_by_one(kind: str, objective: str) -> None:
    model = tiny(kind)
    settings = Settings(steps=4, objective=objective)
    queries = [
        Query(WITH, WITHOUT, ANSWER),
        Query([1, 40, 41], [1, 41], (9,)),
        Query([1, *range(20, 35)], [3], (5, 6)),
        Query([4], [3], None),
    ]
    batch = attribute(model, queries, settings)
    for query, found in zip(queries, batch, strict=True):
        alone = attribute(model, [query], settings)[0]
        assert found.target == alone.target
        close(found.scores, alone.scores)
        close(found.gain, alone.gain)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_prompts_may_be_read_in_lower_precision_and_scores_still_add_up(
    kind: str, objective: str
) -> None:
    model = tiny(kind)
    settings = Settings(steps=24, objective=objective)
    queries = [Query(WITH, WITHOUT, ANSWER), Query([1, 40, 41], [1, 41], None)]

    def read_by(reader: Any) -> list[Attribution]:
        prompts = ([q.prompt_with for q in queries], [q.prompt_without for q in queries])
        shown, bare = (Prefix(reader, part).raised(model, torch.float32) for part in prompts)
        return attribute(model, queries, settings, (shown, bare))

    wanted = attribute(model, queries, settings)
    lower = read_by(copy.deepcopy(model).bfloat16())
    for plain, same, low in zip(wanted, read_by(model), lower, strict=True):
        assert same.target == plain.target
        close(same.scores, plain.scores)
        close(same.gain, plain.gain)
        assert not torch.equal(low.scores, plain.scores)
        assert low.residual == pytest.approx(plain.residual, rel=0.2, abs=1e-3)
        if low.target == plain.target:
            both = torch.stack([low.scores.flatten(), plain.scores.flatten()])
            assert torch.corrcoef(both)[0, 1] > 0.99


@pytest.mark.parametrize("rows", [1, 5, 27, 1000])
def test_the_row_budget_changes_nothing(rows: int) -> None:
    model = tiny("llama")
    whole = one(model, steps=8, objective="answer-span")
    parts = one(model, steps=8, objective="answer-span", rows=rows)
    close(parts.scores, whole.scores)
    assert parts.residual == pytest.approx(whole.residual, rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_scores_add_up_to_the_gain_as_steps_grow(objective: str) -> None:
    model = tiny("llama")
    residuals = [one(model, steps=m, objective=objective).residual for m in (2, 8, 64)]
    assert residuals[2] < residuals[0]
    assert residuals[2] < 0.01


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_twelve_gaussian_steps_are_more_exact_than_twenty_of_equal_length(objective: str) -> None:
    model, twelve = tiny("llama"), {"steps": 12, "quadrature": "gauss-legendre"}
    exact = one(model, steps=500, objective=objective)
    gauss = one(model, objective=objective, **twelve)
    twenty = one(model, steps=20, objective=objective)
    off = [float((found.scores - exact.scores).abs().max()) for found in (gauss, twenty)]
    assert off[0] < off[1] / 5
    reference = attribute_by_loop(
        model, Query(WITH, WITHOUT, ANSWER), objective=objective, **twelve
    )
    close(gauss.scores, reference)


def test_the_predecessors_weighting_does_not_add_up() -> None:
    found = one(tiny("llama"), steps=64, method="scaled-gradients")
    assert found.residual > 0.1


def test_no_target_means_the_models_own_answer() -> None:
    model = tiny("llama")
    ids = list(WITH)
    for _ in range(3):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    own = tuple(ids[len(WITH) :])
    assert one(model, None, steps=2).target == own[:1]
    assert one(model, None, steps=2, objective="log-prob", longest=3).target == own
    # An answer stops before the end token; one that ends at once is the end token.
    assert one(model, None, steps=2, objective="log-prob", ends=(own[1],)).target == own[:1]
    assert one(model, None, steps=2, objective="log-prob", ends=(own[0],)).target == own[:1]


def test_gradient_times_activation_is_the_gradient_at_the_context() -> None:
    model = tiny("llama")
    found = one(model, method="gradient-activation")
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
    close(found.scores, wanted)
    close(one(model, method="activation").scores, present - without)


def test_gains_are_of_the_context_and_of_all_neurons_together() -> None:
    model = tiny("llama")
    found = one(model, steps=2)
    blocks = feed_forward(model)
    with torch.no_grad():
        present, absent = (
            model(torch.tensor([ids])).logits[0, -1].softmax(-1)[ANSWER[0]]
            for ids in (WITH, WITHOUT)
        )
        bare: dict[int, torch.Tensor] = {}
        hooks = [
            blocks.down(layer).register_forward_pre_hook(
                lambda _m, inputs, layer=layer: bare.update({layer: inputs[0][:, -1]})
            )
            for layer in range(blocks.depth)
        ]
        model(torch.tensor([WITHOUT]))
        for hook in hooks:
            hook.remove()
        for layer in range(blocks.depth):
            blocks.down(layer).register_forward_pre_hook(
                lambda _m, inputs, layer=layer: (
                    torch.cat([inputs[0][:, :-1], bare[layer][:, None]], dim=1),
                )
            )
        held = model(torch.tensor([WITH])).logits[0, -1].softmax(-1)[ANSWER[0]]
    assert found.context_gain == pytest.approx(float(present - absent), abs=1e-6)
    assert found.neuron_gain == pytest.approx(float(present - held), abs=1e-6)


def test_rows_leave_no_graph_in_the_prefix() -> None:
    model = tiny("llama")
    prefix = Prefix(model, [WITH])
    rows = Rows.of(prefix, [WITH[-1]], [ANSWER])
    model.requires_grad_(True)
    first = rows.logits([0, 1])
    kept = prefix.cache.layers[0].keys
    assert kept.grad_fn is None
    assert kept.shape[2] == len(WITH) - 1
    torch.testing.assert_close(rows.logits([0, 1]), first)
    assert prefix.cache.layers[0].keys is kept
    with pytest.raises(RuntimeError, match="before rows"):
        prefix.greedy(2)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_prompts_read_apart_and_left_off_as_they_end_say_the_same(kind: str) -> None:
    model = tiny(kind)
    prompts = [WITH, [1, *range(20, 35)], [4, 9], WITHOUT, [4]]
    together = Prefix(model, prompts)
    blocks = feed_forward(model)
    with recording(blocks, last=1) as seen:
        apart = Prefix(model, prompts, apart=True)
    torch.testing.assert_close(apart.last_logits, together.last_logits, rtol=1e-4, atol=1e-5)
    for layer in range(blocks.depth):
        with recording(blocks, last=1) as alone:
            Prefix(model, prompts[2:3])
        torch.testing.assert_close(seen[layer][2], alone[layer][0], rtol=1e-4, atol=1e-5)
    wanted = together.greedy(8)
    # Whatever is said second or third ends an answer, so that they end one after the other.
    ends = {wanted[0][2], wanted[1][1], wanted[3][1]}
    wanted = [Prefix(model, [prompt]).greedy(8, ends)[0] for prompt in prompts]
    assert Prefix(model, prompts).greedy(8, ends) == wanted
    assert apart.greedy(8, ends, keep=False) == wanted
    with pytest.raises(RuntimeError, match="without `keep`"):
        Rows.of(apart, [one[-1] for one in prompts], [ANSWER] * 5).plain()
    with pytest.raises(RuntimeError, match="writes once"):
        apart.greedy(2)


def test_nothing_is_left_in_the_model() -> None:
    model = tiny("llama")
    for method in ATTRIBUTIONS.names():
        one(model, method=method, steps=2)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("rope", ["longrope", "dynamic"])
def test_positions_that_go_by_the_longest_prompt_meet_it_in_every_pass(rope: str) -> None:
    parameters: dict[str, Any] = {"rope_type": rope, "rope_theta": 10_000.0, "factor": 8.0}
    kind = "llama"
    if rope == "longrope":
        kind = "phi3"
        factors = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
        parameters |= {**factors, "original_max_position_embeddings": 12}
    model = tiny(kind, rope_parameters=parameters, original_max_position_embeddings=12)
    if rope == "dynamic":
        model.model.rotary_emb.original_max_seq_len = 12
    prompts = [WITH, [1, *range(20, 37)]]
    apart = Prefix(model, prompts, apart=True)
    rows = Rows.of(apart, [one[-1] for one in prompts], [ANSWER[:1]] * 2)
    torch.testing.assert_close(rows.plain()[:, 0, 0], apart.last_logits, rtol=1e-4, atol=1e-5)
    wanted = Prefix(model, prompts).greedy(6)
    # The longest one ends first.
    ends = {next(token for token in wanted[1] if token not in wanted[0])}
    wanted = Prefix(model, prompts).greedy(6, ends)
    assert len(wanted[1]) < len(wanted[0]) == 6
    assert Prefix(model, prompts).greedy(6, ends, keep=False) == wanted


@pytest.mark.parametrize("window", [3, 6])
@pytest.mark.parametrize("kind", WINDOWED)
def test_prompts_longer_than_the_window_are_as_the_model_sees_them(kind: str, window: int) -> None:
    model = tiny(kind, sliding_window=window, **WINDOWED[kind])
    assert model.config.sliding_window < len(WITH)
    query = Query(WITH, WITHOUT, ANSWER)
    for objective in ("first-token", "answer-span"):
        reference = attribute_by_loop(model, query, steps=6, objective=objective)
        close(one(model, steps=6, objective=objective).scores, reference)
        close(one(model, steps=6, objective=objective, rows=15).scores, reference)
    without = tiny(kind)
    assert not torch.allclose(one(without, steps=6).scores, one(model, steps=6).scores)


@pytest.mark.parametrize("kind", WINDOWED)
def test_greedy_answers_beyond_the_window_are_those_of_generate(kind: str) -> None:
    model = tiny(kind, sliding_window=6, **WINDOWED[kind])
    prompts = [WITH, [1, *range(20, 35)], [4, 9]]
    found = Prefix(model, prompts).greedy(6)
    ends = {found[0][1], found[2][3]}
    kept = Prefix(model, prompts).greedy(6, ends)
    assert Prefix(model, prompts, apart=True).greedy(6, ends, keep=False) == kept
    for prompt, answer in zip(prompts, found, strict=True):
        said = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
        )
        assert answer == said[0, len(prompt) :].tolist()


def test_mixtures_of_experts_are_refused() -> None:
    model = tiny("llama")
    model.config.model_type = "mixtral"
    with pytest.raises(BadInput, match="mixtral"):
        feed_forward(model)
