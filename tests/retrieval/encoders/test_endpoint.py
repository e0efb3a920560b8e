"""An encoder behind a server: a real one over HTTP, that fails now and then; and prefixes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.errors import ArtifactError, BadInput, NeuroritError
from neurorit.retrieval.encoders.endpoint import (
    ADDRESS_VARIABLE,
    KEY_VARIABLE,
    EndpointEncoder,
    at_named_address,
)
from neurorit.retrieval.encoders.load import load_encoder, prefixed_name
from neurorit.retrieval.index.index import Index
from neurorit.retrieval.retriever import Retriever

TEXTS = ["Otters swim in cold rivers.", "An arch bridge carries its load.", "Bread is baked."]


class Server:
    """`/v1/embeddings` of the packaged encoder; each third request fails."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        self.asked: list[list[str]] = []
        self.factor = 3.0
        self.failing = False
        encoder = load_encoder()
        server, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.keys.append(self.headers.get("Authorization"))
                    server.asked.append(given["input"])
                    fails = server.failing or len(server.asked) % 3 == 2
                    vectors = server.factor * encoder.encode_passages(given["input"])
                data = [{"index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
                body = json.dumps({"data": data[::-1]} if not fails else {"error": "busy"})
                self.send_response(500 if fails else 200)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *given: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv(KEY_VARIABLE, "secret-key")
    made = Server()
    yield made
    made.close()


def test_an_index_by_a_server_finds_what_the_encoder_itself_finds(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ADDRESS_VARIABLE, server.url)
    corpus = tmp_path / "corpus.jsonl"
    records = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS * 40)]
    corpus.write_text("".join(json.dumps(one | {"id": f"p{one['id']}"}) + "\n" for one in records))
    out = tmp_path / "index"
    arguments = ["index", str(corpus), "--encoder", f"{server.url}#mini", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--batch-size", "7", "--json"])
    assert done.exit_code == 0, done.output
    assert "secret-key" not in "".join(
        path.read_text(errors="replace") for path in out.rglob("*") if path.is_file()
    )
    assert set(server.keys) == {"Bearer secret-key"}
    assert max(map(len, server.asked)) == 7
    own = load_encoder()
    hits = Index.load(out).search(["Which animal swims?"], 3)[0]
    wanted = own.encode_queries(["Which animal swims?"]) @ own.encode_passages(TEXTS).T
    assert hits[0].passage.text == TEXTS[int(np.argmax(wanted))]
    assert hits[0].score == pytest.approx(float(wanted.max()), abs=1e-4)
    with pytest.raises(ArtifactError, match="encoder"):
        Index.load(out, encoder=own)


def test_a_server_that_fails_is_named(server: Server) -> None:
    at_once = CallSettings(retries=1, pause=0.0)
    encoder = EndpointEncoder(f"{server.url}#mini", settings=at_once)
    server.failing = True
    with pytest.raises(NeuroritError, match=r"HTTP 500.*run the same again"):
        encoder.encode_passages(TEXTS)
    with pytest.raises(BadInput, match=r"encoder=.*HTTP 500"):
        EndpointEncoder(f"{server.url}#mini", settings=at_once)
    server.failing, server.factor = False, 0.0
    with pytest.raises(NeuroritError, match="of no use"):
        encoder.encode_passages(TEXTS)
    with pytest.raises(BadInput, match="#MODEL"):
        EndpointEncoder(server.url)


def test_prefixes_belong_to_the_encoder() -> None:
    plain = load_encoder()
    name = prefixed_name("minilm", "query: ", "passage: ")
    made = load_encoder(name)
    assert made.name == name and made.fingerprint != plain.fingerprint
    assert made.fingerprint == load_encoder(name).fingerprint
    expected = plain.encode_passages(["passage: " + text for text in TEXTS])
    assert np.allclose(made.encode_passages(TEXTS), expected, atol=1e-6)
    expected = plain.encode_queries(["query: " + text for text in TEXTS])
    assert np.allclose(made.encode_queries(TEXTS), expected, atol=1e-6)
    with pytest.raises(BadInput, match="neither query nor passage"):
        load_encoder("minilm?document=x")


def limited(seen: list[Any]) -> httpx.MockTransport:
    """A server that refuses texts over 1,000 characters and the word "forbidden"."""

    def reply(request: httpx.Request) -> httpx.Response:
        given = json.loads(request.content)["input"]
        seen.append((str(request.url), given))
        if any(len(text) > 1000 or "forbidden" in text for text in given):
            return httpx.Response(400, json={"error": {"message": "maximum context length"}})
        vectors = [[float(len(text)), 1.0] for text in given]
        return httpx.Response(
            200, json={"data": [{"index": i, "embedding": v} for i, v in enumerate(vectors)]}
        )

    return httpx.MockTransport(reply)


def test_a_text_over_the_limit_is_cut_and_counted_and_another_refusal_named() -> None:
    seen: list[Any] = []
    name = "http://server/openai/x?api-version=2024-06#e5"
    quick = CallSettings(retries=0, concurrency=1)
    encoder = EndpointEncoder(name, settings=quick, transport=limited(seen))
    assert seen[0][0] == "http://server/openai/x/embeddings?api-version=2024-06"
    texts = ["a" * 10, "b" * 3000, "c" * 20, "d" * 1500]
    made = encoder.encode_passages(texts)
    lengths = made[:, 0] / made[:, 1]
    assert lengths.round().tolist() == [10, 750, 20, 750]
    assert encoder.truncated == 2
    with pytest.raises(NeuroritError, match="refused was 'forbidden text'") as raised:
        encoder.encode_passages(["fine", "forbidden text"])
    assert "run the same again" not in str(raised.value)


def test_an_address_keeps_its_own_query(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Named:
        def __init__(self, name: str, batch_size: int, request: Any) -> None:
            made.append(name)

    monkeypatch.setattr("neurorit.retrieval.encoders.load.EndpointEncoder", Named)
    address = "https://server/v1?api-version=2024#e5"
    for name in (address, prefixed_name(address, "query: ", "passage: "), "http://server/v1#e5"):
        load_encoder(name)
    assert made == [address, address, "http://server/v1#e5"]


def test_an_address_out_of_a_manifest_gets_neither_key_nor_question_without_a_word(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": t, "text": t}) + "\n" for t in TEXTS))
    out = tmp_path / "index"
    made = CliRunner().invoke(
        app, ["index", str(corpus), "--encoder", f"{server.url}#mini", "--out", str(out)]
    )
    assert made.exit_code == 0, made.output
    server.keys.clear()
    server.asked.clear()
    for load in (Index.load, Retriever.load):
        with pytest.raises(BadInput, match=f"NEURORIT_ENCODER_ADDRESS={server.url}"):
            load(out)
    assert (server.keys, server.asked) == ([], [])
    # Wherever the manifest says, only the address that is named is asked.
    name = "http://elsewhere.invalid/v1#mini?query=q"
    monkeypatch.setenv("NEURORIT_ENCODER_ADDRESS", server.url)
    assert at_named_address(name, out) == f"{server.url}#mini?query=q"
    assert at_named_address("minilm", out) == "minilm"
    assert Index.load(out).search(["Which animal swims?"], 1)
    monkeypatch.setenv("NEURORIT_ENCODER_ADDRESS", "elsewhere")
    with pytest.raises(BadInput, match="is no address"):
        Index.load(out)


def test_a_query_that_is_refused_is_the_askers_fault_and_is_not_repeated() -> None:
    quick = CallSettings(retries=0, pause=0.0)
    encoder = EndpointEncoder("http://s/v1#m", settings=quick, transport=limited([]))
    with pytest.raises(BadInput, match="refuses to read a query") as caught:
        encoder.encode_queries(["an innocent one", "a forbidden secret"])
    assert "secret" not in f"{caught.value}"
    with pytest.raises(BadInput, match="a forbidden text"):
        encoder.encode_passages(["a forbidden text"])


def test_further_fields_of_a_request_stand_in_the_encoders_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        size = asked[-1].get("dimensions", 4)
        data = [{"index": i, "embedding": [1.0] * size} for i in range(len(asked[-1]["input"]))]
        return httpx.Response(200, json={"data": data})

    made = EndpointEncoder(
        "http://h/v1#e",
        request={"dimensions": 2, "encoding_format": None},
        transport=httpx.MockTransport(answer),
    )
    assert made.encode_queries(["a"]).shape == (1, 2)
    assert all("encoding_format" not in body for body in asked)
    plain = EndpointEncoder("http://h/v1#e", transport=httpx.MockTransport(answer))
    assert asked[-1]["encoding_format"] == "float" and plain.dimension == 4
    assert plain.fingerprint != made.fingerprint

    held: dict[str, Any] = {}

    def remember(name: str, **more: Any) -> Any:
        held.update(more, name=name)
        return plain

    monkeypatch.setattr("neurorit.retrieval.encoders.load.EndpointEncoder", remember)
    fields = {"dimensions": 2, "user": "a & b"}
    load_encoder(prefixed_name("http://h/v1#e", query="q: ", request=json.dumps(fields)))
    assert held["name"] == "http://h/v1#e" and held["request"] == fields
    with pytest.raises(BadInput, match="where the encoder is an address"):
        load_encoder(prefixed_name("minilm", request='{"a": 1}'))
    with pytest.raises(BadInput, match="are a JSON object"):
        load_encoder("http://h/v1#e?request=x")


def test_a_search_waits_some_seconds_for_a_server_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        waited.append(request.extensions["timeout"]["read"])
        if len(waited) > 1:
            raise httpx.ReadTimeout("it hangs")
        return httpx.Response(200, json={"data": [{"index": 0, "embedding": [1.0, 0.0]}]})

    encoder = EndpointEncoder("http://inside/v1#e", transport=httpx.MockTransport(reply))
    encoder.hurry()
    with pytest.raises(NeuroritError, match="ReadTimeout"):
        encoder.encode_queries(["Where?"])
    assert waited[0] >= 60
    assert len(waited) == 3 and max(waited[1:]) <= 5
