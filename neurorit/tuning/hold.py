"""What stays in place while a model learns to refuse: the base's answers, and how well noise and
evidence are told apart.

Held are responses on which the tuned model is to say what the base says: to samples with evidence,
and pieces of general text. Selectivity is P(end at once | noise) - P(end at once | evidence).

Source: docs/method.md, "What is held" [I].
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example
from neurorit.model.prompts import beginning, encode_plain
from neurorit.retrieval.corpus.reader import read_corpus
from neurorit.tuning.samples import Sample, collate
from neurorit.tuning.settings import TuneSettings

_PIECES = 2_000  # pieces of general text at most


class Copies:
    """Copies of parameters as they are now, which can take their places for a while."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._pairs = [[parameter, parameter.detach().clone()] for parameter in parameters]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The copies stand in the parameters; afterwards what stood there does again."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for pair in self._pairs:
            parameter, other = pair
            pair[1] = parameter.data
            parameter.data = other


def held_samples(
    learned: Sequence[Sample],
    told: Sequence[Sample],
    text: Sequence[Sample],
    settings: TuneSettings,
) -> tuple[list[Sample], list[list[Sample]]]:
    """What a stage learns, marked where it is held, and each kind of what is only held.

    learned: the stage's samples; told: all with evidence, held beside those of a stage that learns
    from none; text: of `text_samples`.
    """
    samples = list(learned)
    beside: list[list[Sample]] = []
    if "evidence" in settings.kl_on:
        if any(sample.evidence for sample in samples):
            samples = [replace(sample, held=sample.evidence) for sample in samples]
        else:
            beside.append([replace(sample, learned=False, held=True) for sample in told])
    if "text" in settings.kl_on:
        beside.append(list(text))
    return samples, beside


def text_samples(
    examples: Sequence[Example], tokenizer: Any, settings: TuneSettings, seed: int
) -> list[Sample]:
    """Pieces of general text, of `kl_text` or of the examples' passages; held is the second half.

    Each begins as the tokenizer begins a text, and what reads like a marker is plain text. Raises
    BadInput where no text is as long as a piece.
    """
    if settings.kl_text:
        texts = [passage.text for passage in read_corpus(Path(settings.kl_text))]
    else:
        # A passage stands in many examples.
        texts = list(dict.fromkeys(p.text for example in examples for p in example.passages))
    random.Random(f"{seed}/text").shuffle(texts)
    size, head = settings.kl_text_tokens, beginning(tokenizer)
    pieces: list[Sample] = []
    for text in texts:
        ids = encode_plain(tokenizer, text)
        cuts = range(0, len(ids) - size + 1, size)
        pieces += [_piece(head, ids[at : at + size]) for at in cuts]
        if len(pieces) >= _PIECES:
            break
    if not pieces:
        where = f"‹kl_text={settings.kl_text}›" if settings.kl_text else "the examples' passages"
        raise BadInput(f"{where}: no text has {size} tokens; lower ‹kl_text_tokens›")
    return pieces[:_PIECES]


def _piece(head: list[int], ids: list[int]) -> Sample:
    middle = len(ids) // 2
    return Sample([*head, *ids[:middle]], ids[middle:], evidence=False, learned=False, held=True)


@dataclass(frozen=True)
class Measured:
    """Samples on which selectivity is measured. apart: nothing is learned from them."""

    noise: Sequence[Sample]
    evidence: Sequence[Sample]
    apart: bool


def draw_measured(
    samples: Sequence[Sample], settings: TuneSettings, seed: int, named: str
) -> tuple[Measured | None, list[Sample]]:
    """Samples to measure on, `selectivity_samples` of each kind, and those that are left to learn.

    None where one kind is missing, or none are asked for. Raises BadInput where too few are left
    to keep them apart (`held_out`).
    """
    count = settings.selectivity_samples
    rng = random.Random(f"{seed}/selectivity")
    kinds: list[list[int]] = []
    for evidence in (False, True):
        places = [i for i, sample in enumerate(samples) if sample.evidence is evidence]
        drawn = sorted(rng.sample(places, min(count, len(places))))
        if settings.held_out and len(places) <= count:
            kind = "with evidence" if evidence else "without evidence"
            raise BadInput(
                f"{named}: {len(places)} samples {kind} are too few to keep {count} of them apart; "
                "mix more, or lower ‹selectivity_samples›"
            )
        kinds.append(drawn)
    if not all(kinds):
        return None, list(samples)
    apart = {place for drawn in kinds for place in drawn} if settings.held_out else set()
    left = [sample for i, sample in enumerate(samples) if i not in apart]
    noise, told = ([samples[i] for i in drawn] for drawn in kinds)
    return Measured(noise, told, settings.held_out), left


@torch.no_grad()
def end_probability(model: Any, samples: Sequence[Sample], end: int, pad: int, size: int) -> float:
    """The mean probability that an answer ends before it begins; `size` prompts in a pass."""
    prompts = sorted((Sample(s.prompt, [end], s.evidence) for s in samples), key=lambda s: s.length)
    training, total = model.training, 0.0
    model.eval()
    for begin in range(0, len(prompts), size):
        batch = collate(prompts[begin : begin + size], pad)
        names = ("input_ids", "attention_mask", "position_ids")
        inputs = {name: batch[name].to(model.device) for name in names}
        logits = model(**inputs, use_cache=False, logits_to_keep=2).logits[:, 0]
        total += float(logits.float().softmax(-1)[:, end].sum())
    model.train(training)
    return total / len(prompts)
