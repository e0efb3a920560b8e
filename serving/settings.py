"""What `neurorit-rag serve` can be told. It imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Count, Positive, Settings, Within
from neurorit.retrieval.settings import SearchSettings

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?")
Policy = Literal["abstain", "closed-book", "deeper"]
UpstreamApi = Literal["completions", "chat"]


@dataclass(frozen=True)
class ServeSettings(Settings):
    """How the gateway serves."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Within(0, 65535)] = 8000
    """Port to listen on; 0: a free one."""
    top_k: AtLeastOne = 5
    """Passages for each question."""
    policy: Policy = "abstain"
    """What follows when the model abstains: that is the answer (abstain), its own knowledge
    (closed-book), or more passages (deeper)."""
    min_score: float | None = None
    """Where the best passage scores less, none is shown and the policy follows; `neurorit-rag
    calibrate` chooses it."""
    max_tokens: AtLeastOne = 64
    """Tokens of an answer, where a request names none."""
    max_model_len: AtLeastOne | None = None
    """Tokens of prompt and answer together; without, the checkpoint's, or those of short texts
    where it takes other positions for long ones."""
    served_name: str | None = None
    """The model's name for clients; its folder's by default."""
    api_key_file: Path | None = None
    """Keys that clients must send, one a line."""
    vllm_args: tuple[str, ...] = ()
    """Flags for vLLM itself."""
    vllm_log: Path | None = None
    """Where vLLM's output goes; without, a temporary file."""
    upstream: tuple[str, ...] = ()
    """Addresses of running vLLM servers of the model, in place of an own one."""
    upstream_key_file: Path | None = None
    """Their key; else NEURORIT_UPSTREAM_KEY."""
    base: str | None = None
    """A second model to compare with: a folder or an address."""
    adapters: tuple[str, ...] = ()
    """A LoRA that the own vLLM serves beside the model, as NAME=DIR."""
    max_adapters: Count = 0
    """Adapters at once; more than are named leaves room to add some while it serves."""
    max_adapter_rank: Annotated[int, Within(0, 512)] = 0
    """The largest rank of an adapter that may be added; 0: that of those named."""
    admin_key_file: Path | None = None
    """The key of who may add and remove adapters; else NEURORIT_ADMIN_KEY. Without, nobody may."""
    judge: str = ""
    """URL/v1#MODEL of a judge: asked about sentences of which their words do not say whether a
    passage supports them; its key in NEURORIT_JUDGE_KEY. Without, words alone say it."""
    history: Annotated[int, Within(0, 10)] = 0
    """Earlier questions that a search sees too."""
    requests_per_minute: Count = 0
    """Requests of one client in a minute; 0: any number."""
    lame_duck_seconds: Annotated[float, Within(0)] = 0.0
    """Seconds to go on serving after SIGTERM, while /ready says 503 so that balancers turn away."""
    index_seconds: Annotated[float, Within(0)] = 10.0
    """Seconds between two looks whether the index was updated; 0: only on SIGHUP."""
    drain_seconds: AtLeastOne = 60
    """Seconds to finish what has begun when told to end."""
    search: SearchSettings = field(default_factory=SearchSettings)
    """How passages are found."""
    in_memory: bool = False
    """Read the index's large files instead of mapping them: nobody can cut them short meanwhile."""
    ray: str | None = None
    """Search the index in actors of a Ray cluster: its address, auto or local."""
    running: AtLeastOne = 64
    """Chats answered at once."""
    queue: Count = 16
    """Chats that may wait; more get 429."""
    queue_seconds: Positive = 30.0
    """How long one may wait; then it gets 503."""
    max_tokens_limit: AtLeastOne = 4096
    """Tokens of an answer that a request may ask for."""
    max_body: Annotated[int, Within(1024)] = 1024 * 1024
    """Bytes of a request; a larger one gets 413."""
    connections: Annotated[int, Within(16)] = 1024
    """Connections of clients, idle ones too; more get 503."""
    request_seconds: Positive = 30.0
    """Seconds for a request to arrive whole; a slower one gets 408."""
    upstream_model: str = ""
    """The upstreams' name for the model; the first that they list by default."""
    upstream_api: UpstreamApi = "completions"
    """completions (token ids, as vLLM takes) or chat (messages only)."""
    allowed_hosts: tuple[str, ...] = ()
    """Names that it answers to on loopback without keys, beside this machine's own."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages elsewhere whose scripts may ask it, such as https://app.example."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies whose X-Forwarded-For says which client asks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.upstream and self.vllm_args:
            raise BadInput("flags for vLLM go to an own vLLM; leave them out beside ‹upstream›")
        if self.upstream and (self.adapters or self.max_adapters):
            raise BadInput(
                "adapters are loaded into an own vLLM; beside ‹upstream› leave ‹adapters› out"
            )
        if self.vllm_args and not self.vllm_args[0].startswith("-"):
            raise BadInput(f"{self.vllm_args[0]!r} is no flag for vLLM; those stand after ` -- `")
        for origin in self.allowed_origins:
            if not _ORIGIN.fullmatch(origin):
                raise BadInput(
                    f"‹allowed_origin={origin}›: an origin is a scheme and a name, such as "
                    "https://app.example, without a path; `*` would let every page ask"
                )
        if self.max_tokens > self.max_tokens_limit:
            raise BadInput(
                f"‹max_tokens={self.max_tokens}›: more than "
                f"‹max_tokens_limit={self.max_tokens_limit}›; raise that too"
            )
