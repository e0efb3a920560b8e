"""Training batches: examples as prompt and response tokens, padded on the left.

With padding on the left every response ends at the last position, so logits are needed for the last
few positions only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from neurorit.core.errors import NeuroritError
from neurorit.data.examples import Example
from neurorit.model.prompts import PromptTemplate, encode_answer, end_token_id, render_prompt

_MEGA = 8  # batches whose samples are sorted by length together, to save padding


@dataclass(frozen=True)
class Sample:
    """Token ids of a prompt and of the response; one that is learned ends the turn.

    learned: the response is taught; held: the base's answer to it is to stay.
    """

    prompt: list[int]
    response: list[int]
    evidence: bool
    learned: bool = True
    held: bool = False

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.response)


def make_samples(
    examples: Sequence[Example],
    tokenizer: Any,
    template: PromptTemplate,
    max_length: int,
    *,
    refuse: bool = True,
    responses: Mapping[str, str] | None = None,
    refusal: str = "",
) -> tuple[list[Sample], int]:
    """Samples whose target is the answer, or the end at once where no evidence stands.

    refuse: False makes the answer the target everywhere, as RetRobust trains. responses: example
    id -> what to say instead of the answer alone; refusal: what to say before the end where no
    evidence stands. Returns the samples and how many were left out
    because they are longer than `max_length` tokens.
    """
    end = end_token_id(tokenizer)
    samples = []
    for example in examples:
        evidence = example.has_evidence
        answers = bool(example.answers) and (evidence or not refuse)
        text = refusal if refuse and not evidence else ""
        if answers:
            text = (responses or {}).get(example.id, example.answers[0])
        answer = encode_answer(tokenizer, template, text) if text else []
        prompt = render_prompt(tokenizer, template, example.question, example.passages)
        samples.append(Sample(prompt, [*answer, end], evidence))
    kept = [sample for sample in samples if sample.length <= max_length]
    return kept, len(samples) - len(kept)


def check_ends(samples: Sequence[Sample], end: int, pad: int) -> None:
    """Raise NeuroritError unless the end token is learned at the end of every sample.

    Where the padding is the end token too, a mask made from the padding would hide it from the
    loss, and a model that was to learn to end would not.
    """
    for sample in samples:
        if not sample.learned:
            continue
        batch = collate([sample], pad)
        if batch["labels"][0, -1] != end or batch["attention_mask"][0, -1] != 1:
            same = ", which is the padding too," if pad == end else ""
            raise NeuroritError(
                f"the end token {end}{same} is not in the loss of a sample: nothing would teach "
                "the model to end"
            )


def draw_batches(samples: Sequence[Sample], size: int, seed: str) -> Iterator[list[int]]:
    """Endless batches of places in `samples`, epoch after epoch in an order drawn from the seed.

    Within a few batches samples are sorted by length. The same seed gives the same batches.
    """
    epoch = 0
    while True:
        rng = random.Random(f"{seed}/{epoch}")
        order = list(range(len(samples)))
        rng.shuffle(order)
        for begin in range(0, len(order), size * _MEGA):
            part = sorted(order[begin : begin + size * _MEGA], key=lambda i: samples[i].length)
            batches = [part[i : i + size] for i in range(0, len(part), size)]
            rng.shuffle(batches)
            yield from batches
        epoch += 1


def draw_parted(
    samples: Sequence[Sample], size: int, seed: str, count: int, share: float | None, order: str
) -> list[list[int]]:
    """`count` batches of `size` places, of which `share` are samples without evidence.

    share: None, as many as there are among the samples; order: `mixed` puts them into every batch,
    `first` and `last` before or after the others. Each kind comes epoch after epoch.
    """
    kinds = [[i for i, s in enumerate(samples) if s.evidence is told] for told in (False, True)]
    share = len(kinds[0]) / len(samples) if share is None else share
    wanted = [round(count * size * share)]
    wanted.append(count * size - wanted[0])
    drawn = [
        _endless(places, number, f"{seed}/{number}") if places else []
        for number, places in zip(wanted, kinds, strict=True)
    ]
    noise, told = drawn
    if order == "mixed":
        batches = []
        for number in range(count):
            ends = [round(at * len(noise) / count) for at in (number, number + 1)]
            batch = noise[ends[0] : ends[1]]
            batches.append(batch + told[number * size - ends[0] : (number + 1) * size - ends[1]])
        return batches
    line = [*noise, *told] if order == "first" else [*told, *noise]
    return [line[at : at + size] for at in range(0, count * size, size)]


def _endless(places: Sequence[int], count: int, seed: str) -> list[int]:
    """So many places, epoch after epoch, each in an order from the seed."""
    drawn: list[int] = []
    while len(drawn) < count:
        epoch = list(places)
        random.Random(f"{seed}/{len(drawn)}").shuffle(epoch)
        drawn += epoch
    return drawn[:count]


def collate(samples: Sequence[Sample], pad: int) -> dict[str, torch.Tensor]:
    """A batch, padded on the left.

    input_ids, attention_mask, position_ids [B, T]; labels [B, R] of the last R positions, -100
    where nothing is learned; evidence [B] boolean. Where samples are held, also two booleans: held
    [B, R], the positions of held responses, and learned [B].
    """
    width = max(sample.length for sample in samples)
    learned = max(len(sample.response) for sample in samples)
    ids = torch.full((len(samples), width), pad)
    mask = torch.zeros_like(ids)
    labels = torch.full((len(samples), learned), -100)
    for row, sample in enumerate(samples):
        ids[row, width - sample.length :] = torch.tensor(sample.prompt + sample.response)
        mask[row, width - sample.length :] = 1
        if sample.learned:
            labels[row, learned - len(sample.response) :] = torch.tensor(sample.response)
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "labels": labels,
        "evidence": torch.tensor([sample.evidence for sample in samples]),
    }
    if any(sample.held for sample in samples):
        lengths = torch.tensor([len(s.response) if s.held else 0 for s in samples])
        batch["held"] = torch.arange(learned) >= learned - lengths[:, None]
        batch["learned"] = torch.tensor([sample.learned for sample in samples])
    return batch
