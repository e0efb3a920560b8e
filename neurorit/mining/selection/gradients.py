"""What selections measure of a model: how much training would move each neuron, and its activity.

A neuron's squared gradient is that of the loss of one sample with respect to the neuron's own
weights: its rows of gate and up-projection and its column of the down-projection, or an attention
head's columns of the output projection. Its mean over samples is the diagonal of the empirical
Fisher matrix, summed over these weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example
from neurorit.data.plain_text import Text
from neurorit.mining.atlas import FEED_FORWARD
from neurorit.mining.controls import activity
from neurorit.mining.settings import SITES
from neurorit.model.feed_forward import Lines, Site
from neurorit.model.float32 import float32_activations
from neurorit.model.prompts import PromptTemplate, encode_answer, end_token_id, render_prompt
from neurorit.model.text_rows import Row, encode_texts

_LONGEST = 512  # tokens of a text


@dataclass(frozen=True)
class Measurements:
    """What a model and its data say of every neuron, measured when it is asked for.

    load: gives the model and its tokenizer. examples: what the model is to be tuned on; general:
    other text that it is to keep. most: how many of each are taken, in an order from the seed.
    site: where the neurons are. progress: told how many of how many are measured.
    """

    load: Callable[[], tuple[Any, Any]]
    template: PromptTemplate
    examples: Sequence[Example]
    general: Sequence[Text] = ()
    most: int = 256
    seed: int = 0
    site: str = FEED_FORWARD
    progress: Callable[[int, int], None] | None = None

    def __call__(self, name: str) -> Mapping[str, np.ndarray]:
        """Arrays [L, F] of a name of atlas.MEASURED, and of what is measured along with it.

        Raises BadInput where the data lack a side, or text is wanted and there is none.
        """
        model, tokenizer = self._loaded
        if name == "activity":
            prompts = [
                render_prompt(tokenizer, self.template, one.question, one.passages)
                for one in self._chosen
            ]
            blocks = SITES.get(self.site)(model)
            mean = activity(model, prompts, blocks=blocks, progress=self.progress)
            return {name: mean.astype(np.float32)}
        if name == "gradient_general":
            if not self.general:
                raise BadInput(
                    "selection: it needs text that the model is to keep (‹general›: a file, or lab)"
                )
            rows = encode_texts(tokenizer, self.general[: self.most], _LONGEST)
            if not rows:
                raise BadInput("‹general›: no text of it has two tokens")
            return {name: _mean(self._squared(rows))}
        return self._gradients(name)

    def _gradients(self, name: str) -> dict[str, np.ndarray]:
        told = [example.has_evidence for example in self._chosen]
        sides = {"gradient_rel": True, "gradient_irrel": False}
        if name in sides and sides[name] not in told:
            what = "with" if sides[name] else "without"
            raise BadInput(
                f"selection: none of {len(told)} examples is {what} evidence, whose gradient it "
                "takes; raise `measured`, or mix some with `neurorit-rag mix`"
            )
        sums: dict[bool, np.ndarray] = {}
        rows = [self._row(example) for example in self._chosen]
        for evidence, one in zip(told, self._squared(rows), strict=True):
            # Two sums rather than as many arrays as there are samples.
            sums[evidence] = sums[evidence] + one if evidence in sums else one
        found = {of: sums[side] / told.count(side) for of, side in sides.items() if side in sums}
        found["gradient_mixed"] = np.sum(list(sums.values()), axis=0) / len(told)
        return {of: mean.astype(np.float32) for of, mean in found.items()}

    def _squared(self, rows: Sequence[Row]) -> Iterator[np.ndarray]:
        """Every row's squared gradient, told as it is there."""
        model, _ = self._loaded
        for done, one in enumerate(squared_gradients(model, rows, self.site), start=1):
            if self.progress is not None:
                self.progress(done, len(rows))
            yield one

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model, tokenizer = self.load()
        model.requires_grad_(False)
        return model, tokenizer

    @cached_property
    def _chosen(self) -> list[Example]:
        def drawn(example: Example) -> bytes:
            return hashlib.sha256(f"{self.seed}/{example.id}".encode()).digest()

        return sorted(self.examples, key=drawn)[: self.most]

    def _row(self, example: Example) -> Row:
        """An example as tuning's default teaches it: the answer, or the end at once."""
        _, tokenizer = self._loaded
        prompt = render_prompt(tokenizer, self.template, example.question, example.passages)
        answer: list[int] = []
        if example.has_evidence and example.answers:
            answer = encode_answer(tokenizer, self.template, example.answers[0])
        return Row([*prompt, *answer, end_token_id(tokenizer)], len(prompt))


def squared_gradients(
    model: Any, rows: Sequence[Row], site: str = FEED_FORWARD
) -> Iterator[np.ndarray]:
    """Of every row the squared gradient [L, F] of its loss, summed over each neuron's weights.

    The loss is the cross-entropy summed over the tokens that count. Frozen weights stay so: only
    one layer's gradient is there at a time.
    """
    with _tapped(model, site) as found:
        for row in rows:
            start = max(1, row.start)
            ids = torch.tensor([row.ids], device=model.device)
            kept = len(row.ids) - start + 1
            with torch.enable_grad(), float32_activations(model):
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=kept).logits[0, :-1]
                loss = functional.cross_entropy(logits.float(), ids[0, start:], reduction="sum")
                loss.backward()
            yield found.double().cpu().numpy()
            found.zero_()


def _mean(parts: Iterator[np.ndarray]) -> np.ndarray:
    total = next(parts)
    count = 1
    for one in parts:
        total, count = total + one, count + 1
    mean: np.ndarray = (total / count).astype(np.float32)
    return mean


@contextmanager
def _tapped(model: Any, site: str) -> Iterator[torch.Tensor]:
    """Squared gradients [L, F] that a backward pass of one sample adds up, in the block."""
    blocks: Site = SITES.get(site)(model)
    found = torch.zeros(blocks.depth, blocks.width, device=model.device)
    every = torch.arange(blocks.width, device=model.device)
    handles = [
        model.get_input_embeddings().register_forward_hook(
            lambda _module, _inputs, out: out.detach().requires_grad_()
        )
    ]
    for layer in range(blocks.depth):
        for lines in blocks.lines(layer, every):
            handles.append(lines.linear.register_forward_hook(_adding(found[layer], lines)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _adding(
    found: torch.Tensor, lines: Lines
) -> Callable[[Any, tuple[torch.Tensor, ...], torch.Tensor], None]:
    """A forward hook that adds to [F] the squared gradients of the lines of all neurons."""

    def hook(_module: Any, inputs: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        seen = inputs[0].detach()[0].float()

        def add(gradient: torch.Tensor) -> None:
            given = gradient[0].float()
            if lines.dim == 0:
                each = (given[:, lines.index].T @ seen).square().sum(1)
            else:
                each = (given.T @ seen[:, lines.index]).square().sum(0)
            found.add_(each.unflatten(0, (len(found), -1)).sum(1))

        out.register_hook(add)

    return hook
