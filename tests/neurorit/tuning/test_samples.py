"""Training batches: targets, labels, padding, and the order of samples."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, end_token_id
from neurorit.tuning.samples import collate, draw_batches, draw_parted, make_samples
from tests.neurorit.conftest import examples


def test_targets_are_the_answer_or_the_end_at_once(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, dropped = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    assert dropped == 0
    end = end_token_id(tokenizer)
    for example, sample in zip(examples(), samples, strict=True):
        assert sample.response[-1] == end
        assert sample.evidence == example.has_evidence
        answer = tokenizer.decode(sample.response[:-1])
        assert answer == (example.answers[0] if example.has_evidence else "")


def test_labels_are_the_response_alone_and_padding_is_left(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)
    # A pad token that equals the end token must not hide the end from the loss.
    batch = collate(samples[:5], end_token_id(tokenizer))
    width = batch["input_ids"].shape[1]
    for row, sample in enumerate(samples[:5]):
        labels = batch["labels"][row]
        assert labels[labels != -100].tolist() == sample.response
        count = sample.length
        assert batch["input_ids"][row, -count:].tolist() == sample.prompt + sample.response
        assert batch["attention_mask"][row].tolist() == [0] * (width - count) + [1] * count
        assert batch["position_ids"][row, -count:].tolist() == list(range(count))


def test_every_epoch_holds_every_sample_and_the_seed_gives_the_order(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)

    def draw(seed: str) -> list[list[int]]:
        return list(islice(draw_batches(samples, 5, seed), 10))

    whole = draw("seed")
    assert draw("seed") == whole
    assert draw("other") != whole
    for epoch in (whole[:5], whole[5:]):
        assert sorted(place for batch in epoch for place in batch) == list(range(24))


def test_retrobust_learns_to_answer_everywhere(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512, refuse=False)
    assert all(len(sample.response) > 1 for sample in samples)
    assert not all(sample.evidence for sample in samples)


def test_the_share_and_the_order_of_noise_are_as_asked(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512)  # a third is noise

    def noise(share: float | None, order: str) -> list[int]:
        batches = draw_parted(samples, 6, "seed", 40, share, order)
        assert [len(batch) for batch in batches] == [6] * 40
        told = {i for batch in batches for i in batch if samples[i].evidence}
        assert told == {i for i, sample in enumerate(samples) if sample.evidence}
        return [sum(not samples[i].evidence for i in batch) for batch in batches]

    assert noise(None, "mixed") == [2] * 40
    assert sum(noise(0.25, "mixed")) == 60
    assert set(noise(0.25, "mixed")) == {1, 2}
    assert noise(0.25, "first") == [6] * 10 + [0] * 30
    assert noise(0.25, "last") == [0] * 30 + [6] * 10
    assert noise(0.0, "mixed") == [0] * 40
    one = draw_parted(samples, 6, "seed", 40, 0.25, "mixed")
    assert one == draw_parted(samples, 6, "seed", 40, 0.25, "mixed")
    assert one != draw_parted(samples, 6, "other", 40, 0.25, "mixed")


def test_a_refusal_may_be_said_in_words(checkpoint: Path) -> None:
    _, tokenizer = load_model(checkpoint)
    words = "None of the passages is relevant."
    samples, _ = make_samples(examples(), tokenizer, PromptTemplate(), 512, refusal=words)
    end = end_token_id(tokenizer)
    for example, sample in zip(examples(), samples, strict=True):
        wanted = example.answers[0] if example.has_evidence else words
        assert tokenizer.decode(sample.response[:-1]).strip() == wanted
        assert sample.response[-1] == end
