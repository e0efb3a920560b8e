"""A retriever by word overlap and an upstream that answers from a script, for unit tests.

The upstream is a real HTTP server on loopback, since that is what the client talks to.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from neurorit.core.endpoint.replies import Piece
from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.serving.backends.openai_client import CompletionClient

KEY = "sk-test-7f3a"
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


class OneAtATime(CompletionClient):
    """A client with connections for each request, since each of a TestClient has its own loop."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._given = given

    async def stream(self, *asked: Any, **options: Any) -> AsyncGenerator[Piece, None]:
        async with (
            CompletionClient(*self._given) as own,
            aclosing(own.stream(*asked, **options)) as pieces,
        ):
            async for piece in pieces:
                yield piece


@dataclass
class Upstream:
    """Plays vLLM's `/v1/completions`: one scripted answer (a list of pieces) per request.

    status: answer all requests with that error; cut: break off in the middle; forever: the
    last answer is given again and again; reason, stop_reason: what ends an answer; context: what
    it says to take.
    """

    answers: list[list[str]]
    status: int = 200
    cut: bool = False
    forever: bool = False
    reason: str = "stop"
    stop_reason: str | None = None
    context: int | None = None
    requests: list[dict[str, object]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    def client(self, key: str = "secret") -> CompletionClient:
        return OneAtATime(self.url, key, "tiny")

    @cached_property
    def url(self) -> str:
        """Where it listens, from now on."""
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                upstream.keys.append(self.headers.get("Authorization"))
                upstream.requests.append(given)
                upstream._answer(self)

            def do_GET(self) -> None:
                card = {"id": "tiny", "max_model_len": upstream.context}
                refused = {"error": {"message": "no room left"}}
                body = {"data": [card]} if upstream.status == 200 else refused
                upstream._send(self, json.dumps(body))

            def log_message(self, *given: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if self.status != 200:
            self._send(handler, json.dumps({"error": {"message": "no room\nleft"}}))
            return
        pieces = self.answers[-1] if self.forever else self.answers.pop(0)
        chat = handler.path.endswith("/chat/completions")
        if self.requests[-1].get("stream"):
            self._send(handler, "".join(self._lines(pieces, chat)))
        elif self.cut:
            handler.close_connection = True
        else:
            choice = self._choice("".join(pieces), chat, "message") | self._end()
            self._send(handler, json.dumps({"choices": [choice]}))

    def _send(self, handler: BaseHTTPRequestHandler, body: str) -> None:
        with contextlib.suppress(ConnectionError):  # some clients wait no longer
            handler.send_response(self.status)
            handler.end_headers()
            handler.wfile.write(body.encode())

    def _end(self) -> dict[str, Any]:
        return {"finish_reason": self.reason, "stop_reason": self.stop_reason}

    def _choice(self, text: str, chat: bool, part: str) -> dict[str, Any]:
        return {part: {"content": text}} if chat else {"text": text}

    def _lines(self, pieces: list[str], chat: bool) -> Iterator[str]:
        records: list[dict[str, Any]] = [
            {"choices": [self._choice(piece, chat, "delta") | {"finish_reason": None}]}
            for piece in pieces
        ]
        records[-1]["choices"][0] |= self._end()
        if self.requests[-1].get("stream_options") and not self.cut:
            # As vLLM does: the count comes in a record without choices.
            records.append({"choices": [], "usage": {"completion_tokens": len(pieces)}})
        for record in records:
            yield f"data: {json.dumps(record)}\n\n"
        if not self.cut:
            yield "data: [DONE]\n\n"
