"""A judge behind any OpenAI-compatible endpoint.

It asks for one token with its alternatives and compares Yes with No; where an endpoint gives no
probabilities it reads the text. A call that keeps failing leaves its answer unscored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from eval.judge import DEFAULT_PROMPT, Item, Verdict, judge_turn

_RETRIED = {408, 409, 425, 429}


class EndpointJudge:
    """Asks `{base_url}/chat/completions`, several items at a time.

    base_url ends in /v1. retries: further attempts after a timeout, a broken reply, 429 or 5xx,
    each after twice the pause (seconds). A refused request (other 4xx) is not repeated, except
    once without log-probabilities, which some servers do not offer.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        template: str = DEFAULT_PROMPT,
        timeout: float = 30.0,
        retries: int = 3,
        pause: float = 0.5,
        concurrency: int = 8,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = model
        self.fingerprint = f"{base_url.rstrip('/')}#{model}#{template}"
        self._template = template
        self._retries = retries
        self._pause = pause
        self._concurrency = concurrency
        self._log_probabilities = True
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(
            base_url=base_url.rstrip("/"), headers=headers, timeout=timeout, transport=transport
        )

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """Right, wrong or, after the last retry, unscored."""
        verdicts: list[Verdict] = []
        with ThreadPoolExecutor(self._concurrency) as pool:
            for verdict in pool.map(self._ask, items):
                verdicts.append(verdict)
                if progress is not None:
                    progress(len(verdicts), len(items))
        return verdicts

    def _ask(self, item: Item) -> Verdict:
        attempt = 0
        while True:
            with_log_probabilities = self._log_probabilities
            try:
                reply = self._http.post(
                    "/chat/completions", json=self._request(item, with_log_probabilities)
                )
                if reply.status_code == 400 and with_log_probabilities:
                    self._log_probabilities = False
                    continue
                if reply.is_success:
                    verdict = read_reply(reply.json())
                    if verdict is not None:
                        return verdict
                elif reply.status_code < 500 and reply.status_code not in _RETRIED:
                    return "unscored"
            except (httpx.HTTPError, ValueError):
                pass  # a timeout, a dropped connection or no JSON: tried again below
            if attempt == self._retries:
                return "unscored"
            time.sleep(self._pause * 2**attempt)
            attempt += 1

    def _request(self, item: Item, log_probabilities: bool) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": judge_turn(self._template, item)}],
            "max_tokens": 1,
            "temperature": 0,
        }
        return request | ({"logprobs": True, "top_logprobs": 20} if log_probabilities else {})


def read_reply(reply: Any) -> Verdict | None:
    """The verdict in a chat completion: by the first token's alternatives, else by its text."""
    try:
        choice = reply["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        alternatives = content[0]["top_logprobs"] if content else []
        mass = {"yes": 0.0, "no": 0.0}
        for alternative in alternatives:
            word = alternative["token"].strip().lower()
            if word in mass:
                mass[word] += math.exp(min(0.0, float(alternative["logprob"])))
        if mass["yes"] != mass["no"]:
            return "right" if mass["yes"] > mass["no"] else "wrong"
        text = str(choice["message"]["content"] or "").strip().lower()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return None
    if text.startswith("yes"):
        return "right"
    return "wrong" if text.startswith("no") else None
