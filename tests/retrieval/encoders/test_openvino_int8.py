"""The encoder in 8-bit integers: near the float one, another identity, made once and kept."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from neurorit.core.errors import ArtifactError, MissingExtra
from neurorit.retrieval.encoders.base import Encoder
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.encoders.openvino_int8 import CACHE_VARIABLE, Int8Encoder
from neurorit.retrieval.index.index import Index, build_index

TEXTS = [
    "The ferry to the island leaves at seven in the morning.",
    "Granite is an igneous rock.",
    "",
    "Her second novel won a prize, " * 60,
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    pytest.importorskip("nncf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        with redirect_stdout(io.StringIO()) as said:
            made = load_encoder("minilm+int8")
        assert said.getvalue() == "", "stdout is for a command's result"
        return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_its_vectors_are_near_and_find_the_same(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load_encoder()
    near = (encoder.encode_passages(TEXTS) * plain.encode_passages(TEXTS)).sum(axis=1)
    assert near[[0, 1, 3]].min() > 0.97  # an empty text means nothing
    np.testing.assert_allclose(np.linalg.norm(encoder.encode_queries(TEXTS), axis=1), 1, atol=1e-3)
    assert encoder.dimension == plain.dimension
    assert encoder.fingerprint != plain.fingerprint
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        '{"id": "a", "text": "Otters swim."}\n{"id": "b", "text": "Bread is baked."}\n'
    )
    build_index(corpus, tmp_path / "index", encoder=encoder)
    with pytest.raises(ArtifactError, match="another encoder"):
        Index.load(tmp_path / "index", encoder=plain)
    loaded = Index.load(tmp_path / "index", encoder=encoder)
    assert loaded.search(["an animal in water"], 1)[0][0].passage.id == "a"
    # What is kept is used again, and checked.
    assert isinstance(encoder, Int8Encoder)
    kept = encoder.stored
    before = kept.stat().st_mtime_ns
    monkeypatch.setenv(CACHE_VARIABLE, str(kept.parent.parent))
    again = load_encoder("minilm+int8")
    np.testing.assert_array_equal(
        again.encode_queries(TEXTS[:1]), encoder.encode_queries(TEXTS[:1])
    )
    assert kept.stat().st_mtime_ns == before


def test_without_its_extra_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with pytest.raises(MissingExtra, match=r"neurorit-rag\[int8\]"):
        load_encoder("minilm+int8")
