"""The honest demonstration: base and tuned model on the same passages, with noise mixed in.

Only noise that needs no known answer: passages ranked next to the retrieved ones, and passages
drawn from the corpus. Either may happen to hold the answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.serving.backends.openai_client import Sampling
from neurorit.serving.rag.pipeline import Outcome, RagPipeline, Request, Search
from neurorit.serving.rag.prompt_budget import Found

NoiseKind = Literal["distractor", "random"]
_DRAWS = 50


@dataclass(frozen=True)
class Mixed:
    """A passage of a mixed prompt; score: 0 where none was searched for."""

    passage: Passage
    score: float


@dataclass(frozen=True)
class Side:
    """One system's answer and how long it took, in seconds."""

    system: str
    model: str
    outcome: Outcome
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """What both systems were shown, in this order, and what they answered."""

    hits: tuple[Found, ...]
    sides: tuple[Side, ...]


async def mixed(
    pipeline: RagPipeline,
    query: str,
    top_k: int,
    noise: Mapping[str, int],
    seed: int,
    search: Search | None = None,
) -> tuple[Found, ...]:
    """The best passages and the noise that was asked for, shuffled by the seed.

    search: how the best and their distractors are found; what is drawn at random is drawn from all
    that the server's and its own filters allow. Noise has its `kind` set. Raises BadInput when that
    is too little.
    """
    near, drawn = noise.get("distractor", 0), noise.get("random", 0)
    rng = random.Random(f"{seed}/{query}")
    wanted = top_k + near
    ranked = list(await pipeline.retrieve(query, wanted, search)) if wanted else []
    hits: list[Found] = list(ranked[:top_k])
    for hit in ranked[top_k:]:
        hits.append(Mixed(replace(hit.passage, kind="distractor"), float(hit.score)))
    if near and len(ranked) < wanted:
        raise BadInput(f"noise.distractor: the index holds {len(ranked)} passages, not {wanted}")
    taken = {hit.passage.id for hit in hits}
    corpus = await pipeline.corpus(search)
    for _ in range(_DRAWS * drawn):
        if drawn == 0 or not corpus:
            break
        passage = corpus[rng.randrange(len(corpus))]
        if passage.id not in taken:
            taken.add(passage.id)
            hits.append(Mixed(replace(passage, kind="random"), 0.0))
            drawn -= 1
    if drawn:
        raise BadInput(f"noise.random: the corpus has {drawn} passages too few for it")
    if any(noise.values()):
        rng.shuffle(hits)
    return tuple(hits)


async def compare(
    systems: Mapping[str, tuple[str, RagPipeline, Sampling]],
    question: str,
    hits: tuple[Found, ...],
) -> Comparison:
    """Every system's answer on the same passages, asked at the same time.

    systems: name -> (model, pipeline, how it is asked to write). Raises CallFailed when one of them
    fails.
    """

    async def side(system: str, model: str, pipeline: RagPipeline, sampling: Sampling) -> Side:
        started = time.perf_counter()
        request = Request(question, policy="abstain", sampling=sampling, hits=hits)
        outcome = await pipeline.answer(request)
        return Side(system, model, outcome, time.perf_counter() - started)

    tasks = [
        asyncio.create_task(side(name, model, pipeline, sampling))
        for name, (model, pipeline, sampling) in systems.items()
    ]
    try:
        return Comparison(hits, tuple(await asyncio.gather(*tasks)))
    finally:
        for task in tasks:
            task.cancel()
