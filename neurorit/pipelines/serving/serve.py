"""serve and ask: the gateway in the foreground, and one question to a running one."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.errors import BadInput, NeuroritError

if TYPE_CHECKING:
    from neurorit.data.examples import Passage
    from neurorit.serving.gateway.asking import Support
    from neurorit.serving.settings import ServeSettings

_SECONDS = 300.0
_JUDGE_SECONDS = 10.0
JUDGE_KEY = "NEURORIT_JUDGE_KEY"


def serve(model: Path, index: Path, settings: ServeSettings) -> Mapping[str, Any]:
    """Serve until interrupted; returns what was served."""
    from neurorit.serving.gateway.server import run_server

    # Registered before all that is loaded: it runs after what that has registered.
    atexit.register(end_quietly)
    run_server(
        model,
        index,
        settings,
        tell=lambda line: print(line, file=sys.stderr, flush=True),
        support=support_of_server(settings.judge),
    )
    return {"served": str(model), "index": str(index)}


def support_of_server(judge: str) -> Support | None:
    """What marks unsupported sentences with the judge at URL/v1#MODEL; None without one.

    A judge that does not answer in time leaves a sentence as its words say.
    """
    if not judge:
        return None
    from neurorit.core.endpoint.call_settings import CallSettings
    from neurorit.eval.judges.endpoint import EndpointJudge
    from neurorit.eval.judges.support import Answered, judge_support

    url, _, model = judge.partition("#")
    if not model or "://" not in url or "@" in url:
        raise BadInput(f"‹judge={judge}›: write URL/v1#MODEL, and its key into {JUDGE_KEY}")
    asked = EndpointJudge(
        url,
        model,
        api_key=os.environ.get(JUDGE_KEY) or None,
        calls=CallSettings(timeout=_JUDGE_SECONDS, retries=0),
    ).of_support()

    def mark(question: str, answer: str, passages: Sequence[Passage]) -> Sequence[tuple[int, int]]:
        spans, _ = judge_support(asked, [Answered(question, answer, passages)])
        asked.forget()  # a server runs for long
        return spans[0]

    return mark


def end_quietly() -> None:
    """Let nothing more stand on stderr: libraries in C count there what they did not clean up."""
    sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def ask(question: str, url: str, api_key_file: Path | None = None) -> dict[str, Any]:
    """The gateway's answer with its passages; raises NeuroritError when it gives none."""
    import httpx

    from neurorit.core.endpoint.replies import error_message, read_piece
    from neurorit.serving.middleware.auth import read_api_keys

    keys = sorted(read_api_keys(api_key_file))

    try:
        response = httpx.post(
            f"{url.rstrip('/')}/v1/chat/completions",
            json={"messages": [{"role": "user", "content": question}]},
            headers={"Authorization": f"Bearer {keys[0]}"} if keys else {},
            timeout=_SECONDS,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NeuroritError(
            f"no gateway answers at {url} ({error}); start one with `neurorit-rag serve`"
        ) from error
    try:
        body = response.json()
        if response.status_code != 200:
            raise NeuroritError(f"the gateway at {url} refused: {error_message(body)}")
        found = body["neurorit"]
        return {
            "question": question,
            "answer": read_piece(body).text,
            "abstained": found["abstained"],
            "passages": found["passages"],
            "sources": ", ".join(p["title"] for p in found["passages"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise NeuroritError(
            f"{url} answered with status {response.status_code}, but not as a gateway does"
        ) from error
