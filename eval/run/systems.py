"""Systems under evaluation: a checkpoint, an OpenAI-compatible endpoint, or the running gateway.

A system says who it is and asks for answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from neurorit.core.artifact import MANIFEST, hash_model, read_manifest
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint, in_parallel, with_fields
from neurorit.core.endpoint.replies import CallFailed, Unread, read_piece, read_reply
from neurorit.core.errors import BadInput
from neurorit.eval.conditions import parse_condition
from neurorit.eval.run.rendering import Prompt

Kind = Literal["checkpoint", "endpoint", "gateway"]


class Completion(Protocol):
    """One answer of an engine; white space around the text does not count."""

    @property
    def text(self) -> str: ...


Generate = Callable[[str, Path, list[list[int]]], Iterable[Sequence[tuple[int, Completion]]]]
"""(system name, model directory, prompts as token ids) -> completions as they end, each with the
number of its prompt; those that end together come together."""


@dataclass(frozen=True)
class Reply:
    """An answer's text; passages: what a gateway showed its model, None where we chose them.

    unread: why it cannot be scored (`neurorit.core.endpoint.replies`).
    """

    text: str
    passages: tuple[Mapping[str, Any], ...] | None = None
    unread: Unread = ""

    def record(self) -> dict[str, Any]:
        """As a cache keeps it."""
        shown = None if self.passages is None else [*self.passages]
        return {"text": self.text, "passages": shown, "unread": self.unread}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Reply:
        """From what a cache kept."""
        shown = record.get("passages")
        unread: Unread = record.get("unread", "")
        return cls(str(record["text"]), None if shown is None else tuple(shown), unread)


@dataclass(frozen=True)
class System:
    """One system. model: directory of a checkpoint; url: an endpoint's (ends in /v1) or a gateway's
    address; remote: the model's name there ("" asks for none); key_variable: the environment
    variable that holds its key; request: further fields of every request; dtype: the number format
    that a checkpoint computes in, "" for the one it is stored in.
    """

    name: str
    kind: Kind
    model: Path | None = None
    url: str = ""
    remote: str = ""
    key_variable: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = ""

    @property
    def place(self) -> Path:
        """The directory of a checkpoint."""
        assert self.model is not None
        return self.model

    def check(self, conditions: Sequence[str]) -> None:
        """Raise BadInput for a folder without a model, or what a gateway cannot be asked."""
        if self.kind == "checkpoint":
            if not (self.place / "config.json").is_file():
                raise BadInput(f"no checkpoint at {self.place}: it has no config.json")
            if (self.place / MANIFEST).is_file():
                read_manifest(self.place, "checkpoint")
            return
        if not self.url.startswith(("http://", "https://")):
            raise BadInput(f"system {self.name}: {self.url!r} is no http address")
        if "@" in self.url.split("/")[2]:
            raise BadInput(
                f"system {self.name}: its address holds a name or password, which reports would "
                "show; put the key into an environment variable and name that"
            )
        if self.key_variable and self.key_variable not in os.environ:
            raise BadInput(f"system {self.name}: the variable {self.key_variable} is not set")
        for name in conditions if self.kind == "gateway" else ():
            condition = parse_condition(name)
            if condition.bare != "closed-book" and not condition.retrieved:
                raise BadInput(
                    f"system {self.name} is a gateway and retrieves by itself: ask it under "
                    f"closed-book and retrieved-K, not {name}"
                )

    def fingerprint(self) -> str:
        """Who answers, without asking: a checkpoint's digest, a server's address and model name."""
        if self.kind == "checkpoint":
            return hash_model(self.place)
        return f"{self.kind} {self.url.rstrip('/')}#{self.remote}"

    @property
    def api(self) -> str:
        """The address of a server's routes; it ends in /v1."""
        # A query, such as `?api-version=1`, stays behind the routes.
        path, mark, query = self.url.partition("?")
        path = path.rstrip("/")
        added = "/v1" if self.kind == "gateway" and not path.endswith("/v1") else ""
        return f"{path}{added}{mark}{query}"

    @property
    def key(self) -> str | None:
        """The key that a server wants, from its environment variable."""
        return os.environ.get(self.key_variable) if self.key_variable else None


def parse_system(text: str, key_variable: str = "") -> System:
    """NAME=DIR, NAME=http://HOST/v1#MODEL or NAME=gateway+http://HOST; raises BadInput."""
    name, equals, place = text.partition("=")
    if not name or not equals or not place:
        raise BadInput(f"‹system={text}›: write NAME=DIR, NAME=URL#MODEL or NAME=gateway+URL")
    if place.startswith("gateway+"):
        url = place.removeprefix("gateway+")
        return System(name, "gateway", url=url, key_variable=key_variable)
    if place.startswith(("http://", "https://")):
        url, _, remote = place.partition("#")
        return System(name, "endpoint", url=url, remote=remote, key_variable=key_variable)
    return System(name, "checkpoint", model=Path(place))


def ask_remote(
    system: System,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    seed: int,
    calls: CallSettings,
) -> Generator[tuple[int, Reply | CallFailed], None, None]:
    """(position, reply or why there is none) as answers arrive, for an endpoint or a gateway."""
    with Endpoint(system.api, api_key=system.key, settings=calls) as endpoint:

        def ask(prompt: Prompt) -> Reply:
            return endpoint.chat(request_of(system, prompt, max_tokens, seed), _read)

        yield from in_parallel(ask, prompts, calls.concurrency)


def request_of(system: System, prompt: Prompt, max_tokens: int, seed: int) -> dict[str, Any]:
    """The chat request for one prompt."""
    request = {**settings_of(system, max_tokens, seed)}
    if system.remote:
        request["model"] = system.remote
    content = prompt.turn
    if system.kind == "gateway":
        top_k = parse_condition(prompt.condition).count
        request["neurorit"] = {"top_k": top_k, "policy": "abstain"} | request.get("neurorit", {})
        content = prompt.question
    return request | {"messages": [{"role": "user", "content": content}]}


def settings_of(system: System, max_tokens: int, seed: int) -> dict[str, Any]:
    """What a server is asked with beside the prompt: greedy, unless the system's own fields differ.

    A field that the system sets to nothing (null) is left out, for servers that refuse it.
    """
    asked = {"max_tokens": max_tokens, "temperature": 0, "seed": seed}
    return with_fields(asked, system.request)


def _read(body: Any) -> Reply | None:
    """The answer in a chat completion; a gateway's words for an abstention become none."""
    try:
        whole = read_piece(body)
        text, unread = read_reply(whole.text, whole.finish_reason, whole.reasoning)
        ours = body.get("neurorit")
        if not ours:
            return Reply(text, unread=unread)
        kept = ({"id": p["id"], "title": p["title"], "text": p["text"]} for p in ours["passages"])
        return Reply("" if ours["abstained"] else text, tuple(kept), unread)
    except (KeyError, TypeError, ValueError):
        return None
