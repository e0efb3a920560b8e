"""The plan before a run, against what the run then is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate
from neurorit.tuning.estimate import plan
from neurorit.tuning.samples import collate, make_samples
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.tune import tune
from tests.neurorit.conftest import examples

SETTINGS = TuneSettings(stage1_steps=1, steps=2, batch_size=6, lora_rank=4)


@pytest.mark.parametrize("method", ["sft", "lora"])
def test_trained_parameters_are_those_of_the_run(
    checkpoint: Path, examples_path: Path, tmp_path: Path, method: str
) -> None:
    settings = replace(SETTINGS, method=method)
    made = tune(
        checkpoint, None, examples_path, None, settings, out=tmp_path / "tuned"
    ).tuning_record
    planned = plan(checkpoint, settings, length=40)
    assert planned["trained_parameters"] == made[method]["trained_parameters"]
    assert planned["steps"] == 3
    assert planned["hours"] > 0
    assert planned["float32_copies_gib"] == 0


def test_neurons_take_less_than_everything_and_low_precision_needs_copies(
    checkpoint: Path,
) -> None:
    neurons, everything = (
        plan(checkpoint, replace(SETTINGS, method=m, dense_layers=1), share=0.05, length=40)
        for m in ("neuro-rit", "sft")
    )
    for name in ("trained_parameters", "optimizer_gib", "gradients_gib", "total_gib"):
        assert neurons[name] < everything[name]
    low = plan(checkpoint, replace(SETTINGS, method="sft", dtype="bfloat16"), length=40)
    assert low["weights_gib"] == pytest.approx(everything["weights_gib"] / 2)
    assert low["float32_copies_gib"] == pytest.approx(everything["weights_gib"] / 2)


def test_parts_of_the_method_take_their_parts(checkpoint: Path) -> None:
    count = {
        m: plan(checkpoint, replace(SETTINGS, method=m, dense_layers=1), share=0.05, length=40)[
            "trained_parameters"
        ]
        for m in ("neuro-rit", "neurons", "dense-only", "as-released")
    }
    # A neuron of the dense layer has no delta of its own.
    assert count["dense-only"] < count["neuro-rit"] < count["neurons"] + count["dense-only"]
    # Without gates, in the last layer and in the others, two thirds of the method's.
    assert count["as-released"] == pytest.approx(count["neuro-rit"] * 2 / 3)


def test_a_hold_keeps_a_copy_of_weights_that_learn_themselves(checkpoint: Path) -> None:
    held = replace(SETTINGS, kl_weight=1.0, dense_layers=1)
    copies = {
        m: plan(checkpoint, replace(held, method=m), length=40)["base_copy_gib"]
        for m in ("sft", "dense-only", "neurons", "lora", "s2ft")
    }
    free = plan(checkpoint, replace(SETTINGS, method="sft"), length=40)
    assert free["base_copy_gib"] == 0
    assert copies["sft"] == free["weights_gib"] > copies["dense-only"] > 0
    assert copies["neurons"] == copies["lora"] == copies["s2ft"] == 0


def test_rivals_take_their_budget(checkpoint: Path) -> None:
    count = {
        m: plan(checkpoint, replace(SETTINGS, method=m, rival_parameters=40_000), length=40)
        for m in ("lora", "shira", "s2ft")
    }
    assert count["lora"]["trained_parameters"] == count["shira"]["trained_parameters"]
    for method in count:
        assert count[method]["trained_parameters"] == pytest.approx(40_000, rel=0.1), method


def test_processes_that_share_a_model_hold_less_each(checkpoint: Path) -> None:
    alone = replace(SETTINGS, method="sft", accumulation=2)
    assert not [name for name in plan(checkpoint, alone, length=40) if name.startswith("each_of")]
    shared = plan(checkpoint, replace(alone, shard=True), length=40)
    parts = [shared[f"each_of_{n}_gib"] for n in (2, 4, 8)]
    assert parts == sorted(parts, reverse=True)
    # What is spread halves from two to four; layers and activations in work do not.
    spread = shared["total_gib"] - shared["activations_gib"]
    assert parts[0] - parts[1] == pytest.approx(spread / 4)


def test_activations_are_what_the_forward_pass_keeps(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    batch = collate(samples[:6], 0)
    batch["input_ids"] = batch["input_ids"][:, :40]
    length = batch["input_ids"].shape[1]
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(input_ids=batch["input_ids"], use_cache=False, logits_to_keep=32)
    planned = plan(checkpoint, replace(SETTINGS, method="sft"), length=length)
    assert planned["activations_gib"] * 2**30 == pytest.approx(sum(kept.values()), rel=0.15)
    fewer = plan(
        checkpoint, replace(SETTINGS, method="sft", gradient_checkpointing=True), length=length
    )
    assert fewer["activations_gib"] < planned["activations_gib"] / 2


def test_precision_checkpoints_and_logits_count(checkpoint: Path) -> None:
    def needed(length: int = 200, **changed: Any) -> float:
        settings = replace(SETTINGS, method="sft", device="cpu", precision="float32")
        return float(
            plan(checkpoint, replace(settings, **changed), length=length)["activations_gib"]
        )

    whole = needed()
    # Half of what is kept is in two bytes, beside copies of the weights in two bytes.
    assert 0.5 * whole < needed(precision="bf16") < 0.95 * whole
    # Learning in float32, weights of two bytes are copied back for each product.
    low = {"dtype": "bfloat16", "precision": "bf16"}
    assert needed(**low) == pytest.approx(needed(precision="bf16"), rel=0.05)
    # One of four layers is computed again, beside the inputs of all.
    assert whole / 5 < needed(gradient_checkpointing=True) < whole / 2


def test_gradients_stand_beside_activations_where_batches_are_accumulated(
    checkpoint: Path,
) -> None:
    alone, several = (
        plan(checkpoint, replace(SETTINGS, method="sft", accumulation=n), length=200)
        for n in (1, 2)
    )
    parts = ("weights_gib", "gradients_gib", "optimizer_gib", "activations_gib")
    assert several["total_gib"] == pytest.approx(sum(several[name] for name in parts))
    assert alone["total_gib"] < several["total_gib"]


@pytest.mark.parametrize("method", ["neuro-rit", "lora", "as-released"])
def test_nothing_is_computed_for_a_plan(checkpoint: Path, method: str) -> None:
    found = plan(checkpoint, replace(SETTINGS, method=method, dense_layers=1), length=40)
    assert found["activations_gib"] > 0
