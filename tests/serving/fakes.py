"""A retriever by word overlap and an upstream that answers from a script, for unit tests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from retrieval.errors import BadInput
from retrieval.examples import Passage
from serving.client import CompletionClient

PASSAGES = (
    Passage("p1", "Mira Solden", "Mira Solden was born in Karvel."),
    Passage("p2", "Mira Soldar", "Mira Soldar was born in Tolm."),
    Passage("p3", "Glass", "<script>document.title='owned'</script> Glass is <b>brittle</b>."),
    Passage("p4", "Edo Varn", "Edo Varn works as a glassblower."),
)


@dataclass(frozen=True)
class Hit:
    passage: Passage
    score: float
    rank: int


class WordRetriever:
    """Ranks the passages by how many of the query's words they hold.

    As a variant, only those whose title is the filter's; it knows the mode `dense` alone.
    """

    passages = PASSAGES
    title: str | None = None

    def variant(self, mode: str = "", filters: Mapping[str, str] | None = None) -> WordRetriever:
        if mode not in ("", "dense"):
            raise BadInput(f"search: {mode} is not loaded here")
        made = WordRetriever()
        made.title = (filters or {}).get("title")
        return made

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [self._one(query, k) for query in queries]

    def _one(self, query: str, k: int) -> list[Hit]:
        words = set(query.lower().strip("?").split()) or {""}
        scored = [
            (len(words & set(f"{p.title} {p.text}".lower().strip(".").split())) / len(words), p)
            for p in PASSAGES
            if self.title in (None, p.title)
        ]
        scored.sort(key=lambda pair: -pair[0])
        return [Hit(p, score, rank) for rank, (score, p) in enumerate(scored[:k], start=1)]


@dataclass
class Upstream:
    """Plays vLLM's `/v1/completions`: one scripted answer (a list of pieces) per request.

    status: answer all requests with that error; cut: break off in the middle; forever: the
    last answer is given again and again.
    """

    answers: list[list[str]]
    status: int = 200
    cut: bool = False
    forever: bool = False
    requests: list[dict[str, object]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def client(self) -> CompletionClient:
        transport = httpx.MockTransport(self._answer)
        return CompletionClient("http://upstream", "secret", "tiny", transport=transport)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(json.loads(request.content))
        self.keys.append(request.headers["authorization"])
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no room\nleft"}})
        pieces = self.answers[-1] if self.forever else self.answers.pop(0)
        if not self.requests[-1].get("stream"):
            if self.cut:
                raise httpx.RemoteProtocolError("the connection was cut")
            choice = {"text": "".join(pieces), "finish_reason": "stop"}
            return httpx.Response(200, json={"choices": [choice]})
        lines = list(self._lines(pieces))
        return httpx.Response(200, text="".join(lines))

    def _lines(self, pieces: list[str]) -> Iterator[str]:
        for i, piece in enumerate(pieces):
            reason = "stop" if i == len(pieces) - 1 else None
            record = {"choices": [{"text": piece, "finish_reason": reason}]}
            yield f"data: {json.dumps(record)}\n\n"
        if not self.cut:
            yield "data: [DONE]\n\n"
