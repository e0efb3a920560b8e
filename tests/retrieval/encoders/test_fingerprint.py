"""What tells one encoder from another: its parts, and not how a library prints or names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import ArtifactError
from neurorit.retrieval.encoders.fingerprint import fingerprint_encoder
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.encoders.sentence import SentenceEncoder
from neurorit.retrieval.index.index import Index


@pytest.fixture
def encoder() -> Any:
    return load_encoder()


def test_a_library_that_prints_and_names_otherwise_changes_nothing(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoder._model
    before = encoder.fingerprint
    state = {f"0.renamed.{name}": tensor for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(type(model), "__repr__", lambda self: "SentenceTransformer 99")
    monkeypatch.setattr(model, "state_dict", lambda: state)
    after = SentenceEncoder("minilm", model)
    assert after.fingerprint == before


def test_weights_pooling_length_prompts_and_tokenizer_are_told_apart(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = encoder._model
    found = {fingerprint_encoder(model)}
    with monkeypatch.context() as patch:
        patch.setattr(model, "prompts", {"query": "query: "})
        found.add(fingerprint_encoder(model))
    with monkeypatch.context() as patch:
        patch.setattr("neurorit.retrieval.encoders.fingerprint._pooling", lambda module: "cls")
        found.add(fingerprint_encoder(model))
    with monkeypatch.context() as patch:
        tokenizer = model.tokenizer
        real = type(tokenizer).__call__
        patch.setattr(
            type(tokenizer), "__call__", lambda self, text, **o: real(self, text.upper()[:9], **o)
        )
        found.add(fingerprint_encoder(model))
    length = model.max_seq_length
    model.max_seq_length = 17
    found.add(fingerprint_encoder(model))
    model.max_seq_length = length
    weight = next(iter(model.parameters()))
    weight.data[0, 0] += 1.0
    found.add(fingerprint_encoder(model))
    weight.data[0, 0] -= 1.0
    assert len(found) == 6


def test_an_index_of_another_encoder_is_refused(index_dir: Path, encoder: Any) -> None:
    path = index_dir / "manifest.json"
    text = path.read_text()
    manifest = json.loads(text)
    assert manifest["made"]["encoder"]["pooling"] == ["mean"]
    assert manifest["made"]["encoder"]["max_length"] == 256
    try:
        manifest["made"]["fingerprint"] = "0" * 64
        path.write_text(json.dumps(manifest))
        with pytest.raises(ArtifactError, match="another encoder"):
            Index.load(index_dir, encoder=encoder)
    finally:
        path.write_text(text)


def test_words_before_texts_make_another_encoder(encoder: Any) -> None:
    worded = load_encoder("minilm?query=q")
    assert worded.fingerprint != encoder.fingerprint
    assert worded.description["query"] == "q"  # type: ignore[attr-defined]
