"""A real OpenAI-compatible server on this machine that counts what it is asked, for tests."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]
"""(HTTP status, JSON body or, as bytes, anything)"""


class ChatServer:
    """`asked` counts requests by the text of their user turn; `requests` holds all of them.

    `cards` is what `/v1/models` lists; without any the route does not exist. `routes` are further
    ones: path -> what is sent there, to any method; they are not counted.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply], seconds: float) -> None:
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.cards: list[dict[str, Any]] = []
        self.routes: dict[str, Any] = {}
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.startswith("/v1/"):
                    return self.do_GET()
                with outer.lock:
                    outer.asked[body["messages"][-1]["content"]] += 1
                    outer.requests.append(body)
                time.sleep(seconds)
                self.send(*answer(body))

            def do_GET(self) -> None:
                if not self.path.startswith("/v1/"):
                    known = self.path in outer.routes
                    return self.send(200 if known else 404, outer.routes.get(self.path, {}))
                self.send(200 if outer.cards else 404, {"object": "list", "data": outer.cards})

            def send(self, status: int, reply: Any) -> None:
                raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(raw)))
                    self.end_headers()
                    self.wfile.write(raw)
                except OSError:
                    self.close_connection = True  # the client was killed

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # the client was killed

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serving(
    answer: Callable[[dict[str, Any]], Reply], seconds: float = 0.0
) -> Iterator[ChatServer]:
    """A server for the time of the block; seconds: how long each answer takes."""
    server = ChatServer(answer, seconds)
    try:
        yield server
    finally:
        server.close()


def said(text: str, **more: Any) -> Reply:
    """A chat completion with this text."""
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}}], **more}
