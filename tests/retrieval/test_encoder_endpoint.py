"""An encoder behind a server: a real one over HTTP, that fails now and then; and prefixes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from retrieval.encoder import load_encoder, prefixed_name
from retrieval.encoder_endpoint import KEY_VARIABLE, EndpointEncoder
from retrieval.endpoint import CallSettings
from retrieval.errors import ArtifactError, BadInput, NeuroritError
from retrieval.index import Index

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
    server: Server, tmp_path: Path
) -> None:
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
    with pytest.raises(BadInput, match=r"--encoder .*HTTP 500"):
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
