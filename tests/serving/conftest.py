"""One vLLM for all slow tests of serving, since each start of one costs a minute."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.live import Live, gateway, vllm_address
from tests.serving.tiny_llama import save_tiny_llama


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of shutdown end the servers that the others share: they come last in any order."""
    items.sort(key=lambda item: item.path.name == "test_shutdown.py")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A gateway with a vLLM of its own."""
    folder = tmp_path_factory.mktemp("live")
    with gateway(save_tiny_llama(folder / "tiny"), folder) as server:
        yield server


@pytest.fixture(scope="session")
def front(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A second gateway before the same vLLM, which it knows by its address."""
    url, key = vllm_address(live)
    with gateway(live.model, tmp_path_factory.mktemp("front"), url, key=key) as server:
        yield server
