"""What a real gateway process writes, also about what fails: no key and no question of a user."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.serving.fakes import Upstream
from tests.serving.live import gateway
from tests.serving.run_gateway import BREAKS
from tests.serving.tiny_llama import save_tiny_llama

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KEY, UPSTREAM_KEY, WRONG = "sk-clients-4711", "sk-upstreams-4712", "sk-guessed-4713"
QUESTION = "What is my neighbour's secret?"


def test_a_gateways_output_holds_no_secret(tmp_path: Path) -> None:
    upstream = Upstream([["Karvel"]], forever=True)
    model = save_tiny_llama(tmp_path / "tiny")
    with gateway(model, tmp_path, upstream.url, key=UPSTREAM_KEY, api_keys=KEY) as server:

        def ask(key: str, question: str = QUESTION, **fields: object) -> int:
            body = {"messages": [{"role": "user", "content": question}], **fields}
            return httpx.post(
                f"{server.url}/v1/chat/completions",
                json=body,
                headers={"Authorization": f"Bearer {key}"},
                timeout=60,
            ).status_code

        assert ask(KEY) == 200
        assert upstream.keys[-1] == f"Bearer {UPSTREAM_KEY}"
        assert ask(WRONG) == 401
        assert ask(KEY, n=7) == 400
        assert ask(KEY, BREAKS) == 500
        upstream.status = 500
        assert ask(KEY) == 502
        assert ask(KEY, stream=True) == 502
    written = (tmp_path / "gateway.log").read_text()
    # The failure itself is there to be read.
    assert "RuntimeError: the retriever is broken" in written
    for secret in (KEY, UPSTREAM_KEY, WRONG, "Bearer", QUESTION, BREAKS):
        assert secret not in written
