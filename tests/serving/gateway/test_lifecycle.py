"""One run of the gateway, with systems that only play: who may fail, and what is told."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.examples import Passage
from neurorit.serving.backends.vllm_server import free_port
from neurorit.serving.gateway import lifecycle as running
from neurorit.serving.gateway.app import Gateway
from neurorit.serving.gateway.lifecycle import Running, systems_of
from neurorit.serving.gateway.server import ServeSettings, serve
from neurorit.serving.middleware.auth import Keys
from tests.serving.fakes import Hit, Upstream, WordRetriever
from tests.serving.tiny_llama import save_tiny_llama, tiny_tokenizer


class Playing:
    """A system with a scripted upstream; it fails at its start, or is said to be down later."""

    def __init__(self, name: str, folder: Path, failure: str = "") -> None:
        self.name, self.model_dir, self.failure = name, folder, failure
        self.generator = Upstream([["Karvel"]], forever=True).client()
        self.context, self.of_vllm, self.own = 4096, True, False
        self.tell: Callable[[str], None] = lambda phase: None

    async def start(self, tell: Callable[[str], None]) -> None:
        tell("starting vLLM")
        if self.failure:
            raise NeuroritError(self.failure)

    async def watch(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        tell("ready")
        await asyncio.Event().wait()

    def stop(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def searched(before: Any) -> WordRetriever:
    return WordRetriever()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Imported here, where no clock runs.
    from transformers import AutoTokenizer

    tiny_tokenizer().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tmp_path)
    return tmp_path


def run(
    systems: list[Any],
    work: Callable[[httpx.AsyncClient], Any],
    settings: ServeSettings | None = None,
    *,
    load: Callable[[Any], Any] | None = None,
    generation: Callable[[], str] | None = None,
    keys: Keys | None = None,
    told: list[str] | None = None,
) -> tuple[Gateway, list[str]]:
    told = [] if told is None else told
    gateway = Gateway("tuned", base_model="plain", base_phase="waiting for its turn to start")
    settings = settings or ServeSettings(port=0)
    running = Running(gateway, systems, settings, load or searched, told.append, generation)

    async def both() -> None:
        task = asyncio.create_task(running.run(keys or Keys()))
        async with asyncio.timeout(120):
            while not task.done() and not _address(told):
                await asyncio.sleep(0.01)
            if not task.done():
                async with httpx.AsyncClient(base_url=_address(told)) as client:
                    await work(client)
        if not task.done():
            signal.raise_signal(signal.SIGTERM)  # as it is ended in life
        await asyncio.wait([task])

    # uvicorn passes the signal on to whom it was meant for before.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        asyncio.run(both())
    finally:
        signal.signal(signal.SIGTERM, before)
    if running.failure is not None:
        raise running.failure
    return gateway, told


def _address(told: list[str]) -> str:
    return next((line.partition(": ")[2] for line in told if line.startswith("ready: ")), "")


async def ask(client: httpx.AsyncClient, model: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "Where?"}]}
    return (await client.post("/v1/chat/completions", json=body)).status_code


async def base_phase(client: httpx.AsyncClient, phase: str) -> dict[str, Any]:
    while (told := (await client.get("/ready")).json())["base_phase"] != phase:
        await asyncio.sleep(0.01)
    return dict(told)


def test_a_base_that_does_not_start_stops_nothing_else(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await base_phase(client, "failed"))["ready"] is True
        assert [await ask(client, "tuned"), await ask(client, "plain")] == [200, 503]

    systems = [Playing("tuned", folder), Playing("plain", folder, "no memory left")]
    _, told = run(systems, work)
    assert "plain cannot be compared with: no memory left" in told


def test_a_base_that_is_down_for_a_while_is_told_apart(folder: Path) -> None:
    tuned, plain = Playing("tuned", folder), Playing("plain", folder)

    async def work(client: httpx.AsyncClient) -> None:
        await base_phase(client, "ready")
        assert [await ask(client, "tuned"), await ask(client, "plain")] == [200, 200]
        plain.tell("restarting vLLM")
        assert [await ask(client, "tuned"), await ask(client, "plain")] == [200, 503]
        plain.tell("ready")
        assert await ask(client, "plain") == 200
        # A server that takes less after it was started anew.
        tuned.context = 8
        tuned.tell("waiting for the upstream servers: http://inside:8000 is gone")
        told = (await client.get("/ready")).json()
        assert told["phase"] == "waiting for the upstream servers"
        tuned.tell("ready")
        assert await ask(client, "tuned") == 400

    run([tuned, plain], work)


def test_a_model_that_does_not_start_ends_the_gateway_with_its_cause(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        raise AssertionError("it is not to be ready")

    with pytest.raises(NeuroritError, match="no memory left"):
        run([Playing("tuned", folder, "no memory left"), Playing("plain", folder)], work)


def test_a_ready_gateway_no_longer_goes_through_what_it_loaded(folder: Path) -> None:
    """A collection of all of it would stop every request for a third of a second."""
    gc.unfreeze()

    async def work(client: httpx.AsyncClient) -> None:
        assert gc.get_freeze_count() > 10_000
        assert await ask(client, "tuned") == 200

    run([Playing("tuned", folder)], work)
    gc.unfreeze()


def test_the_tokenizer_is_loaded_after_the_retriever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Both import transformers, which two threads at once break."""
    order: list[str] = []

    def retriever() -> WordRetriever:
        order.append("retriever begins")
        time.sleep(0.1)
        order.append("retriever is there")
        return WordRetriever()

    monkeypatch.setattr(running, "_load_tokenizer", lambda _: order.append("tokenizer begins"))

    async def body() -> None:
        loading = asyncio.create_task(asyncio.to_thread(retriever))
        await running._read(loading, tmp_path)

    asyncio.run(body())
    assert order == ["retriever begins", "retriever is there", "tokenizer begins"]


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("0.0.0.0", "", True), ("::", "", True), ("0.0.0.0", "k", False), ("127.0.0.1", "", False)],
)
def test_an_open_gateway_without_a_key_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, keys: str, warned: bool
) -> None:
    monkeypatch.delenv("NEURORIT_API_KEYS", raising=False)
    if keys:
        monkeypatch.setenv("NEURORIT_API_KEYS", keys)
    told: list[str] = []
    with pytest.raises(BadInput, match="no model at"):
        serve(
            tmp_path / "absent",
            searched,
            ServeSettings(host=host, port=0),
            tell=told.append,
        )
    assert any("warning" in line and "--api-key-file" in line for line in told) is warned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 300, "max_tokens_limit": 200}, "max_tokens_limit=200; raise that too"),
        ({"upstream_api": "responses"}, "one of completions, chat"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        serve(tmp_path, searched, ServeSettings(port=0, **settings))


def test_the_upstreams_key_is_not_sent_to_a_base_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = Upstream([["a"]]), Upstream([["b"]])
    monkeypatch.setenv("NEURORIT_UPSTREAM_KEY", "of-upstream")
    model = save_tiny_llama(tmp_path / "model")
    settings = ServeSettings(upstream=(first.url,), base=other.url)

    async def ask() -> None:
        for system in systems_of(model, settings):
            await system.start(lambda phase: None)
            async for _ in system.generator.stream([1]):
                pass
            await system.aclose()

    asyncio.run(ask())
    assert (first.keys, other.keys) == (["Bearer of-upstream"], [None])
    monkeypatch.setenv("NEURORIT_BASE_KEY", "of-base")
    first.answers, other.answers = [["a"]], [["b"]]
    asyncio.run(ask())
    assert (first.keys[1:], other.keys[1:]) == (["Bearer of-upstream"], ["Bearer of-base"])


@pytest.mark.parametrize(("proxies", "client"), [((), "127.0.0.1"), (("127.0.0.1",), "9.9.9.9")])
def test_only_a_named_proxy_says_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxies: tuple[str, ...], client: str
) -> None:
    """Else whoever invents an address for each request is bounded by no rate."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["client"][0])
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

    monkeypatch.setattr("neurorit.serving.gateway.lifecycle.create_app", lambda *_, **__: app)
    port = free_port()
    gateway = Gateway(model="m")
    settings = ServeSettings(port=port, trusted_proxies=proxies)
    run = Running(gateway, [], settings, searched, lambda line: None)

    async def ready(server: Any) -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient() as asking:
            headers = {"X-Forwarded-For": "9.9.9.9"}
            await asking.get(f"http://127.0.0.1:{port}/v1/models", headers=headers)
        server.should_exit = True

    monkeypatch.setattr(run, "_make_ready", ready)
    asyncio.run(asyncio.wait_for(run.run(Keys()), 30))
    assert seen == [client]


async def retrieved(client: httpx.AsyncClient) -> tuple[int, str]:
    reply = await client.post("/v1/retrieve", json={"query": "Where was Mira born?", "top_k": 1})
    found = reply.json().get("passages") or [{"id": ""}]
    return reply.status_code, str(found[0]["id"])


class OfGeneration(WordRetriever):
    """One that finds one passage, named after the generation of its index."""

    def __init__(self, name: str) -> None:
        self.name = name

    def search(self, queries: Any, k: int) -> list[list[Hit]]:
        return [[Hit(Passage(self.name, "T", "text"), 1.0, 1)] for _ in queries]


@pytest.mark.parametrize("by_signal", [False, True])
def test_an_index_that_is_updated_is_searched_without_a_refused_request(
    folder: Path, by_signal: bool
) -> None:
    now = ["one"]
    made: list[weakref.ref[OfGeneration]] = []

    def load(before: Any) -> OfGeneration:
        found = OfGeneration(now[0])
        assert before is None or before.name != now[0]
        made.append(weakref.ref(found))
        return found

    async def work(client: httpx.AsyncClient) -> None:
        seen: list[tuple[int, str]] = []

        async def until(name: str) -> None:
            while (found := await retrieved(client))[1] != name:
                seen.append(found)
                await asyncio.sleep(0.005)

        await until("one")
        for name in ("two", "three"):
            now[0] = name
            if by_signal:
                signal.raise_signal(signal.SIGHUP)
            await until(name)
        assert {status for status, _ in seen} <= {200}
        # Nothing holds the former ones.
        gc.unfreeze()
        gc.collect()
        assert [ref() is None for ref in made] == [True, True, False]

    settings = ServeSettings(port=0, index_seconds=0 if by_signal else 0.05)
    _, told = run([Playing("tuned", folder)], work, settings, load=load, generation=lambda: now[0])
    assert told.count("the index was updated: searches are in the new one") == 2


def test_files_that_were_damaged_and_put_back_are_read_again_on_sighup(folder: Path) -> None:
    loads = list[str]()

    class Cut(OfGeneration):
        def search(self, queries: Any, k: int) -> list[list[Hit]]:
            if len(loads) == 1:
                raise NeuroritError("index/vectors.faiss was cut short while it was in use")
            return super().search(queries, k)

    def load(before: Any) -> Cut:
        loads.append("again")
        return Cut("one")

    async def work(client: httpx.AsyncClient) -> None:
        assert (await retrieved(client))[0] == 503
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["phase"]) == (503, "passages cannot be searched")
        signal.raise_signal(signal.SIGHUP)
        while await retrieved(client) != (200, "one"):
            await asyncio.sleep(0.01)
        assert (await client.get("/ready")).status_code == 200
        signal.raise_signal(signal.SIGHUP)  # what works is left as it is
        await asyncio.sleep(0.2)
        assert len(loads) == 2

    settings = ServeSettings(port=0, index_seconds=0)
    run([Playing("tuned", folder)], work, settings, load=load, generation=lambda: "one")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BadInput("index: made by another encoder"), "made by another encoder"),
        (RuntimeError("faiss: std::bad_alloc"), "the former one stays: faiss: std::bad_alloc"),
        (MemoryError(), "the former one stays: MemoryError"),
    ],
)
def test_an_updated_index_that_cannot_be_used_leaves_the_former_one(
    folder: Path, error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    now, told = ["one"], list[str]()

    def load(before: Any) -> OfGeneration:
        if now[0] == "broken":
            raise error
        return OfGeneration(now[0])

    async def work(client: httpx.AsyncClient) -> None:
        now[0] = "broken"
        while not any(said in line for line in told):
            await asyncio.sleep(0.01)
        assert await retrieved(client) == (200, "one")
        now[0] = "two"
        while (await retrieved(client))[1] != "two":
            await asyncio.sleep(0.01)

    settings = ServeSettings(port=0, index_seconds=0.05)
    run(
        [Playing("tuned", folder)],
        work,
        settings,
        load=load,
        generation=lambda: now[0],
        told=told,
    )
    assert sum(said in line for line in told) == 1
    traced = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert traced == ([] if isinstance(error, BadInput) else [error])


def test_a_digest_that_cannot_be_made_leaves_the_new_index_and_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told, system = ["one"], list[str](), Playing("tuned", folder)
    system.own = True

    def digest(model_dir: Path, searched: str, settings: ServeSettings) -> str:
        if searched == "two":
            raise OSError(5, "Input/output error")
        return f"of-{searched}"

    monkeypatch.setattr(running, "answers_digest", digest)

    async def work(client: httpx.AsyncClient) -> None:
        async def shown() -> dict[str, str] | None:
            card = (await client.get("/v1/models/tuned")).json()
            return card.get("neurorit")  # type: ignore[no-any-return]

        assert await shown() == {"digest": "of-one"}
        now[0] = "two"
        while "tuned is without a digest: [Errno 5] Input/output error" not in told:
            await asyncio.sleep(0.01)
        assert await retrieved(client) == (200, "two")
        assert await shown() is None
        now[0] = "three"
        while await shown() != {"digest": "of-three"}:
            await asyncio.sleep(0.01)

    run(
        [system],
        work,
        ServeSettings(port=0, index_seconds=0.05),
        load=lambda before: OfGeneration(now[0]),
        generation=lambda: now[0],
        told=told,
    )
    assert not any("the former one stays" in line for line in told)


def test_an_index_that_cannot_be_looked_at_for_a_while_ends_nothing(folder: Path) -> None:
    now, told = ["one"], list[str]()

    def generation() -> str:
        if now[0] == "busy":
            raise OSError(24, "Too many open files")
        return now[0]

    async def work(client: httpx.AsyncClient) -> None:
        now[0] = "busy"
        while not any("Too many open files" in line for line in told):
            await asyncio.sleep(0.01)
        assert await retrieved(client) == (200, "one")
        now[0] = "two"
        while (await retrieved(client))[1] != "two":
            await asyncio.sleep(0.01)

    run(
        [Playing("tuned", folder)],
        work,
        ServeSettings(port=0, index_seconds=0.05),
        load=lambda before: OfGeneration("two" if now[0] == "two" else "one"),
        generation=generation,
        told=told,
    )


def test_on_sighup_keys_are_read_again_and_bad_ones_leave_the_former(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEURORIT_API_KEYS", raising=False)
    path, told = tmp_path / "keys.txt", list[str]()
    path.write_text("old")

    async def work(client: httpx.AsyncClient) -> None:
        async def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return (await client.get("/v1/models", headers=headers)).status_code

        assert [await status("old"), await status("new")] == [200, 401]
        for text, said in (("new", "keys read again"), ("# none", "stay as they were")):
            path.write_text(text)
            signal.raise_signal(signal.SIGHUP)
            while not any(said in line for line in told):
                await asyncio.sleep(0.01)
            assert [await status("old"), await status("new")] == [401, 200]

    settings = ServeSettings(port=0, api_key_file=path)
    run([Playing("tuned", folder)], work, settings, keys=Keys(["old"]), told=told)


def test_told_to_end_it_says_so_and_serves_on_for_a_while(folder: Path) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/ready")).status_code == 200
        started = time.monotonic()
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.05)
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["phase"]) == (503, "ending")
        async with httpx.AsyncClient(base_url=client.base_url) as new:
            assert await ask(new, "tuned") == 200
        with pytest.raises(httpx.TransportError):
            while True:
                async with httpx.AsyncClient(base_url=client.base_url) as new:
                    await new.get("/health")
                await asyncio.sleep(0.05)
        assert time.monotonic() - started >= 0.6

    run([Playing("tuned", folder)], work, ServeSettings(port=0, lame_duck_seconds=0.6))


def test_an_encoder_that_fails_is_told_until_it_answers_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_SEARCH_SECONDS", 0.05)
    broken = [True]

    class Failing(WordRetriever):
        def search(self, queries: Any, k: int) -> list[list[Hit]]:
            if broken[0]:
                raise NeuroritError("the encoder failed")
            return super().search(queries, k)

    async def work(client: httpx.AsyncClient) -> None:
        assert (await client.get("/ready")).status_code == 200
        assert (await retrieved(client))[0] == 503
        ready = await client.get("/ready")
        assert (ready.status_code, ready.json()["phase"]) == (503, "passages cannot be searched")
        broken[0] = False
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.02)

    run([Playing("tuned", folder)], work, load=lambda before: Failing())
