"""Retrieve, render, generate, and decide what an empty answer means.

One question in, a stream of typed events out.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.core.settings import convert
from neurorit.data.examples import Passage
from neurorit.model.prompts import PromptTemplate, encode_plain, end_token_id
from neurorit.serving.backends.openai_client import Generator, Sampling
from neurorit.serving.metrics import Metrics
from neurorit.serving.rag.prompt_budget import NOTHING, Found, LeftOut, Renderer, Turn
from neurorit.serving.rag.query_batching import SearchBatches
from neurorit.serving.rag.threads import one_thread
from neurorit.serving.settings import Policy

MODEL_ENDED = "model ended"
ABSTAINED = "I could not find the answer in the passages."
_DEEPER_ROUNDS = 3
_WAYS = 32
_T = TypeVar("_T")


class Retriever(Protocol):
    """What the pipeline asks of retrieval: for each query the k best passages, best first."""

    def search(self, queries: Sequence[str], k: int) -> Sequence[Sequence[Found]]: ...


@dataclass(frozen=True)
class Search:
    """How a request wants passages found: mode (empty: the server's) and fields of `meta`."""

    mode: str = ""
    filters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Request:
    """One question with its settings; None means the pipeline's own.

    query: what is looked for (None: the question); search: how; hits: passages to show, in this
    order, in place of a search; turns: the chat before the question, which the model reads where
    it fits; whole: the answer is wanted at once, so its text comes in one piece; min_score: in
    place of the pipeline's, also where another way to search is asked for.
    """

    question: str
    top_k: int | None = None
    policy: Policy | None = None
    sampling: Sampling | None = None
    query: str | None = None
    search: Search = Search()
    hits: tuple[Found, ...] | None = None
    turns: tuple[Turn, ...] = ()
    whole: bool = False
    min_score: float | None = None


@dataclass(frozen=True)
class Retrieved:
    """Event: the passages of the next attempt, best first (none when it is closed-book)."""

    hits: tuple[Found, ...]


@dataclass(frozen=True)
class Text:
    """Event: the next part of the answer."""

    text: str


@dataclass(frozen=True)
class Outcome:
    """The last event: the whole answer and how it came about.

    abstained: the model ended of itself without a word on all it was shown, or no passage was near
    enough to be shown, and `answer` says so; reason: which of the two; nearest: passages that were
    found and not near enough;
    grounded: the answer was written with passages in view; attempts: prompts that were tried;
    tokens are counted by the model's server or its own tokenizer; retrieval_seconds: spent on
    finding passages, waiting included; reasoning: what a thinking model thought before it;
    left_out: what of the chat and the passages the model's context had no room for; unsupported:
    where a judge says that sentences begin and end which no passage supports, None where none was
    asked.
    """

    answer: str
    hits: tuple[Found, ...]
    abstained: bool
    grounded: bool
    attempts: int
    policy: Policy
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    retrieval_seconds: float = 0.0
    reasoning: str = ""
    left_out: LeftOut = NOTHING
    reason: str = ""
    nearest: tuple[Found, ...] = ()
    unsupported: tuple[tuple[int, int], ...] | None = None


Event = Retrieved | Text | Outcome


def passages_of(retriever: Any) -> Sequence[Passage]:
    """All passages that a retriever may find; none where it does not tell."""
    for holder in (retriever, getattr(retriever, "index", None)):
        passages = getattr(holder, "passages", None)
        if passages is not None:
            found: Sequence[Passage] = passages
            return found
    return ()


class RagPipeline:
    """Answers questions from retrieved passages.

    policy: what follows when the model ends its answer at once: `abstain` says so, `closed-book`
    asks again without passages, `deeper` asks again with the next passages, up to three rounds;
    top_k: passages in a prompt; context: tokens that prompt and answer may have together (None:
    unlimited); what is left out to keep within it says `rag.prompt_budget`; metrics: where times
    and counts go; of_vllm: the model's server is vLLM, and takes fields of its own; min_score:
    where the best passage scores less, none is shown (None: all are).
    """

    def __init__(
        self,
        retriever: Retriever,
        tokenizer: Any,
        template: PromptTemplate,
        client: Generator,
        *,
        policy: Policy = "abstain",
        top_k: int = 4,
        max_tokens: int = 64,
        context: int | None = None,
        metrics: Metrics | None = None,
        of_vllm: bool = True,
        min_score: float | None = None,
    ) -> None:
        self.min_score = min_score
        self.top_k = top_k
        self.of_vllm = of_vllm
        self.search_fails = False  # when it was last tried
        self.policy: Policy = convert(policy, Policy, "‹policy›")
        self.max_tokens = max_tokens
        self._retriever = retriever
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer, template, context)
        self._client = client
        self._stop = (end_token_id(tokenizer),)
        # One thread: encoding would stop the event loop, and fast tokenizers refuse two at once.
        self._thread = one_thread("retrieval")
        self._rendering_thread = one_thread("rendering")
        self.metrics = metrics or Metrics()
        self._batches = SearchBatches(
            lambda queries, how: self._aside(lambda: self._way(how[1]).search(queries, how[0])),
            self.metrics,
        )
        self._ways: OrderedDict[Search, Retriever] = OrderedDict()

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together."""
        return self._renderer.context

    @context.setter
    def context(self, tokens: int | None) -> None:
        self._renderer.context = tokens

    def check(self, sampling: Sampling) -> None:
        """Raise BadInput for fields that the model's server does not know."""
        if sampling.of_vllm and not self.of_vllm:
            raise BadInput(
                f"{next(iter(sampling.of_vllm))}: a field of vLLM's, which the server of this "
                "model is not known to be"
            )

    @property
    def retriever(self) -> Retriever:
        """What it searches with."""
        return self._retriever

    async def search_in(self, retriever: Retriever) -> None:
        """Search with another retriever from the next search on; the former one is let go."""

        def switch() -> None:
            self._retriever = retriever
            self._ways.clear()

        await self._aside(switch)

    def close(self) -> None:
        """Let the threads end."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._rendering_thread.shutdown(wait=False, cancel_futures=True)

    async def retrieve(
        self, query: str, top_k: int | None = None, search: Search | None = None
    ) -> tuple[Found, ...]:
        """The best passages for a query. Raises BadInput for a way that is not to be had."""
        k = self.top_k if top_k is None else top_k
        started = time.perf_counter()
        try:
            found = await self._batches.find(query, (k, search or Search()))
        except NeuroritError as error:
            self.search_fails = self.search_fails or not isinstance(error, BadInput)
            raise
        self.search_fails = False
        self.metrics.retrieval.observe(time.perf_counter() - started)
        return found

    async def corpus(self, search: Search | None = None) -> Sequence[Passage]:
        """All passages that a search may find; none where the retriever does not tell."""
        return await self._aside(lambda: passages_of(self._way(search or Search())))

    async def answer(self, request: Request) -> Outcome:
        """The outcome alone. Raises BadInput and CallFailed as `stream` does."""
        async with aclosing(self.stream(replace(request, whole=True))) as events:
            async for event in events:
                if isinstance(event, Outcome):
                    return event
        raise AssertionError("the stream of events ends with an outcome")

    async def stream(self, request: Request) -> AsyncGenerator[Event, None]:
        """Events in order: Retrieved and Text for every attempt, at last one Outcome.

        Raises BadInput for a question that does not fit into the context, CallFailed when the
        language model fails. Leaving the iterator early aborts the generation.
        """
        started = time.perf_counter()
        spoken = False
        try:
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    if isinstance(event, Text) and not spoken:
                        spoken = True
                        self.metrics.first_text.observe(time.perf_counter() - started)
                    if isinstance(event, Outcome) and event.abstained:
                        self.metrics.abstained.inc()
                    yield event
        except CallFailed:
            self.metrics.upstream_errors.inc()
            raise

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        policy = request.policy or self.policy
        sampling = request.sampling or Sampling(max_tokens=self.max_tokens)
        k = self.top_k if request.top_k is None else request.top_k
        hits: tuple[Found, ...] = ()
        prompt_tokens = attempts = 0
        left_out = NOTHING
        searched, asked = 0.0, time.perf_counter()
        nearest: tuple[Found, ...] = ()
        least = self._least(request)
        async for hits in self._attempts(request, k, policy):
            searched += time.perf_counter() - asked
            if least is not None and hits and max(float(hit.score) for hit in hits) < least:
                # What is not near enough is not shown; closed-book may still follow.
                nearest, hits = nearest or hits, ()
                asked = time.perf_counter()
                continue
            yield Retrieved(hits)
            fit = partial(
                self._renderer.fit,
                request.question,
                hits,
                sampling.max_tokens,
                request.turns,
                dict(sampling.template),
            )
            prompt = await self._beside(fit)
            hits, left_out = prompt.hits, prompt.left_out
            attempts += 1
            prompt_tokens += len(prompt.ids)
            parts: list[str] = []
            thoughts: list[str] = []
            reason = "stop"
            counted: int | None = None
            stopped_by: str | None = None
            pieces = self._client.stream(
                prompt.ids,
                sampling,
                stop_token_ids=() if sampling.of_vllm.get("ignore_eos") else self._stop,
                whole=request.whole,
                messages=prompt.messages,
            )
            # Closed here and not by the garbage collector: vLLM is to stop at once.
            async with aclosing(pieces):
                async for piece in pieces:
                    reason = piece.finish_reason or reason
                    stopped_by = piece.stopped_by or stopped_by
                    counted = piece.tokens or counted
                    if piece.reasoning:
                        thoughts.append(piece.reasoning)
                    # White space before the first word is the template's, not the answer's.
                    text = piece.text if parts else piece.text.lstrip()
                    if text:
                        parts.append(text)
                        yield Text(text)
            # One that was cut short, stopped by the client's own string, or only thought did not
            # abstain.
            if parts or thoughts or reason != "stop" or stopped_by is not None:
                answer = "".join(parts)
                if counted is None:
                    counted = await self._beside(partial(self._count, answer))
                yield Outcome(
                    answer=answer,
                    hits=hits,
                    abstained=False,
                    grounded=bool(hits),
                    attempts=attempts,
                    policy=policy,
                    finish_reason=reason,
                    prompt_tokens=prompt_tokens,
                    completion_tokens=counted,
                    retrieval_seconds=searched,
                    reasoning="".join(thoughts),
                    left_out=prompt.left_out,
                    nearest=nearest,
                )
                return
            asked = time.perf_counter()
        if attempts == 0:
            yield Retrieved(())
        yield Text(ABSTAINED)
        yield Outcome(
            answer=ABSTAINED,
            hits=hits,
            abstained=True,
            grounded=bool(hits),
            attempts=attempts,
            policy=policy,
            finish_reason="stop",
            prompt_tokens=prompt_tokens,
            completion_tokens=0,
            retrieval_seconds=searched,
            left_out=left_out,
            reason=MODEL_ENDED if attempts else f"no passage above {least:g}",
            nearest=nearest,
        )

    def _least(self, request: Request) -> float | None:
        """The least score of a best passage; scores of other ways to search mean other things."""
        if request.hits is not None:
            return None
        if request.min_score is not None:
            return request.min_score
        own = getattr(getattr(self._retriever, "settings", None), "mode", "")
        return self.min_score if request.search.mode in ("", own) else None

    async def _attempts(
        self, request: Request, k: int, policy: Policy
    ) -> AsyncIterator[tuple[Found, ...]]:
        """The passages to try, one set after another, while the answers stay empty."""
        query = request.query or request.question
        hits = request.hits
        if hits is None:
            hits = await self.retrieve(query, k, request.search) if k > 0 else ()
        yield hits
        if policy == "closed-book" and hits:
            yield ()
        if policy == "deeper" and hits and request.hits is None:
            ranked = await self.retrieve(query, k * _DEEPER_ROUNDS, request.search)
            for start in range(k, len(ranked), k):
                yield ranked[start : start + k]

    def _way(self, search: Search) -> Retriever:
        """The retriever that searches so; the latest ways are kept."""
        if search == Search():
            return self._retriever
        found = self._ways.pop(search, None)
        if found is None:
            make = getattr(self._retriever, "variant", None)
            if make is None:
                raise BadInput("neurorit: this server's retriever searches in one way only")
            found = make(search.mode, dict(search.filters))
        self._ways[search] = found
        if len(self._ways) > _WAYS:
            self._ways.popitem(last=False)
        return found

    def _count(self, text: str) -> int:
        return len(encode_plain(self._tokenizer, text))

    async def _beside(self, work: Callable[[], _T]) -> _T:
        """Run what needs the tokenizer; it does not wait behind searches."""
        return await asyncio.get_running_loop().run_in_executor(self._rendering_thread, work)

    async def _aside(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
