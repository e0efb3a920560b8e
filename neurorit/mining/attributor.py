"""A loaded model that answers and attributes contexts: batches that fit the memory, and records."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from neurorit.core.errors import BadInput
from neurorit.core.units import write_bytes
from neurorit.mining.contexts import IRRELEVANT, Context
from neurorit.mining.integrated_gradients import Attribution, Query, Settings, attribute
from neurorit.mining.reading import Reading, token_span
from neurorit.mining.settings import ATTRIBUTIONS, MiningSettings
from neurorit.model.distributed.pipeline import part_of
from neurorit.model.float32 import float32_activations
from neurorit.model.generation import check_context, ends_of
from neurorit.model.memory import kept_for_backward
from neurorit.model.precision import pays
from neurorit.model.prompts import (
    PromptTemplate,
    encode_answer,
    encode_plain,
    render_prompt,
    render_turn,
)
from neurorit.model.shared_prefix import Prefix, Rows
from neurorit.model.source import ModelSource

MOST = 16  # prompts in one pass of rows; more gain nothing
_PROBES = 8, 24  # rows whose memory is measured
SLACK = 1.5  # of what backward needs beside the saved activations
_ASKED_TOKENS = 16_384  # of prompts that are asked together, padding counted
_ASKED_MOST = 32


@dataclass(frozen=True)
class Miner:
    """A model, and the contexts that it answers and attributes with their queries, by key.

    ends: the tokens that end an answer; rows: tokens that go through in one pass.
    """

    model: Any
    tokenizer: Any
    settings: MiningSettings
    contexts: Mapping[str, Context]
    queries: Mapping[str, Query]
    ends: tuple[int, ...]
    rows: int

    @classmethod
    def load(
        cls, source: ModelSource, chosen: Sequence[Context], settings: MiningSettings
    ) -> Miner:
        """Load the model where it is not loaded, and render the contexts' prompts.

        Raises BadInput for a prompt that with its answer is longer than the model takes.
        """
        model, tokenizer = source.load(
            dtype=settings.dtype, device=settings.device, pipeline=settings.pipeline
        )
        model.requires_grad_(False)
        template = source.template

        def query(context: Context) -> Query:
            asked = context.question
            own = context.side == IRRELEVANT and settings.irrelevant_target == "own-answer"
            return Query(
                render_prompt(tokenizer, template, asked, context.passages),
                bare_prompt(tokenizer, template, asked, settings.layout),
                encode_answer(tokenizer, template, context.answers[0])
                if context.answers and not own
                else None,
            )

        by_key = {context.key: context for context in chosen}
        queries = {key: query(context) for key, context in by_key.items()}
        check_context(model, (q.prompt_with for q in queries.values()), settings.answer_tokens)
        ends = tuple(ends_of(model, tokenizer))
        miner = cls(model, tokenizer, settings, by_key, queries, ends, settings.rows)
        if not settings.memory:
            return miner
        longest = max((query.prompt_with for query in queries.values()), key=len)
        with miner._computing():
            return replace(
                miner, rows=rows_within(settings.memory, model, longest, settings.steps + 1)
            )

    def batches(self, keys: Sequence[str]) -> list[list[str]]:
        """Keys of contexts of like length, as many together as the rows of one pass allow."""
        path = part_of(self.model).depth * (self.settings.steps + 1)
        if not ATTRIBUTIONS.get(self.settings.method, "mine: method").along_path:
            path = 1
        most = max(1, min(MOST, self.rows // path))
        order = self._by_length(keys)
        return [order[i : i + most] for i in range(0, len(order), most)]

    def batches_to_ask(self, keys: Sequence[str]) -> list[list[str]]:
        """Keys of contexts of like length, as many together as are quickly asked."""
        batches: list[list[str]] = [[]]
        for key in self._by_length(keys):
            longest = len(self.queries[key].prompt_with)
            count = len(batches[-1]) + 1
            if count > 1 and (count > _ASKED_MOST or count * longest > _ASKED_TOKENS):
                batches.append([])
            batches[-1].append(key)
        return batches

    def _by_length(self, keys: Sequence[str]) -> list[str]:
        return sorted(keys, key=lambda key: (len(self.queries[key].prompt_with), key))

    def ask(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The records of what the model answers from contexts, and whether it follows them.

        Of a model whose layers are parted over processes the last part has all records.
        class: one of reading.CLASSES; span: first and last (exclusive) of the answer's tokens that
        follow the context, where it does.
        """
        prompts = [self.queries[key].prompt_with for key in keys]
        model, computing = self._asking
        with computing():
            prefix = Prefix(model, prompts, apart=True)
            answers = prefix.greedy(self.settings.answer_tokens, self.ends, keep=False)
        if not part_of(model).ends:
            return []
        records = []
        for key, answer in zip(keys, answers, strict=True):
            context = self.contexts[key]
            reading = Reading.of(context, self._decoded(answer))
            record: dict[str, Any] = {
                "key": f"answer/{key}",
                "answer": answer,
                "class": reading.named(context),
            }
            if reading.follows(context) and reading.span is not None:
                record["span"] = token_span(self._decoded, answer, reading.span)
            records.append(record)
        return records

    def _decoded(self, tokens: Sequence[int]) -> str:
        return decoded(self.tokenizer, tokens)

    @cached_property
    def _asking(self) -> tuple[Any, Callable[[], AbstractContextManager[None]]]:
        """What answers: the model as it attributes, or in bfloat16 where that is quicker."""
        dtype = asking_dtype(self.settings.asking, self.model)
        if dtype == self.model.dtype:
            # Nothing is differentiated, so weights of lower precision need no float32 beside them.
            plain = self.settings.asking != "float32" and dtype != torch.float32
            return self.model, nullcontext if plain else self._computing
        if dtype == torch.float32:
            return self.model, self._computing
        return copy.deepcopy(self.model).to(dtype), nullcontext

    def rest_from_asking(self) -> None:
        """Let go of what only asking needs."""
        if self.settings.prefill != "as-asking":
            self.__dict__.pop("_asking", None)

    def _at_span(self, key: str, answer: Mapping[str, Any] | None) -> Query:
        """The context's query, at the words that follow it where the model was asked."""
        query = self.queries[key]
        if answer is None or "span" not in answer:
            return query
        written = list(answer["answer"])
        first, last = answer["span"]
        own, target = written[:first], written[first:last]
        context = self.contexts[key]
        if context.side == IRRELEVANT and self.settings.irrelevant_target == "gold":
            target = list(query.target or ())
            if own:
                head = len(self._decoded(own))
                space = " " if self._decoded(written)[head : head + 1] == " " else ""
                target = encode_plain(self.tokenizer, space + context.answers[0], continues=True)
        return Query([*query.prompt_with, *own], [*query.prompt_without, *own], target)

    def attributions(
        self, keys: Sequence[str], answers: Mapping[str, Mapping[str, Any]]
    ) -> list[Attribution]:
        """Attribute contexts in one pass.

        answers: the records of what the model answered, where it was asked.
        """
        settings = self.settings
        how = Settings(
            method=settings.method,
            site=settings.site,
            objective=settings.objective,
            steps=settings.steps,
            quadrature=settings.quadrature,
            rows=self.rows,
            ends=self.ends,
            longest=settings.answer_tokens,
        )
        queries = [self._at_span(key, answers.get(key)) for key in keys]
        prefixes = self._prefixes(queries)
        with self._computing():
            return attribute(self.model, queries, how, prefixes)

    def _prefixes(self, queries: Sequence[Query]) -> tuple[Prefix, Prefix] | None:
        """The prompts' keys and values as contexts are asked, where that is wanted."""
        if self.settings.prefill == "as-activations":
            return None
        dtype = self.model.dtype if self.settings.activations == "as-weights" else torch.float32
        model, computing = self._asking
        with computing():
            shown = Prefix(model, [query.prompt_with for query in queries], apart=True)
            bare = Prefix(model, [query.prompt_without for query in queries], apart=True)
        return shown.raised(self.model, dtype), bare.raised(self.model, dtype)

    def attribute(
        self, keys: Sequence[str], answers: Mapping[str, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The records of contexts that share a pass: scores, residual, gains and target."""
        settings = self.settings
        records = []
        # Of a model whose layers are parted over processes the last part alone has attributions.
        for key, one in zip(keys, self.attributions(keys, answers), strict=False):
            index, values = widest_scores(one.scores.numpy(), settings.stored, settings.top)
            records.append(
                {
                    "key": key,
                    "shape": list(one.scores.shape),
                    "index": index.tolist(),
                    "values": [float(value) for value in values],
                    "residual": one.residual,
                    "context_gain": one.context_gain,
                    "neuron_gain": one.neuron_gain,
                    "target": list(one.target),
                }
            )
        return records

    @contextmanager
    def _computing(self) -> Iterator[None]:
        if self.settings.activations == "as-weights":
            yield
            return
        with float32_activations(self.model, self.settings.activations):
            yield


def widest_scores(scores: np.ndarray, stored: int, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices and values of the `stored` largest scores of either sign, and of the `top`."""
    flat = np.asarray(scores, dtype=np.float64).ravel()
    widest = np.argsort(-np.abs(flat), kind="stable")[:stored]
    order = np.union1d(widest, np.argsort(-flat, kind="stable")[:top])
    order = order[flat[order] != 0.0]
    return order, flat[order]


def bare_prompt(tokenizer: Any, template: PromptTemplate, question: str, layout: str) -> list[int]:
    """Token ids of the prompt without passages that contexts of a layout are compared with."""
    if layout == "matched":
        return render_turn(tokenizer, template, template.without_passages(question))
    return render_prompt(tokenizer, template, question, ())


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """What an answer's tokens say, letter for letter."""
    text: str = tokenizer.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def asking_dtype(asked: str, model: Any) -> torch.dtype:
    """What contexts are asked in: auto is bfloat16 on a CPU where it pays, else as stored."""
    if asked != "auto":
        named: torch.dtype = getattr(torch, asked)
        return named
    stored: torch.dtype = model.dtype
    if stored != torch.float32 or model.device.type != "cpu":
        return stored
    return torch.bfloat16 if pays(part_of(model).weights) else stored


@dataclass(frozen=True)
class RowBytes:
    """Bytes that a pass keeps for going back.

    fixed: whatever the rows, such as the prompt's keys and values; first, last: of one row more
    that comes in at the first layer, or at the last.
    """

    fixed: float
    first: float
    last: float

    def of(self, rows: int, path: int, depth: int) -> float:
        """Bytes of the first so many rows of one context, `path` of them in each layer."""
        layers = np.minimum(np.arange(rows) // path, depth - 1)
        each = self.first + (self.last - self.first) * layers / max(1, depth - 1)
        return self.fixed + float(each.sum())


def rows_within(memory: int, model: Any, prompt: Sequence[int], path: int) -> int:
    """Rows of contexts as long as this one that a budget in bytes holds in one pass.

    path: rows of each layer. Raises BadInput if the budget holds none.
    """
    budget = memory / SLACK
    part = part_of(model)
    row, depth = row_bytes(model, prompt), part.depth
    whole = row.of(depth * path, path, depth)
    # Where all of a context's rows fit, several contexts share a pass.
    contexts = part.least(int(budget // whole))
    if contexts:
        return contexts * depth * path
    # The prompt's own token is a row too.
    rows = bisect_right(range(depth * path), budget, key=lambda n: row.of(n, path, depth)) - 1
    rows = part.least(rows)
    if rows < 2:
        needed = SLACK * row.of(2, path, depth)
        raise BadInput(
            f"‹memory={write_bytes(memory)}› holds no row of this model; "
            f"one takes {needed / 2**20:.1f} MiB"
        )
    return rows


def row_bytes(model: Any, prompt: Sequence[int]) -> RowBytes:
    """What the rows of a prompt keep for the backward pass: measured on a few, fitted by a line.

    In a part of a model every row counts as one that goes through all of its layers.
    """
    part = part_of(model)
    few, more = _PROBES
    first, first_more = (_kept_bytes(model, prompt, [0] * rows) for rows in _PROBES)
    each = (first_more - first) / (more - few)
    if len(part.layers) < part.depth:
        return RowBytes(first - few * each, each, each)
    last, last_more = (_kept_bytes(model, prompt, [part.depth - 1] * rows) for rows in _PROBES)
    return RowBytes(first - few * each, each, (last_more - last) / (more - few))


def _kept_bytes(model: Any, prompt: Sequence[int], layers: Sequence[int]) -> int:
    """Bytes that are kept for the backward pass of rows that come in at those layers."""
    rows = Rows.of(Prefix(model, [prompt]), [prompt[-1]], [[0]])
    handle = model.get_input_embeddings().register_forward_hook(
        lambda _module, _inputs, out: out.detach().requires_grad_()
    )
    try:
        with kept_for_backward(model) as kept:
            rows.logits(layers).float().log_softmax(-1)
            return kept()
    finally:
        handle.remove()
