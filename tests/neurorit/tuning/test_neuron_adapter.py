"""Adapters against full weights with masked gradients, and what they must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from neurorit.model.feed_forward import attention_heads, feed_forward
from neurorit.tuning.neuron_adapter import Group, NeuronAdapters
from tests.neurorit.tiny_models import ARCHITECTURES, tiny

REL = np.array([[0, 1], [0, 7], [1, 3], [2, 9]])
IRREL = np.array([[0, 2], [1, 40], [2, 11]])
SHARED = np.array([[0, 30], [1, 8], [2, 12]])
GROUPS = {
    "rel": Group(REL, from_noise=False),
    "irrel": Group(IRREL, from_evidence=False),
    "shared": Group(SHARED),
}
EVIDENCE = torch.tensor([True, False, True, False])


def tokens(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(3, 60, (4, 9), generator=generator)


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def neuron_slices(model: Any, layer: int, neurons: list[int]) -> list[tuple[Any, Any]]:
    """(weight, index) of everything that belongs to the neurons of a layer."""
    blocks = feed_forward(model)
    width = blocks.width
    up = [n + width for n in neurons] if blocks.fused else neurons
    found = [(blocks.up(layer).weight, (up, slice(None)))]
    found.append((blocks.down(layer).weight, (slice(None), neurons)))
    gate = blocks.gate(layer)
    if gate is not None:
        found.append((gate.weight, (neurons, slice(None))))
    elif blocks.fused:
        found.append((blocks.up(layer).weight, (neurons, slice(None))))
    return found


def head_slices(model: Any, layer: int, chosen: list[int]) -> list[tuple[Any, Any]]:
    """(weight, index) of everything that belongs to the attention heads of a layer."""
    heads = attention_heads(model)
    size = heads.down(layer).in_features // 4
    columns = [head * size + column for head in chosen for column in range(size)]
    return [(heads.down(layer).weight, (slice(None), columns))]


SITES: dict[str, tuple[Any, Any, dict[str, Group]]] = {
    "feed-forward": (feed_forward, neuron_slices, GROUPS),
    "heads": (
        attention_heads,
        head_slices,
        {
            "rel": Group(np.array([[0, 1], [2, 3]]), from_noise=False),
            "irrel": Group(np.array([[0, 2], [1, 1]]), from_evidence=False),
            "shared": Group(np.array([[0, 0], [2, 0]])),
        },
    ),
}


def train_by_masks(
    model: Any, dense: tuple[int, ...], steps: int, site: str = "feed-forward"
) -> None:
    """The reference: full weights, two backward passes, gradients masked by hand."""
    blocks_of, slices_of, groups = SITES[site]
    model.requires_grad_(True)
    weights = [p for block in blocks_of(model).blocks for p in block.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        ids = tokens(step)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = (
            functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").sum(1)
            / ids[:, 1:].numel()
        )
        total = {id(w): torch.zeros_like(w) for w in weights}
        for evidence in (True, False):
            rows = losses[evidence == EVIDENCE].sum()
            gradients = torch.autograd.grad(rows, weights, retain_graph=True)
            by_weight = {id(w): g for w, g in zip(weights, gradients, strict=True)}
            for layer in range(3):
                if layer in dense:
                    continue
                own = [groups["rel" if evidence else "irrel"].neurons, groups["shared"].neurons]
                neurons = [int(n) for g in own for at, n in g if at == layer]
                for weight, index in slices_of(model, layer, neurons):
                    total[id(weight)][index] += by_weight[id(weight)][index]
            for layer in dense:
                for weight in blocks_of(model).blocks[layer].parameters():
                    total[id(weight)] += by_weight[id(weight)]
        for weight in weights:
            weight.grad = total[id(weight)]
        optimizer.step()


def train_by_adapters(
    model: Any, dense: tuple[int, ...], steps: int, site: str = "feed-forward"
) -> tuple[NeuronAdapters, list[torch.Tensor]]:
    adapters = NeuronAdapters(model, SITES[site][2], dense, site=site)
    named = adapters.deltas() + adapters.dense()
    optimizer = torch.optim.AdamW([p for _, p in named], lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        adapters.samples(EVIDENCE)
        optimizer.zero_grad()
        loss_of(model, tokens(step)).backward()
        optimizer.step()
    return adapters, [p for _, p in named]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_ten_steps_equal_masked_gradients_of_full_weights(kind: str, site: str) -> None:
    reference, model = tiny(kind), tiny(kind)
    train_by_masks(reference, (1,), 10, site)
    adapters, _ = train_by_adapters(model, (1,), 10, site)
    with torch.no_grad():
        before = model(input_ids=tokens(99)).logits
        adapters.merge()
        after = model(input_ids=tokens(99)).logits
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    pairs = zip(reference.named_parameters(), model.parameters(), strict=True)
    for (name, wanted), found in pairs:
        # A key's bias moves no attention: its gradient is rounding alone, which AdamW blows up.
        if not name.endswith(("query_key_value.bias", "k_proj.bias")):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["llama", "phi3", "gpt_neox"])
def test_what_is_not_chosen_stays_bit_identical(kind: str) -> None:
    model = tiny(kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapters, _ = train_by_adapters(model, (1,), 3)
    adapters.merge()
    changed = {id(p): torch.zeros_like(p, dtype=torch.bool) for p in model.parameters()}
    for parameter in feed_forward(model).blocks[1].parameters():
        changed[id(parameter)][:] = True
    for layer in (0, 2):
        neurons = [int(n) for g in (REL, IRREL, SHARED) for at, n in g if at == layer]
        for weight, index in neuron_slices(model, layer, neurons):
            changed[id(weight)][index] = True
    for name, parameter in model.named_parameters():
        same = parameter == before[name]
        allowed = changed[id(parameter)]
        assert bool(same[~allowed].all()), name
        if allowed.any():
            assert not bool(same[allowed].all()), f"{name} did not learn"


def test_installing_changes_no_output() -> None:
    model = tiny("llama")
    plain = model(input_ids=tokens(0)).logits
    adapters = NeuronAdapters(model, GROUPS, (1,))
    assert torch.equal(model(input_ids=tokens(0)).logits, plain)
    adapters.remove()
    assert torch.equal(model(input_ids=tokens(0)).logits, plain)


@pytest.mark.parametrize(("kind", "silent"), [(True, IRREL), (False, REL)])
def test_a_group_learns_from_its_samples_alone(kind: bool, silent: np.ndarray) -> None:
    model = tiny("llama")
    adapters = NeuronAdapters(model, GROUPS)
    # Deltas away from zero, so that their gradients do not vanish by chance.
    with torch.no_grad():
        for _, parameter in adapters.deltas():
            parameter.normal_(0, 0.1)
    adapters.samples(torch.full((4,), kind))
    loss_of(model, tokens(1)).backward()
    order = {
        layer: [n for g in (REL, IRREL, SHARED) for at, n in g if at == layer] for layer in range(3)
    }
    silenced = {(int(at), int(n)) for at, n in silent}
    for name, parameter in adapters.deltas():
        _, layer, part = name.split(".")
        for place, neuron in enumerate(order[int(layer)]):
            gradient = parameter.grad[:, place] if part == "down" else parameter.grad[place]
            quiet = (int(layer), int(neuron)) in silenced
            assert bool((gradient == 0).all()) == quiet, (name, neuron)


def test_nothing_dense_has_a_gradient() -> None:
    model = tiny("llama")
    train_by_adapters(model, (1,), 1)
    dense = {id(p) for p in feed_forward(model).blocks[1].parameters()}
    assert all(p.grad is None for p in model.parameters() if id(p) not in dense)


def test_half_precision_weights_are_rounded_once() -> None:
    model = tiny("llama").to(torch.bfloat16)
    wanted = feed_forward(model).up(0).weight.detach().float()
    adapters = NeuronAdapters(model, {"all": Group(np.array([[0, 5]]))})
    with torch.no_grad():
        for name, parameter in adapters.deltas():
            parameter.fill_(0.01 if name.endswith("up") else 0.0)
    adapters.merge()
    wanted[5] += 0.01
    assert torch.equal(feed_forward(model).up(0).weight.detach(), wanted.to(torch.bfloat16))


def test_a_neuron_in_two_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="two groups"):
        NeuronAdapters(tiny("llama"), {"a": Group(REL), "b": Group(REL)})
