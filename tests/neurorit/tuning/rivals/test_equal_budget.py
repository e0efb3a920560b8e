"""The sparse rivals: what they train, at equal budget, and that all else stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from neurorit.core.errors import BadInput
from neurorit.model.feed_forward import attention_heads, feed_forward
from neurorit.model.load import load_model
from neurorit.tuning.rivals.low_rank import LoraTuning, ShiraTuning, adapted_linears, rank_of
from neurorit.tuning.rivals.s2ft import S2ft
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.stages import lora, s2ft_parameters
from neurorit.tuning.tune import tune
from tests.neurorit.conftest import examples
from tests.neurorit.tiny_models import tiny

KINDS = ("llama", "gemma2", "phi3", "gpt_neox")


def loss_of(model: Any, step: int) -> torch.Tensor:
    ids = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(step))
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def count(trainable: Any) -> int:
    return sum(parameter.numel() for _, parameter in trainable.trained())


def take_steps(model: Any, trainable: Any, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([p for _, p in trainable.trained()], lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_s2ft_trains_columns_of_whole_heads_and_channels_alone(kind: str) -> None:
    model, base = tiny(kind), tiny(kind)
    trainable = S2ft(model, 3 * 32 * (8 + 5), seed=1)  # a head of 8 and 5 channels in 3 layers
    assert count(trainable) == 3 * 32 * (8 + 5)
    take_steps(model, trainable)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        learned = model(ids).logits
        trainable.merge()
        torch.testing.assert_close(model(ids).logits, learned)
    moved = {n for n, p in model.state_dict().items() if not torch.equal(p, base.state_dict()[n])}
    assert len(moved) == 2 * 3
    for layer in range(3):
        for site, columns in ((attention_heads, 8), (feed_forward, 5)):
            now, before = (site(m).down(layer).weight for m in (model, base))
            changed = (now != before).any(0)
            assert int(changed.sum()) == columns
            if site is attention_heads:  # one whole head
                first = int(changed.nonzero()[0])
                assert first % 8 == 0 and bool(changed[first : first + 8].all())


def test_s2ft_learns_what_masked_gradients_of_full_weights_teach() -> None:
    model, reference = tiny("llama"), tiny("llama")
    trainable = S2ft(model, 3 * 32 * (8 + 5), seed=1)
    columns = [delta.index for delta in trainable.deltas]
    take_steps(model, trainable, 5)
    trainable.merge()
    heads, blocks = attention_heads(reference), feed_forward(reference)
    weights = [site.down(layer).weight for layer in range(3) for site in (heads, blocks)]
    reference.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    for step in range(5):
        optimizer.zero_grad()
        loss_of(reference, step).backward()
        for weight, index in zip(weights, columns, strict=True):
            mask = torch.zeros(weight.shape[1])
            mask[index] = 1.0
            weight.grad *= mask
        optimizer.step()
    for name, wanted in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], wanted, atol=2e-5, rtol=0)


def test_shira_trains_scattered_weights_as_many_as_lora() -> None:
    model, base = tiny("llama"), tiny("llama")
    torch.manual_seed(0)
    trainable = ShiraTuning(model, 2)
    assert count(trainable) == count(LoraTuning(tiny("llama"), 2, 4))
    take_steps(model, trainable)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        learned = model(ids).logits
        trainable.merge()
        torch.testing.assert_close(model(ids).logits, learned)
    plain = base.state_dict()
    moved = {name: int((p != plain[name]).sum()) for name, p in model.state_dict().items()}
    shapes = {f"{name}.weight": shape for name, shape in adapted_linears(base).items()}
    assert {name for name, n in moved.items() if n} == shapes.keys()
    # A place in two matrices of one shape is drawn anew.
    q, o = (f"model.layers.0.self_attn.{name}_proj.weight" for name in "qo")
    assert not torch.equal(model.state_dict()[q] != plain[q], model.state_dict()[o] != plain[o])
    for name, (m, n) in shapes.items():
        assert moved[name] <= 2 * (m + n)
    with pytest.raises(BadInput, match="lora_rank=10"):
        ShiraTuning(tiny("llama"), 11)


def test_equal_budgets_come_out_nearly_equal(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint)
    budget = 40_000
    each = sum(m + n for m, n in adapted_linears(model).values())
    made = {}
    for method in ("lora", "shira", "s2ft"):
        settings = TuneSettings(
            method=method, rival_parameters=budget, stage1_steps=0, steps=2, batch_size=6
        )
        tuned = tune(model, tokenizer, examples(), settings=settings)
        made[method] = tuned.tuning_record[method]["trained_parameters"]
        before = model.state_dict()
        assert any(not torch.equal(p, before[n]) for n, p in tuned.state_dict().items())
    assert made["lora"] == made["shira"] == rank_of(model, budget) * each
    hidden, depth = feed_forward(model).down(0).out_features, feed_forward(model).depth
    assert abs(made["s2ft"] - budget) <= hidden * depth / 2  # half a column a layer
    # Without a budget all have what LoRA of that rank has.
    settings = TuneSettings(method="s2ft", lora_rank=3)
    assert s2ft_parameters(model, settings) == 3 * each == count(lora(model, settings))
