"""The hold: the base beside what is trained, which samples are held, and selectivity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example, Passage
from neurorit.mining.atlas import NeuronAtlas
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, end_token_id
from neurorit.tuning.hold import draw_measured, end_probability, held_samples, text_samples
from neurorit.tuning.neuron_adapter import Group, NeuronAdapters
from neurorit.tuning.rivals.full import FullTuning
from neurorit.tuning.rivals.low_rank import LoraTuning
from neurorit.tuning.rivals.reshaped_masks import ReshapedMasks
from neurorit.tuning.samples import Sample, collate, make_samples
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.trainer import TrainingRun
from neurorit.tuning.tune import tune
from neurorit.tuning.tuned_model import Forward, TunedModel, cross_entropy, kl_to_base
from tests.neurorit.conftest import examples
from tests.neurorit.tiny_models import tiny

NEURONS = np.array([[0, 1], [0, 20], [1, 7], [2, 3]])
HELD = TuneSettings(kl_weight=1.0)
STAGE1 = TuneSettings(
    method="stage1-only",
    stage1_steps=12,
    batch_size=8,
    stage1_learning_rate=0.02,
    selectivity_samples=4,
    held_out=True,
    measure_every=3,
)


def some(length: int, seed: int) -> list[int]:
    return torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def batch() -> dict[str, torch.Tensor]:
    """A refusal, an answer that is held too, and a piece of text that is held alone."""
    return collate(
        [
            Sample(some(6, 0), [2], evidence=False),
            Sample(some(4, 1), [*some(2, 2), 2], evidence=True, held=True),
            Sample(some(3, 3), some(4, 4), evidence=False, learned=False, held=True),
        ],
        pad=0,
    )


def logits(model: Any) -> torch.Tensor:
    ids = torch.tensor([some(9, 5), some(9, 6)])
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


Install = Callable[[Any], Any]
INSTALLED: dict[str, Install] = {
    "neurons": lambda model: NeuronAdapters(model, {"irrel": Group(NEURONS, from_evidence=False)}),
    "dense": lambda model: NeuronAdapters(model, {"rel": Group(NEURONS)}, (1,)),
    "sft": FullTuning,
    "lora": lambda model: LoraTuning(model, 2, 4),
    "as-released": lambda model: ReshapedMasks(model, NEURONS, (2,), gate=True),
}


def trained(trainable: Any) -> list[torch.nn.Parameter]:
    if isinstance(trainable, NeuronAdapters):
        return [p for _, p in trainable.deltas() + trainable.dense()]
    return [p for _, p in trainable.trained()]


def learn(tuned: TunedModel, rate: float = 0.05) -> None:
    parameters = trained(tuned.trainable)
    optimizer = torch.optim.SGD(parameters, lr=rate)
    for _ in range(2):
        optimizer.zero_grad()
        tuned(**batch()).backward()
        optimizer.step()


@pytest.mark.parametrize("later", INSTALLED)
@pytest.mark.parametrize("first", ["neurons", "as-released"])
def test_the_base_is_there_for_a_while_in_every_stage(first: str, later: str) -> None:
    model = tiny("llama")
    wanted = logits(model)
    earlier = INSTALLED[first](model)
    earlier.keep_base()
    learn(TunedModel(model, earlier, None, mixed=False))
    earlier.merge()
    between = logits(model)
    trainable = INSTALLED[later](model)
    trainable.keep_base()
    tuned = TunedModel(model, trainable, None, False, earlier=[earlier])
    learn(tuned)
    after = logits(model)
    assert (after - between).abs().max() > 1e-3 and (between - wanted).abs().max() > 1e-3
    inputs = {"input_ids": torch.tensor([some(9, 5), some(9, 6)])}
    assert torch.equal(tuned.base_logits(inputs, kept=10), wanted[:, :-1])
    assert torch.equal(logits(model), after)
    learn(tuned)  # and it learns on
    assert not torch.equal(logits(model), after)


def test_under_autocast_the_base_is_the_base_and_learning_goes_on() -> None:
    model = tiny("llama")
    trainable = FullTuning(model)
    trainable.keep_base()
    tuned = TunedModel(model, trainable, None, True, [(kl_to_base, 1.0)])
    learn(TunedModel(model, trainable, None, mixed=False))
    given: dict[str, Any] = batch()

    def divergence(mixed: bool) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            found: torch.Tensor = tuned(**given)
        return found

    exact = divergence(False)
    assert exact > 1e-3
    torch.testing.assert_close(divergence(True), exact, rtol=0.2, atol=0)
    # Two passes in one region, as of accumulated batches: both reach every parameter.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tuned(**given)
        second = tuned(**given)
    model.zero_grad()
    second.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained(trainable))


def test_divergence_is_exact_and_a_mean_over_held_tokens() -> None:
    model = tiny("llama")
    trainable = FullTuning(model)
    trainable.keep_base()
    tuned = TunedModel(model, trainable, None, mixed=False)
    learn(tuned)
    given: dict[str, Any] = batch()
    inputs = {n: given[n] for n in ("input_ids", "attention_mask", "position_ids")}
    kept = given["labels"].shape[1] + 1
    now = model(**inputs, logits_to_keep=kept).logits[:, :-1]
    base = tiny("llama")(**inputs, logits_to_keep=kept).logits[:, :-1]
    rows = [(1, at) for at in (1, 2, 3)] + [(2, at) for at in range(4)]
    wanted = torch.stack(
        [
            functional.kl_div(
                now[at].log_softmax(-1), base[at].log_softmax(-1), reduction="sum", log_target=True
            )
            for at in rows
        ]
    ).mean()
    assert given["held"].sum() == len(rows)
    learned = given["labels"].ne(-100).sum()
    assert learned == 4  # of what is only held, nothing
    forward = Forward(tuned, inputs, now, given["labels"], given["evidence"], given["held"])
    found = kl_to_base(forward) / learned
    torch.testing.assert_close(found, wanted)
    assert wanted > 1e-3
    forward = replace(forward, held=torch.zeros_like(given["held"]))
    assert kl_to_base(forward) == 0


def test_what_is_only_held_teaches_neurons_of_every_group() -> None:
    kinds = {"evidence": True, "noise": False}
    for held in (True, False):
        model = tiny("llama")
        deaf = Group(NEURONS, from_evidence=False, from_noise=False)
        adapters = NeuronAdapters(model, {"deaf": deaf})
        adapters.keep_base()
        sample = Sample(some(4, 0), some(3, 1), kinds["evidence"], learned=not held, held=True)
        other = Sample(some(4, 2), [2], kinds["noise"])
        # The divergence has no gradient where nothing has moved yet.
        with torch.no_grad():
            for _, delta in adapters.deltas():
                delta.fill_(0.1)
        tuned = TunedModel(model, adapters, None, False, [(kl_to_base, 1.0)])
        tuned(**collate([sample, other], 0)).backward()
        gradients = [delta.grad for _, delta in adapters.deltas()]
        assert held is any(g is not None and float(g.abs().max()) > 1e-5 for g in gradients)
        assert held or not any(g is not None and bool(g.any()) for g in gradients)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("how", INSTALLED)
def test_short_texts_are_held_in_a_pass_of_their_own(
    how: str, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = [
        Sample(some(5, 3), some(4, 4), False, learned=False, held=True),
        Sample(some(4, 5), some(4, 6), False, learned=False, held=True),
    ]
    prompts = [Sample(some(20, 0), some(3, 1), True), Sample(some(18, 2), [2], False)]
    # As the trainer puts them, and in any order.
    samples = [*prompts, *text] if last else [text[0], prompts[0], text[1], prompts[1]]

    def gradients(short: float) -> tuple[list[torch.Size], dict[str, torch.Tensor]]:
        monkeypatch.setattr("neurorit.tuning.tuned_model._SHORT", short)
        model = tiny("llama")
        trainable = INSTALLED[how](model)
        trainable.keep_base()
        losses = [(cross_entropy, 1.0), (kl_to_base, 2.0)]
        tuned = TunedModel(model, trainable, None, False, losses)
        learn(tuned)
        seen: list[torch.Size] = []
        embedded = model.get_input_embeddings()
        hook = embedded.register_forward_hook(lambda _m, given, _o: seen.append(given[0].shape))
        model.zero_grad()
        tuned(**collate(samples, 0)).backward()
        hook.remove()
        found = {
            str(i): p.grad.clone() for i, p in enumerate(trained(trainable)) if p.grad is not None
        }
        return seen, found

    together, wanted = gradients(0.0)
    apart, found = gradients(0.75)
    # Held are two of nine tokens, in passes of the tuned model and of the base.
    assert together == [(4, 23), (2, 9)]
    assert apart == [(2, 23), (2, 9), (2, 9)]
    assert found.keys() == wanted.keys() and any(g.abs().max() > 1e-4 for g in found.values())
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_what_is_recomputed_is_read_in_one_pass() -> None:
    model = tiny("llama")
    adapters = NeuronAdapters(model, {"irrel": Group(NEURONS, from_evidence=False)})
    adapters.keep_base()
    tuned = TunedModel(model, adapters, None, False, [(cross_entropy, 1.0), (kl_to_base, 1.0)])
    tuned.gradient_checkpointing_enable()
    model.train()
    short = Sample(some(4, 5), some(4, 6), False, learned=False, held=True)
    given = collate([Sample(some(18, 2), [2], False), short], 0)
    tuned(**given).backward()
    assert any(float(delta.grad.abs().max()) > 0 for _, delta in adapters.deltas())


def test_a_stage_of_noise_gets_evidence_beside_it_and_others_hold_their_own(
    checkpoint: Path,
) -> None:
    _, tokenizer = load_model(checkpoint)
    pool = examples()
    samples, _ = make_samples(pool, tokenizer, PromptTemplate(), 512)
    told = [sample for sample in samples if sample.evidence]
    noise = [sample for sample in samples if not sample.evidence]
    text = text_samples(pool, tokenizer, replace(HELD, kl_text_tokens=6), 0)
    assert all(len(s.prompt) == len(s.response) == 3 and s.held and not s.learned for s in text)

    own, beside = held_samples(noise, told, text, HELD)
    assert own == noise
    assert [len(kind) for kind in beside] == [len(told)]
    assert all(sample.held and not sample.learned for sample in beside[0])

    own, beside = held_samples(samples, told, text, replace(HELD, kl_on=("evidence", "text")))
    assert [sample.held for sample in own] == [sample.evidence for sample in samples]
    assert beside == [text]
    with pytest.raises(BadInput, match="no text has 400 tokens"):
        text_samples(pool, tokenizer, replace(HELD, kl_text_tokens=400), 0)


def test_general_text_is_read_from_a_corpus(checkpoint: Path, tmp_path: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    text, corpus = "Mira works in Solden and was born there.", tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"id": "1", "title": "", "text": text}) + "\n")
    settings = TuneSettings(kl_weight=1.0, kl_on=("text",), kl_text=str(corpus), kl_text_tokens=4)
    pieces = text_samples([], tokenizer, settings, 0)
    ids = tokenizer(text)["input_ids"]
    assert [p.prompt + p.response for p in pieces] == [
        ids[at : at + 4] for at in range(0, len(ids) - 3, 4)
    ]


def test_pieces_begin_as_texts_do_and_hold_no_marker(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    text = "Mira <|end|> works in Solden <|user|> and was born there."
    pool = [Example("e", "Where?", ("Solden",), (Passage("p", "", text),))]
    tokenizer.add_bos_token = True
    pieces = text_samples(pool, tokenizer, replace(HELD, kl_text_tokens=4), 0)
    assert len(pieces) > 2 and all(p.prompt[0] == tokenizer.bos_token_id for p in pieces)
    assert all(len(p.prompt) == 3 and len(p.response) == 2 for p in pieces)
    ids = [i for piece in pieces for i in (*piece.prompt[1:], *piece.response)]
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert text.startswith(tokenizer.decode(ids))


def test_selectivity_is_measured_on_samples_that_may_be_kept_apart(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    measured, left = draw_measured(samples, STAGE1, 0, "examples")
    assert measured is not None and measured.apart
    assert [s.evidence for s in measured.noise] == [False] * 4
    assert [s.evidence for s in measured.evidence] == [True] * 4
    assert len(left) == len(samples) - 8
    apart = {id(sample) for sample in (*measured.noise, *measured.evidence)}
    assert {id(sample) for sample in left} == {id(sample) for sample in samples} - apart
    shared, left = draw_measured(samples, replace(STAGE1, held_out=False), 0, "examples")
    assert shared is not None and not shared.apart and left == samples
    assert (
        draw_measured([s for s in samples if s.evidence], TuneSettings(), 0, "examples")[0] is None
    )
    with pytest.raises(BadInput, match="8 samples without evidence are too few"):
        draw_measured(samples, replace(STAGE1, selectivity_samples=8), 0, "examples")

    end, wanted = end_token_id(tokenizer), 0.0
    for sample in samples[:7]:
        with torch.no_grad():
            last = model(torch.tensor([sample.prompt])).logits[0, -1]
        wanted += float(last.softmax(-1)[end]) / 7
    assert end_probability(model, samples[:7], end, end, 3) == pytest.approx(wanted, rel=1e-4)


def tuned_stage1(
    checkpoint: Path, atlas: NeuronAtlas, settings: TuneSettings
) -> tuple[Any, dict[str, Any]]:
    model, tokenizer = load_model(checkpoint)
    tuned = tune(model, tokenizer, examples(48), atlas, settings)
    return tuned, tuned.tuning_record["stage1"]


def test_stage_one_with_a_hold_stays_nearer_to_the_base(checkpoint: Path, atlas_dir: Path) -> None:
    atlas = NeuronAtlas.load(atlas_dir)
    _, free = tuned_stage1(checkpoint, atlas, STAGE1)
    assert [m["step"] for m in free["selectivity"]] == [0, 3, 6, 9, 12]
    assert free["measured_on"] == "held-out samples"
    held_settings = replace(STAGE1, stage1_kl_weight=20.0)
    held, record = tuned_stage1(checkpoint, atlas, held_settings)
    ends = [made["selectivity"][-1]["ends_on_evidence"] for made in (free, record)]
    assert ends[0] > 2 * ends[1]
    again, _ = tuned_stage1(checkpoint, atlas, held_settings)
    for name, tensor in held.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_a_stage_ends_without_better_selectivity_in_its_best_state(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measures are given; the run that is asked for again has ended and trains nothing."""
    noise, evidence = [0.1, 0.6, 0.5, 0.7, 0.9], [0.0, 0.1, 0.1, 0.3, 0.4]
    given = iter([value for pair in zip(noise, evidence, strict=True) for value in pair])
    seen: list[torch.Tensor] = []

    def measured_as_given(model: Any, *_: Any) -> float:
        seen.append(model.model.norm.weight.detach().clone())
        return next(given)

    monkeypatch.setattr("neurorit.tuning.trainer.end_probability", measured_as_given)
    settings = replace(STAGE1, method="sft", stage1_patience=2)
    made = []
    for _ in range(2):
        model, tokenizer = load_model(checkpoint)
        samples, _ = make_samples(examples(48), tokenizer, PromptTemplate(), 512)
        apart, left = draw_measured(samples, settings, 0, "examples")
        full = FullTuning(model)
        run = TrainingRun(model, full, lambda full=full: [(full.trained(), 0.01)], 30, settings)
        state = tmp_path / "state"
        record = run.train(left, "0", tokenizer, state, {}, measured=apart, patience=2)
        made.append((record, model.model.norm.weight.detach().clone()))
    (first, weight), (second, again) = made
    assert (first["best_step"], first["steps"]) == (3, 9)
    assert [m["selectivity"] for m in first["selectivity"]] == [0.1, 0.5, 0.4, 0.4]
    assert len(seen) == 8  # of both kinds, at 0, 3, 6 and 9
    assert torch.equal(weight, seen[2]) and not torch.equal(weight, seen[-1])
    assert torch.equal(again, weight)
    same = ("trained_parameters", "steps", "best_step", "measured_on", "selectivity")
    assert [first[name] for name in same] == [second[name] for name in same]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": {"kl-to-base": 1.0}}, "kl_weight"),
        ({"kl_weight": 1.0, "kl_on": ()}, "kl_on"),
        ({"kl_text": "text.jsonl"}, "kl_on"),
        ({"kl_weight": 1.0, "shard": True}, "shard"),
        ({"stage1_patience": 2}, "held_out"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TuneSettings(**settings)
    assert TuneSettings(kl_weight=0.5, stage1_kl_weight=3.0).terms("stage1") == {
        "cross-entropy": 1.0,
        "kl-to-base": 3.0,
    }
    assert TuneSettings(stage1_kl_weight=3.0).terms("stage2") == {"cross-entropy": 1.0}
