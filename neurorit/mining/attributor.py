"""A loaded model that answers and attributes contexts: batches that fit the memory, and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from neurorit.core.errors import BadInput
from neurorit.core.units import parse_bytes
from neurorit.mining.contexts import IRRELEVANT, Context, Reading
from neurorit.mining.integrated_gradients import Attribution, Query, Settings, attribute
from neurorit.mining.settings import MiningSettings
from neurorit.model.feed_forward import feed_forward
from neurorit.model.float32 import float32_activations
from neurorit.model.prompts import encode_answer, end_token_id, render_prompt
from neurorit.model.shared_prefix import Prefix, Rows
from neurorit.model.source import ModelSource

_MOST = 16  # prompts in one pass; more gain nothing
_PROBE = 8
_SLACK = 1.5  # of what backward needs beside the saved activations


@dataclass(frozen=True)
class Miner:
    """A model, and the contexts that it answers and attributes with their queries, by key.

    end: the token that ends an answer; rows: tokens that go through in one pass.
    """

    model: Any
    tokenizer: Any
    settings: MiningSettings
    contexts: Mapping[str, Context]
    queries: Mapping[str, Query]
    end: int
    rows: int

    @classmethod
    def load(
        cls, source: ModelSource, chosen: Sequence[Context], settings: MiningSettings
    ) -> Miner:
        """Load the model where it is not loaded, and render the contexts' prompts."""
        model, tokenizer = source.load(dtype=settings.dtype, device=settings.device)
        model.requires_grad_(False)
        template = source.template

        def query(context: Context) -> Query:
            own = context.side == IRRELEVANT and settings.irrelevant_target == "own-answer"
            return Query(
                render_prompt(tokenizer, template, context.question, context.passages),
                render_prompt(tokenizer, template, context.question, ()),
                encode_answer(tokenizer, template, context.answers[0])
                if context.answers and not own
                else None,
            )

        found = {context.key: context for context in chosen}
        queries = {key: query(context) for key, context in found.items()}
        end = end_token_id(tokenizer)
        miner = cls(model, tokenizer, settings, found, queries, end, settings.rows)
        if not settings.memory:
            return miner
        longest = max((query.prompt_with for query in queries.values()), key=len)
        with miner._computing():
            return replace(miner, rows=rows_within(settings.memory, model, longest))

    def batches(self, keys: Sequence[str]) -> list[list[str]]:
        """Keys of contexts of like length, as many together as the rows of one pass allow."""
        path = feed_forward(self.model).depth * (self.settings.steps + 1)
        if self.settings.method not in ("integrated-gradients", "scaled-gradients"):
            path = 1
        most = max(1, min(_MOST, self.rows // path))
        order = sorted(keys, key=lambda key: (len(self.queries[key].prompt_with), key))
        return [order[i : i + most] for i in range(0, len(order), most)]

    def ask(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The records of what the model answers from contexts, and whether it follows them."""
        prompts = [self.queries[key].prompt_with for key in keys]
        with self._computing():
            prefix = Prefix(self.model, prompts)
            lasts = [prompt[-1] for prompt in prompts]
            answers = prefix.greedy(lasts, self.settings.answer_tokens, self.end)
        records = []
        for key, answer in zip(keys, answers, strict=True):
            context = self.contexts[key]
            text = self.tokenizer.decode(answer, skip_special_tokens=True)
            followed = Reading.of(context, text).follows(context)
            records.append({"key": f"answer/{key}", "answer": answer, "followed": followed})
        return records

    def attributions(
        self, keys: Sequence[str], answers: Mapping[str, Sequence[int] | None]
    ) -> list[Attribution]:
        """Attribute contexts in one pass.

        answers: what the model itself answered, where it was asked already.
        """
        settings = self.settings
        made = Settings(
            method=settings.method,
            objective=settings.objective,
            steps=settings.steps,
            rows=self.rows,
            end=self.end,
            longest=settings.answer_tokens,
        )
        queries = [self.queries[key] for key in keys]
        queries = [
            query if query.target is not None else replace(query, target=answers.get(key))
            for key, query in zip(keys, queries, strict=True)
        ]
        with self._computing():
            return attribute(self.model, queries, made)

    def attribute(
        self, keys: Sequence[str], answers: Mapping[str, Sequence[int] | None]
    ) -> list[dict[str, Any]]:
        """The records of contexts that share a pass: kept scores, residual and target."""
        settings = self.settings
        records = []
        for key, one in zip(keys, self.attributions(keys, answers), strict=True):
            index, values = keep_scores(one.scores.numpy(), settings.threshold, settings.top)
            records.append(
                {
                    "key": key,
                    "shape": list(one.scores.shape),
                    "index": index.tolist(),
                    "values": [float(value) for value in values],
                    "residual": one.residual,
                    "target": list(one.target),
                }
            )
        return records

    @contextmanager
    def _computing(self) -> Iterator[None]:
        if self.settings.activations == "as-weights":
            yield
            return
        with float32_activations(self.model):
            yield


def keep_scores(scores: np.ndarray, threshold: float, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and values of the scores above `threshold` of the largest, at most `top` [K].

    A sample whose scores are all zero or negative keeps none.
    """
    flat = np.asarray(scores, dtype=np.float64).ravel()
    largest = float(flat.max(initial=0.0))
    if largest <= 0.0:
        return np.empty(0, np.int64), np.empty(0)
    order = np.argsort(-flat, kind="stable")[:top]
    order = order[flat[order] > threshold * largest]
    order = np.sort(order)
    return order, flat[order]


def rows_within(memory: str, model: Any, prompt: Sequence[int]) -> int:
    """Rows of this prompt that a budget such as 2GiB holds; raises BadInput if it holds none."""
    needed = _SLACK * row_bytes(model, prompt)
    rows = int(parse_bytes(memory, "mine: memory") // needed)
    if rows < 1:
        raise BadInput(
            f"mine: memory {memory} holds no row of this model; one takes {needed / 2**20:.1f} MiB"
        )
    return rows


def row_bytes(model: Any, prompt: Sequence[int]) -> float:
    """Bytes of activations that one row keeps for the backward pass, measured on a few rows."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = Rows.of(Prefix(model, [prompt]), [prompt[-1]], [[0]])
    handle = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, out: out.detach().requires_grad_()
    )
    try:
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            rows.logits([0] * _PROBE).float().log_softmax(-1)
    finally:
        handle.remove()
    return sum(kept.values()) / _PROBE
