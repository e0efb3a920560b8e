"""One vLLM for all slow tests of serving, since each start costs a minute; a scripted gateway."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from neurorit.model.prompts import PromptTemplate
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.lora import Lora, read_lora
from neurorit.serving.gateway.app import Gateway, create_app
from neurorit.serving.rag.pipeline import RagPipeline
from tests.serving.fakes import KEY, Upstream, WordRetriever
from tests.serving.listening import listening
from tests.serving.live import ADMIN, Live, gateway, vllm_address
from tests.serving.loras import save_lora
from tests.serving.tiny_llama import save_tiny_llama, tiny_tokenizer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of shutdown end the servers that the others share: they come last in any order."""
    items.sort(key=lambda item: item.path.name == "test_shutdown.py")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A gateway with a vLLM of its own."""
    folder = tmp_path_factory.mktemp("live")
    model = save_tiny_llama(folder / "tiny")
    named = [f"{name}={save_lora(folder / name, model, seed=i)}" for i, name in enumerate("ab")]
    with gateway(model, folder, *named, admin=ADMIN) as server:
        yield server


@pytest.fixture(scope="session")
def front(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A second gateway before the same vLLM, which it knows by its address."""
    url, key = vllm_address(live)
    with gateway(live.model, tmp_path_factory.mktemp("front"), url, key=key) as server:
        yield server


@pytest.fixture(scope="module")
def upstream() -> Upstream:
    """A model that answers every question alike."""
    return Upstream([["Kar", "vel"]], forever=True)


@pytest.fixture(scope="module")
def address(upstream: Upstream) -> Iterator[str]:
    """The address of a gateway before it, on a real port; its key is KEY."""
    pipeline = RagPipeline(WordRetriever(), tiny_tokenizer(), PromptTemplate(), upstream.client())
    with listening(create_app(Gateway("tiny", "ready", pipeline), api_keys=[KEY])) as url:
        yield url


class NoEngine:
    """Takes adapters and does nothing with them."""

    async def load(self, lora: Lora) -> None:
        pass

    async def unload(self, lora: Lora) -> None:
        pass


@pytest.fixture(scope="module")
def beside(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A gateway whose engine holds the adapter `city` beside its model `tiny`."""
    folder = tmp_path_factory.mktemp("models")
    model = save_tiny_llama(folder / "tiny")
    city = read_lora("city", save_lora(folder / "city", model), model)
    pipeline = RagPipeline(WordRetriever(), tiny_tokenizer(), PromptTemplate(), upstream.client())
    return Gateway("tiny", "ready", pipeline, adapters=Adapters(model, NoEngine(), [city], most=2))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install -y chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
