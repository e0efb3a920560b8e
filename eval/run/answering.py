"""A system's answers, brought into the journal: from the cache, from an engine, or from a server.

Every answer is written down as it comes. Calls that fail for good are named; up to a share of them
a run goes on without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.replies import CallFailed, read_reply
from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.examples import Passage
from neurorit.eval.metrics.scoring import score
from neurorit.eval.predictions import Journal, Prediction, gold_ids
from neurorit.eval.run.plan import Plan
from neurorit.eval.run.systems import Completion, Generate, Reply, System, ask_remote

Progress = Callable[[str, int, int], None]
"""(what is being done, how much is done, how much there is)"""
_Batches = Generator[list[tuple[int, Reply | CallFailed]], None, None]
Source = Callable[[list[int]], _Batches]
"""Indices of prompts -> batches of (index, reply or why there is none), as they come."""

# So many failed calls one after another, and the server is taken for lost.
_LOST = 10


class Unanswered(NamedTuple):
    """A call that failed for good, or a reply that cannot be scored; the run goes on without it.

    reason: `failed`, or why the reply cannot be scored (`neurorit.core.endpoint.replies.Unread`).
    """

    system: str
    condition: str
    id: str
    error: str
    reason: str = "failed"


def source_of(
    system: System, plan: Plan, generate: Generate | None, calls: CallSettings, chunk_size: int
) -> Source:
    """Where a system's answers come from."""

    def local(indices: list[int]) -> _Batches:
        if generate is None:
            raise BadInput(f"system {system.name} is a checkpoint, but no engine was given")
        # Neighbours begin alike, so that what they share is computed once.
        ordered = sorted(indices, key=lambda i: tuple(plan.prompts[i].ids))
        for start in range(0, len(ordered), chunk_size):
            part = ordered[start : start + chunk_size]
            prompts = [list(plan.prompts[i].ids) for i in part]
            answered = 0
            for ended in generate(system.name, system.place, prompts):
                answered += len(ended)
                yield [(part[at], _read(completion)) for at, completion in ended]
            if answered != len(part):
                raise NeuroritError(
                    f"the engine gave {answered} answers to {len(part)} prompts of {system.name}"
                )

    def remote(indices: list[int]) -> _Batches:
        prompts = [plan.prompts[i] for i in indices]
        asked = ask_remote(system, prompts, max_tokens=plan.max_tokens, seed=plan.seed, calls=calls)
        with closing(asked):
            for at, reply in asked:
                yield [(indices[at], reply)]

    return local if system.kind == "checkpoint" else remote


def answer(
    system: System,
    plan: Plan,
    journal: Journal,
    store: Cache,
    source: Source,
    tell: Progress,
    bearable: float,
) -> tuple[int, list[Unanswered]]:
    """Bring every answer of one system into the journal.

    bearable: share of the system's answers that may be missing. Returns how many calls were made,
    and the places without an answer. Raises NeuroritError when more failed, after all others were
    made, or at once when the server is lost.
    """
    calls = plan.calls[system.name]
    places: dict[str, list[int]] = {}
    for i, key in enumerate(plan.keys[system.name]):
        if key not in journal.answered:
            places.setdefault(calls[i], []).append(i)
    args = (system, plan, places, journal, store, source, tell, bearable)
    if len(store.find(places)) == len(places):
        return _answer(*args)
    # Another run that shares the cache may be asking the same: what it pays for is found then.
    wait = f"{system.name}: another run with this cache asks it, waiting"
    with store.asking(plan.prints[system.name], lambda: tell(wait, 0, 0)):
        return _answer(*args)


def _answer(
    system: System,
    plan: Plan,
    places: Mapping[str, Sequence[int]],
    journal: Journal,
    store: Cache,
    source: Source,
    tell: Progress,
    bearable: float,
) -> tuple[int, list[Unanswered]]:
    """places: what to ask, by its hash -> the prompts that it answers."""
    keys, calls = plan.keys[system.name], plan.calls[system.name]
    known = {call: Reply.of(record) for call, record in store.find(places).items()}

    def lines(call: str, reply: Reply) -> Iterator[Prediction]:
        for i in places[call]:
            prompt = plan.prompts[i]
            shown = prompt.passages
            if reply.passages is not None:  # a gateway chose, and may have shown none
                shown = shown_by(prompt.example, reply)
            made = score(
                system.name, prompt.condition, prompt.example, shown, keys[i], reply.text, call
            )
            yield made.unread_as(reply.unread)

    journal.append(line for call, reply in known.items() for line in lines(call, reply))
    waiting = [held[0] for call, held in places.items() if call not in known]
    what = f"answers of {system.name}"
    done = len(calls) - sum(len(held) for call, held in places.items() if call not in known)
    tell(what, done, len(calls))
    begun = synced = time.perf_counter()
    failed: list[tuple[int, CallFailed]] = []
    in_a_row, answered = 0, bool(known) or done > 0
    # A run that stops here leaves no call and no connection behind.
    with closing(source(waiting)) as batches:
        for batch in batches:
            fresh = {calls[i]: r.record() for i, r in batch if isinstance(r, Reply)}
            good = {call: Reply.of(record) for call, record in store.keep(fresh).items()}
            now = time.perf_counter()
            # A killed process loses nothing that was written; the disk is waited for at times.
            sync = now - synced > 1.0
            synced = now if sync else synced
            journal.append((line for c, r in good.items() for line in lines(c, r)), sync=sync)
            done += sum(len(places[call]) for call in good)
            tell(what, done, len(calls))
            for i, reply in batch:
                if isinstance(reply, CallFailed):
                    failed.append((i, reply))
                    in_a_row += not (answered and reply.of_this_request)
                    if reply.of_every_request or in_a_row >= _LOST:
                        raise _too_many(system, plan, failed, len(waiting), "stopped after")
                else:
                    in_a_row, answered = 0, True
    # In the order of the run: which call ends first is chance.
    failed.sort(key=lambda one: one[0])
    missing = [(i, error) for first, error in failed for i in places[calls[first]]]
    missing.sort(key=lambda one: one[0])
    if len(missing) > bearable * len(calls):
        raise _too_many(system, plan, failed, len(waiting), "without an answer:")
    store.note_pace(plan.prints[system.name], len(waiting), time.perf_counter() - begun)
    return len(waiting) - len(failed), [
        Unanswered(system.name, plan.prompts[i].condition, plan.prompts[i].example.id, str(error))
        for i, error in missing
    ]


def _read(completion: Completion) -> Reply:
    """An engine's completion, whose end it may not tell."""
    reply = read_reply(completion.text, getattr(completion, "finish_reason", None))
    return Reply(reply.text, unread=reply.unread)


def shown_by(example: Any, reply: Reply) -> list[Passage]:
    """The passages that a gateway showed its model, gold where the example says so."""
    gold = gold_ids(example)
    return [
        Passage(str(p["id"]), p["title"], p["text"], "gold" if str(p["id"]) in gold else None)
        for p in reply.passages or ()
    ]


def _too_many(
    system: System, plan: Plan, failed: Sequence[tuple[int, CallFailed]], of: int, how: str
) -> NeuroritError:
    first, error = failed[0]
    prompt = plan.prompts[first]
    return NeuroritError(
        f"system {system.name}, {how} {len(failed)} of {of} calls failed, first on question "
        f"{prompt.example.id!r} under {prompt.condition}: {error}; the answers so far are kept: "
        "run again with the same ‹out› to go on (‹max_unscored› bears some)"
    )
