"""One vLLM for all slow tests of serving, since each start costs a minute; a scripted gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from neurorit.model.prompts import PromptTemplate
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
