"""Who answers at an address: what a server says of its model, so that a changed one is noticed.

An address is no identity: another checkpoint may stand behind it tomorrow. A server of this project
gives a digest of its checkpoint and index; one on this machine names the folder of its weights,
which are hashed; another says at least its model's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import httpx

from neurorit.core.artifact import hash_model
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint
from neurorit.core.endpoint.replies import CallFailed, read_cards
from neurorit.core.endpoint.reply_cache import Cache, content_key

Known = Literal["weights", "name", "address"]
"""How much is known of a server's model: its weights, its name alone, or nothing."""

_CALLS = CallSettings(timeout=10.0, retries=2, pause=0.5)
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_STARTED = re.compile(r"^process_start_time_seconds\s+(\S+)", re.MULTILINE)
# `created` is left out: most servers put the moment of the question or of their start there.
_LASTING = ("id", "root", "parent", "revision", "digest", "meta", "neurorit")


class Identity(NamedTuple):
    """text: equal for equal models as far as the server can be known; known: how far that is."""

    text: str
    known: Known


_NOBODY = Identity("", "address")


def identify(url: str, model: str, key: str | None, cache: Cache | None = None) -> Identity:
    """Ask `url` (it ends in /v1) what it serves as `model` ("": its first one).

    A server that does not say so now is taken for the one that `cache` remembers at the address:
    a finished run can be read without it, and a hiccup does not make it another server.
    """
    place = content_key("identity", url, model)
    found = _ask(url, model, key)
    if cache is None:
        return found or _NOBODY
    if found is None:
        held = cache.find([place]).get(place)
        return Identity(held["text"], held["known"]) if held else _NOBODY
    cache.replace(place, found._asdict())
    return found


def warning(name: str, identity: Identity) -> str | None:
    """What a person should know of a system whose weights cannot be told, or None."""
    if identity.known == "weights":
        return None
    told = "says only its model's name" if identity.known == "name" else "does not say what it is"
    return (
        f"{name}: the server {told}; when its model changes behind the same address, take another "
        "--out and --cache, or old answers come back"
    )


def _ask(url: str, model: str, key: str | None) -> Identity | None:
    card = _card(url, model, key)
    if card is None:
        return None
    lasting: dict[str, Any] = {name: card[name] for name in _LASTING if card.get(name)}
    weights = _weights(url, card)
    if card.get("owned_by") == "vllm":
        template = _template(url, str(card["id"]), key)
        lasting |= {"template": template} if template else {}
        started = _started(url)
        changed = _changed(_root(url, card))
        if weights and started and changed and changed > started:
            # What answers is not what stands in the folder now, and no longer to be found.
            weights, lasting["started"] = None, started
    if weights:
        lasting["weights"] = weights
    said = json.dumps(lasting, sort_keys=True, ensure_ascii=False)
    return Identity(said, "weights" if weights else "name")


def _card(url: str, model: str, key: str | None) -> Mapping[str, Any] | None:
    """The model's entry in the server's list; None where there is none to be had."""
    with Endpoint(url, api_key=key, settings=_CALLS) as endpoint:
        try:
            cards = endpoint.get("models", read_cards)
        except CallFailed:
            return None
    return next((card for card in cards if model in ("", card["id"])), None)


def _weights(url: str, card: Mapping[str, Any]) -> str | None:
    """A digest of the weights behind a model's card, where there is one to be had."""
    ours = card.get("neurorit")
    if isinstance(ours, Mapping) and ours.get("digest"):
        return str(ours["digest"])
    if card.get("digest"):
        return str(card["digest"])
    root = _root(url, card)
    return hash_model(root, *_TEMPLATES) if root else None


def _root(url: str, card: Mapping[str, Any]) -> Path | None:
    """The folder that vLLM says it was started with, where it is one of this machine."""
    root = Path(str(card.get("root") or ""))
    local = urlsplit(url).hostname in _LOCAL and root.is_absolute()
    return root if local and (root / "config.json").is_file() else None


def _changed(root: Path | None) -> float | None:
    """When something in a folder last changed, in seconds since 1970."""
    found = [path.stat() for path in root.iterdir() if path.is_file()] if root else []
    return max((max(one.st_mtime, one.st_ctime) for one in found), default=None)


def _started(url: str) -> float | None:
    """When a vLLM server was started, by its metrics; None where it does not say."""
    try:
        text = httpx.get(f"{_bare(url)}/metrics", timeout=_CALLS.timeout).text
    except httpx.HTTPError:
        return None
    found = _STARTED.search(text)
    return float(found[1]) if found else None


def _template(url: str, model: str, key: str | None) -> str | None:
    """A digest of the token ids that a vLLM server makes of a chat: its template and tokenizer."""
    asked = {
        "model": model,
        "messages": [{"role": "user", "content": "Who?"}],
        # Templates that print the day would make another server of this one tomorrow.
        "chat_template_kwargs": {"date_string": "1 Jan 2026"},
    }
    with Endpoint(_bare(url), api_key=key, settings=_CALLS) as endpoint:
        try:
            return endpoint.post("tokenize", asked, lambda reply: content_key(reply["tokens"])[:16])
        except (CallFailed, KeyError, TypeError):
            return None


def _bare(url: str) -> str:
    """The address without its /v1, where a server keeps what is not OpenAI's."""
    return url.partition("?")[0].rstrip("/").removesuffix("/v1")
