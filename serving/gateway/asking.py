"""Who is asked what: the models of a gateway, and a request turned into one to a pipeline."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from neurorit.data.examples import Passage
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.gateway.requests import RagOptions
from neurorit.serving.metrics import Metrics
from neurorit.serving.middleware.errors import ApiError
from neurorit.serving.rag.pipeline import Event, Outcome, RagPipeline, Request
from neurorit.serving.rag.prompt_budget import Turn
from neurorit.serving.settings import ServeSettings

Support = Callable[[str, str, Sequence[Passage]], Sequence[tuple[int, int]]]
"""(question, answer, passages) -> where its unsupported sentences begin and end; may take time."""


@dataclass
class Gateway:
    """What the routes serve: a model's name, the pipeline once there is one, and the phase.

    phase: `ready`, or a few words on what is still being done; shown by `/ready`. base_model, base,
    base_phase: a second system for comparisons, and its phase; adapters: what the model's engine
    serves beside it; history: earlier questions that a search sees too; digests: name of a model
    -> digest of all that its answers depend on, where that is known; max_tokens_limit: tokens of an
    answer that a request may ask for; leaving: it will end soon, and is to be sent nothing more;
    support: a judge of sentences that their words leave in doubt.
    """

    model: str
    phase: str = "starting"
    pipeline: RagPipeline | None = None
    base_model: str = ""
    base: RagPipeline | None = None
    base_phase: str = "ready"
    adapters: Adapters | None = None
    history: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    max_tokens_limit: int = ServeSettings.max_tokens_limit
    leaving: bool = False
    support: Support | None = None
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def ready(self) -> bool:
        """True when questions can be answered."""
        return self.pipeline is not None and self.phase == "ready"

    @property
    def state(self) -> str:
        """`ready`, or why it is to be sent nothing."""
        if self.ready and self.leaving:
            return "ending"
        if self.ready and self.pipeline is not None and self.pipeline.search_fails:
            return "passages cannot be searched"
        return self.phase

    @property
    def base_ready(self) -> bool:
        """True when the second system can be asked."""
        return self.base is not None and self.base_phase == "ready"

    @property
    def adapter_names(self) -> list[str]:
        """Names of the adapters that can be asked."""
        return self.adapters.names if self.adapters is not None else []

    @property
    def models(self) -> list[str]:
        """Names of the models that can be asked, the one that answers unasked first."""
        second = [self.base_model] if self.base_model else []
        return [self.model, *self.adapter_names, *second]

    def digest(self, name: str) -> str | None:
        """Of all that the answers of a model depend on, where that is known."""
        own = self.digests.get(self.model)
        if own and self.adapters is not None and name in self.adapters:
            return f"{own}-{self.adapters[name].digest[:16]}"
        return self.digests.get(name)

    @contextlib.contextmanager
    def written_by(self, model: str, sampling: Sampling) -> Iterator[Sampling]:
        """How a model of this gateway is asked to write; an adapter stays for the time of it.

        Raises ApiError for an adapter that was taken away since the request was read.
        """
        check_model(self, model)
        if self.adapters is None or model not in self.adapters:
            yield sampling
            return
        with self.adapters.held(model) as lora:
            yield replace(sampling, adapter=lora.served)


@dataclass(frozen=True)
class Asked:
    """A request to one model of a gateway."""

    gateway: Gateway
    model: str
    pipeline: RagPipeline
    request: Request

    async def answer(self) -> Outcome:
        """The outcome alone; see `RagPipeline.answer`."""
        with self.gateway.written_by(self.model, self._sampling) as sampling:
            outcome = await self.pipeline.answer(replace(self.request, sampling=sampling))
        return await self._judged(outcome)

    async def stream(self) -> AsyncGenerator[Event, None]:
        """The events; see `RagPipeline.stream`."""
        with self.gateway.written_by(self.model, self._sampling) as sampling:
            events = self.pipeline.stream(replace(self.request, sampling=sampling))
            async with aclosing(events):
                async for event in events:
                    yield await self._judged(event) if isinstance(event, Outcome) else event

    async def _judged(self, outcome: Outcome) -> Outcome:
        """With what the gateway's judge says of its sentences, where it has one."""
        judge = self.gateway.support
        if judge is None or outcome.abstained or not outcome.hits:
            return outcome
        passages = [hit.passage for hit in outcome.hits]
        spans = await asyncio.to_thread(judge, self.request.question, outcome.answer, passages)
        return replace(outcome, unsupported=tuple(spans))

    @property
    def _sampling(self) -> Sampling:
        return self.request.sampling or Sampling(max_tokens=self.pipeline.max_tokens)


def pipeline_of(gateway: Gateway, model: str | None = None) -> RagPipeline:
    """The pipeline of a model; one that is not ready does not stop the other."""
    if model and model == gateway.base_model and model != gateway.model:
        pipeline, phase, what = gateway.base, gateway.base_phase, f"the model {model!r}"
    else:
        pipeline, phase, what = gateway.pipeline, gateway.phase, "the server"
    if pipeline is None or phase != "ready":
        raise ApiError(
            503,
            f"{what} is not ready: {phase}",
            kind="server_error",
            code="not_ready",
            headers={"Retry-After": "5"},
        )
    return pipeline


def check_tokens(gateway: Gateway, tokens: int | None, param: str) -> None:
    """Refuse a request for more tokens than the server writes."""
    if tokens is not None and tokens > gateway.max_tokens_limit:
        most = gateway.max_tokens_limit
        raise ApiError(400, f"{param}: this server writes at most {most} tokens", param=param)


def check_model(gateway: Gateway, name: str | None) -> None:
    """Refuse a request for a model that is not served."""
    if name is not None and name not in gateway.models:
        raise ApiError(
            404,
            f"the model {name!r} is not served here; this server has "
            + " and ".join(repr(known) for known in gateway.models),
            param="model",
            code="model_not_found",
        )


def asked(
    gateway: Gateway,
    *,
    model: str | None,
    questions: Sequence[str],
    turns: Sequence[Turn],
    write: Callable[[int], Sampling],
    options: RagOptions | None,
    param: str,
) -> Asked:
    """The question with its settings, to the model that is named or the gateway's own.

    questions: of the chat, the last one is to be answered; write: how to write, of the tokens that
    an answer has where none are named; param: where the questions stand in the request.
    """
    name = model or gateway.model
    pipeline = pipeline_of(gateway, name)
    check_model(gateway, name)
    if not questions:
        raise ApiError(400, f"{param}: there is no question in a user message", param=param)
    options = options or RagOptions()
    sampling = write(pipeline.max_tokens)
    pipeline.check(sampling)
    earlier = gateway.history if options.history is None else options.history
    request = Request(
        question=questions[-1],
        top_k=options.top_k,
        policy=options.policy,
        min_score=options.min_score,
        search=options.search(),
        sampling=sampling,
        # The question first: where a search sees only so many words, those are of earlier ones.
        query="\n".join(questions[-1 - earlier :][::-1]),
        turns=tuple(turns),
    )
    return Asked(gateway, name, pipeline, request)
