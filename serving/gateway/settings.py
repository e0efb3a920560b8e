"""What `neurorit-rag serve` can be told. Pure data: it starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from neurorit.core.errors import BadInput
from neurorit.retrieval.retriever import SearchSettings
from neurorit.serving.backends.backend import UPSTREAM_APIS
from neurorit.serving.gateway.app import MAX_TOKENS
from neurorit.serving.middleware.auth import MAX_BODY
from neurorit.serving.middleware.concurrency_limit import PATIENCE_SECONDS
from neurorit.serving.rag.pipeline import Policy


@dataclass(frozen=True)
class ServeSettings:
    """Everything `neurorit-rag serve` can be told.

    host, port: where the gateway listens (port 0: a free one); top_k: passages in a prompt; policy:
    what follows an empty answer; max_tokens: of an answer, where a request names none;
    max_model_len: tokens of prompt and answer (None: the checkpoint's); served_name: the model's
    name for clients (None: the directory's); api_key_file: keys for `/v1/`, one a line; vllm_args:
    vLLM's own flags; vllm_log: where its output goes (None: a temporary file); upstream: addresses
    of running servers of the model, in place of an own vLLM; upstream_key_file: their key; base: a
    second system for comparisons, a checkpoint or the address of a running server; history:
    earlier questions that a search sees; requests_per_minute: of one client (0: any number);
    drain_seconds: how long a server that was told to end finishes what it has begun;
    search: how passages are found; ray: a cluster that holds the index (None: this process);
    running, queue: requests answered at once, and waiting at most; queue_seconds: how long;
    max_tokens_limit: of an answer that a request may ask for; max_body: bytes of a request;
    connections: of clients at once, idle ones too; request_seconds: for a request to arrive whole;
    upstream_model: the upstreams' name for the model (empty: the first that they list);
    upstream_api: what they are asked with, `completions` (token ids, as vLLM takes) or `chat`;
    allowed_hosts: names, beside this machine's own, that one on loopback without keys answers to.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    top_k: int = 4
    policy: Policy = "abstain"
    max_tokens: int = 64
    max_model_len: int | None = None
    served_name: str | None = None
    api_key_file: Path | None = None
    vllm_args: tuple[str, ...] = ()
    vllm_log: Path | None = None
    upstream: tuple[str, ...] = ()
    upstream_key_file: Path | None = None
    base: str | None = None
    history: int = 0
    requests_per_minute: int = 0
    drain_seconds: int = 60
    search: SearchSettings = field(default_factory=SearchSettings)
    ray: str | None = None
    running: int = 64
    queue: int = 16
    queue_seconds: float = PATIENCE_SECONDS
    max_tokens_limit: int = MAX_TOKENS
    max_body: int = MAX_BODY
    connections: int = 1024
    request_seconds: float = 30.0
    upstream_model: str = ""
    upstream_api: str = "completions"
    allowed_hosts: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise BadInput for settings that do not go together."""
        if self.upstream and self.vllm_args:
            raise BadInput("flags for vLLM go to an own vLLM; leave them out beside --upstream")
        if self.upstream_api not in UPSTREAM_APIS:
            raise BadInput(f"--upstream-api {self.upstream_api}: completions or chat")
        if self.vllm_args and not self.vllm_args[0].startswith("-"):
            raise BadInput(f"{self.vllm_args[0]!r} is no flag for vLLM; those stand after ` -- `")
        if self.max_tokens > self.max_tokens_limit:
            raise BadInput(
                f"--max-tokens {self.max_tokens}: more than --max-tokens-limit "
                f"{self.max_tokens_limit}; raise that too"
            )
