"""Training batches: targets, labels, padding, and the order of samples."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, end_token_id
from neurorit.tuning.samples import collate, draw_batches, make_samples
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
