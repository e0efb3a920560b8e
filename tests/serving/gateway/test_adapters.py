"""Adapters over HTTP: who may change them, who answers, and what is compared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurorit.model.prompts import PromptTemplate
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.lora import Lora, read_lora
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.middleware.auth import WRONG_KEYS, Keys
from neurorit.serving.rag.pipeline import RagPipeline
from tests.serving.fakes import Upstream, WordRetriever
from tests.serving.loras import save_lora
from tests.serving.tiny_llama import save_tiny_llama, tiny_tokenizer

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Where was Mira born?"}]}
ADMIN, USER = "sk-admin", "sk-user"


class Engine:
    async def load(self, lora: Lora) -> None:
        pass

    async def unload(self, lora: Lora) -> None:
        pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def lora(model: Path, tmp_path: Path) -> Path:
    return save_lora(tmp_path / "lora", model)


def served(
    model: Path,
    upstream: Upstream,
    work: Callable[[httpx.AsyncClient], Awaitable[None]],
    *named: Lora,
    keys: Keys | None = None,
) -> None:
    """Do the work with a client of a gateway whose engine holds the named adapters."""

    async def both() -> None:
        made = RagPipeline(WordRetriever(), tiny_tokenizer(), PromptTemplate(), upstream.client())
        gateway = Gateway("tiny", "ready", made)
        gateway.digests["tiny"] = "0123"
        gateway.adapters = Adapters(model, Engine(), named, most=2)
        app = create_app(gateway, api_keys=keys or Keys([USER], ADMIN))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            await work(client)

    asyncio.run(both())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_an_adapter_is_added_asked_and_removed(model: Path, lora: Path) -> None:
    upstream = Upstream([["Karvel"]], forever=True)

    async def work(client: httpx.AsyncClient) -> None:
        client.headers.update(bearer(ADMIN))
        body = {"name": "city", "directory": str(lora)}
        added = (await client.post("/v1/adapters", json=body)).json()
        assert [(one["name"], one["rank"]) for one in added["data"]] == [("city", 3)]
        cards = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["tiny", "city"]
        assert cards[1]["parent"] == "tiny"
        assert cards[1]["neurorit"]["digest"] != cards[0]["neurorit"]["digest"]
        for stream in (False, True):
            asked = {**QUESTION, "model": "city", "stream": stream}
            answer = await client.post("/v1/chat/completions", json=asked)
            assert answer.status_code == 200
            assert "city" in answer.text
            assert str(upstream.requests[-1]["model"]).startswith("city@")
        await client.post("/v1/chat/completions", json=QUESTION)
        assert upstream.requests[-1]["model"] == "tiny"
        assert (await client.get("/ready")).json()["adapters"] == ["city"]
        assert (await client.delete("/v1/adapters/city")).json()["data"] == []
        gone = await client.post("/v1/chat/completions", json={**QUESTION, "model": "city"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")

    served(model, upstream, work)


def test_only_the_admin_changes_them(model: Path, lora: Path) -> None:
    body = {"name": "city", "directory": str(lora)}

    async def as_user(client: httpx.AsyncClient) -> None:
        for headers, status in ((bearer(USER), 403), (bearer("wrong"), 401), ({}, 401)):
            for method, path in (("POST", "/v1/adapters"), ("DELETE", "/v1/adapters/city")):
                refused = await client.request(method, path, json=body, headers=headers)
                assert refused.status_code == status
        assert (await client.get("/v1/adapters", headers=bearer(USER))).status_code == 200
        assert (await client.get("/v1/adapters")).status_code == 401

    async def with_no_admin(client: httpx.AsyncClient) -> None:
        refused = await client.post("/v1/adapters", json=body, headers=bearer(USER))
        assert refused.status_code == 403
        assert "--admin-key-file" in refused.json()["error"]["message"]

    served(model, Upstream([]), as_user)
    served(model, Upstream([]), with_no_admin, keys=Keys([USER]))
    served(model, Upstream([]), with_no_admin, keys=Keys())


def test_what_cannot_be_added_or_removed_is_refused_by_name(model: Path, lora: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        client.headers.update(bearer(ADMIN))
        for name, directory, said in (
            ("tiny", lora, "another model's name"),
            ("a b", lora, "a name is of letters"),
            ("x", lora.parent / "absent", "no such folder"),
        ):
            body = {"name": name, "directory": str(directory)}
            refused = await client.post("/v1/adapters", json=body)
            assert refused.status_code == 400
            assert said in refused.json()["error"]["message"]
        assert (await client.delete("/v1/adapters/absent")).status_code == 404

    served(model, Upstream([]), work)


def test_an_adapter_is_compared_with_its_base_by_one_engine(model: Path, lora: Path) -> None:
    upstream = Upstream([["Karvel"]], forever=True)

    async def work(client: httpx.AsyncClient) -> None:
        client.headers.update(bearer(USER))
        body = {"question": "Where was Mira Solden born?", "top_k": 1}
        for named in ({}, {"model": "city"}):
            found = (await client.post("/v1/rag/compare", json=body | named)).json()
            assert [side["model"] for side in found["systems"]] == ["tiny", "city"]
            models = sorted(str(asked["model"])[:5] for asked in upstream.requests[-2:])
            assert models == ["city@", "tiny"]
        absent = await client.post("/v1/rag/compare", json={**body, "model": "absent"})
        assert absent.status_code == 404

    served(model, upstream, work, read_lora("city", lora, model))


def test_wrong_keys_have_a_limit_that_holds_nobody_else_back(model: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        async def status(key: str) -> int:
            return (await client.get("/v1/models", headers=bearer(key))).status_code

        tried = [await status(f"wrong-{number}") for number in range(WRONG_KEYS + 2)]
        assert tried == [401] * WRONG_KEYS + [429] * 2
        assert await status(USER) == 200

    served(model, Upstream([]), work)


def test_keys_that_are_replaced_hold_from_the_next_request_on(model: Path) -> None:
    keys = Keys([USER])

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/v1/models", headers=bearer(USER))).status_code == 200
        keys.replace(["sk-new"])
        assert (await client.get("/v1/models", headers=bearer(USER))).status_code == 401
        assert (await client.get("/v1/models", headers=bearer("sk-new"))).status_code == 200

    served(model, Upstream([]), work, keys=keys)
