"""Asks a gateway many questions and measures: how many, how long, until the first word.

Requests are sent by a clock (so many a second) or by so many clients that each wait for their
answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.serving.gateway.connection_limits import allow_many

Send = Callable[[int], Awaitable["Answered"]]
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Answered:
    """One request: its status (0: no answer), seconds in all, to the first word, in retrieval."""

    status: int
    seconds: float
    first: float | None = None
    retrieval: float | None = None


@dataclass
class Load:
    """All answers of a run and how long the run took, in seconds."""

    answers: list[Answered] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def statuses(self) -> dict[int, int]:
        """How many answers of each status."""
        return dict(sorted(Counter(answer.status for answer in self.answers).items()))

    @property
    def good(self) -> list[Answered]:
        """Answers with status 200."""
        return [answer for answer in self.answers if answer.status == 200]

    @property
    def per_second(self) -> float:
        """Good answers a second."""
        return len(self.good) / self.seconds if self.seconds else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures as one record; times in milliseconds."""
        found: dict[str, Any] = {
            "requests": len(self.answers),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "seconds": round(self.seconds, 3),
            "answers_per_second": round(self.per_second, 2),
        }
        for name, values in (
            ("total_ms", [a.seconds for a in self.good]),
            ("first_token_ms", [a.first for a in self.good if a.first is not None]),
            ("retrieval_ms", [a.retrieval for a in self.good if a.retrieval is not None]),
        ):
            if values:
                found[name] = {f"p{p}": round(1000 * percentile(values, p), 2) for p in PERCENTILES}
        return found


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least `percent` per cent of all do not exceed."""
    if not values:
        raise BadInput("there is no answer to measure")
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


async def by_clients(send: Send, requests: int, clients: int) -> Load:
    """`requests` in all, by clients that each send the next one when they have their answer."""
    load, numbers = Load(), iter(range(requests))
    started = time.perf_counter()

    async def client() -> None:
        for number in numbers:
            load.answers.append(await send(number))

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - started
    return load


async def by_clock(send: Send, rate: float, seconds: float, seed: int = 0) -> Load:
    """Requests at random moments, `rate` a second on average, whoever is still waiting."""
    load, rng = Load(), random.Random(seed)
    tasks: set[asyncio.Task[None]] = set()
    started = time.perf_counter()
    moment, number = 0.0, 0

    async def one(number: int) -> None:
        load.answers.append(await send(number))

    while (moment := moment + rng.expovariate(rate)) < seconds:
        delay = moment - (time.perf_counter() - started)
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(one(number))
        number += 1
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - started
    return load


class Asker:
    """Sends questions in turn to one gateway; use it as an async context manager.

    stream: measure the first word too; options: further fields of each request; connections: so
    many at most (0: as many as the system allows).
    """

    def __init__(
        self,
        url: str,
        questions: Sequence[str],
        *,
        key: str = "",
        stream: bool = True,
        options: dict[str, Any] | None = None,
        connections: int = 0,
    ) -> None:
        self._connections = connections
        self._bodies = [
            orjson.dumps(
                {
                    "messages": [{"role": "user", "content": question}],
                    "stream": stream,
                    **(options or {}),
                }
            )
            for question in questions
        ]
        self._stream = stream
        self._url = url
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    async def __aenter__(self) -> Asker:
        # What measures a server must cost far less than the server.
        self._http = aiohttp.ClientSession(
            # One that waits here for a free connection waits on its own clock too.
            connector=aiohttp.TCPConnector(limit=self._connections or allow_many()),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=300.0),
        )
        return self

    async def __aexit__(self, *details: object) -> None:
        await self._http.close()

    async def check(self) -> None:
        """Raise NeuroritError with the gateway's own words when it does not answer one question."""
        try:
            async with self._post(0) as response:
                text, status = await response.text(), response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NeuroritError(
                f"no gateway answers at {self._url} ({type(error).__name__}); "
                "start one with `neurorit-rag serve`"
            ) from error
        if status != 200:
            raise NeuroritError(f"the gateway refused: {text[:300]}")

    async def send(self, number: int) -> Answered:
        """Ask question `number` (in turn)."""
        started = time.perf_counter()
        first = retrieval = None
        try:
            async with self._post(number) as response:
                status = response.status
                retrieval = _retrieval(response.headers.get("server-timing", ""))
                if not self._stream or status != 200:
                    await response.read()
                    return Answered(status, time.perf_counter() - started, None, retrieval)
                async for line in response.content:
                    if first is None and b'"content":"' in line:
                        first = _first(line, started)
                    if b'"error":{' in line:
                        status = 502
        except (aiohttp.ClientError, TimeoutError):
            return Answered(0, time.perf_counter() - started)
        return Answered(status, time.perf_counter() - started, first, retrieval)

    def _post(self, number: int) -> Any:
        body = self._bodies[number % len(self._bodies)]
        url = f"{self._url}/v1/chat/completions"
        return self._http.post(url, data=body, allow_redirects=False)


def _first(line: bytes, started: float) -> float | None:
    """Seconds to the first chunk that holds a word; the opening one has an empty text."""
    return None if b'"content":""' in line else time.perf_counter() - started


def _retrieval(timing: str) -> float | None:
    name, _, milliseconds = timing.partition(";dur=")
    return float(milliseconds) / 1000 if name == "retrieval" and milliseconds else None
