"""The client that systems, judges, teachers and encoders share."""

from __future__ import annotations

import httpx
import pytest

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint
from neurorit.core.endpoint.replies import CallFailed

QUICK = CallSettings(timeout=5.0, retries=2, pause=0.0)


def test_a_redirect_carries_no_prompt_and_no_key_elsewhere() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(307, headers={"Location": "http://elsewhere/v1/chat/completions"})

    transport = httpx.MockTransport(answer)
    endpoint = Endpoint("http://named/v1", api_key="k", settings=QUICK, transport=transport)
    with pytest.raises(CallFailed, match=r"HTTP 307: .*elsewhere.* is not followed") as caught:
        endpoint.chat({"messages": []}, lambda body: body)
    endpoint.close()
    assert caught.value.status == 307
    assert [request.url.host for request in asked] == ["named"]


def test_routes_stand_before_the_addresss_query() -> None:
    asked: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, json={"ok": 1})

    transport = httpx.MockTransport(answer)
    with Endpoint("http://named/v1?api-version=2", settings=QUICK, transport=transport) as endpoint:
        assert endpoint.get("models", lambda body: body["ok"]) == 1
    assert (asked[0].method, str(asked[0].url)) == (
        "GET",
        "http://named/v1/models?api-version=2",
    )
    assert asked[0].content == b""
