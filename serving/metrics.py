"""What the gateway tells Prometheus: requests, retrieval, first text, abstentions, refusals.

One registry for each gateway, so that tests and several gateways in one process do not mix.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_PREFIX = "neurorit"


class Metrics:
    """The gateway's figures. Times are in seconds."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"{_PREFIX}_{name}", text, buckets=_SECONDS, registry=registry)

        self.requests = Counter(
            f"{_PREFIX}_requests", "Requests by route and status.", ["route", "status"],
            registry=registry,
        )  # fmt: skip
        self.running = Gauge(
            f"{_PREFIX}_requests_running", "Chats being answered.", registry=registry
        )
        self.waiting = Gauge(
            f"{_PREFIX}_requests_waiting", "Chats waiting for their turn.", registry=registry
        )
        self.connections = Gauge(
            f"{_PREFIX}_connections", "Connections of clients, idle ones too.", registry=registry
        )
        self.connections_refused = Counter(
            f"{_PREFIX}_connections_refused", "Connections beyond the limit.", registry=registry
        )
        self.queue = histogram("queue_seconds", "Waiting for a turn.")
        self.retrieval = histogram("retrieval_seconds", "Finding passages, waiting included.")
        self.retrieved = Histogram(
            f"{_PREFIX}_retrieval_batch", "Queries of one search.",
            buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry,
        )  # fmt: skip
        self.first_text = histogram("first_text_seconds", "Until the first words of an answer.")
        self.total = histogram("request_seconds", "A whole chat, its queue included.")
        self.abstained = Counter(
            f"{_PREFIX}_abstentions", "Answers that said the passages hold none.", registry=registry
        )
        self.upstream_errors = Counter(
            f"{_PREFIX}_upstream_errors", "Failures of the language model's server.",
            registry=registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """All figures in Prometheus' text form."""
        return generate_latest(self._registry)
