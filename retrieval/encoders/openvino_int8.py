"""An encoder in 8-bit integers, for CPUs: the same model through OpenVINO, at over twice the speed.

Weights and activations are quantized once, by NNCF on sentences that come with the package, and
kept in the user's cache. Its vectors differ a little from those of the float model, so the two do
not mix: the fingerprint is another one.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.artifact import Manifest, read_manifest, writing
from neurorit.core.errors import ArtifactError, BadInput, MissingExtra
from neurorit.retrieval.encoders.truncation import overlong

if TYPE_CHECKING:
    import numpy as np

    from neurorit.retrieval.encoders.sentence import SentenceEncoder

SUFFIX = "+int8"
CACHE_VARIABLE = "NEURORIT_CACHE"
_RECIPE = "nncf-mixed-1"
_MODEL = "encoder.xml"


class Int8Encoder:
    """A sentence-transformers model, mean-pooled and normalised, in 8-bit integers.

    model: the loaded float model; encoder: the one that uses it. Raises MissingExtra without
    OpenVINO, BadInput for a model that pools in another way.
    """

    def __init__(
        self, name: str, model: Any, encoder: SentenceEncoder, *, batch_size: int = 64
    ) -> None:
        self.name = name
        self._model = model
        self._encoder = encoder
        self._batch_size = batch_size
        self.stored = self._stored()
        self._compiled = _compiled(self.stored)

    @property
    def dimension(self) -> int:
        """d."""
        return int(self._model.get_embedding_dimension())

    @property
    def description(self) -> Mapping[str, Any]:
        """The float model's, and the way it is quantized."""
        return {**self._encoder.description, "quantized": _RECIPE}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the float model's fingerprint, the sentences and the way it is quantized."""
        return _quantized_print(self._encoder.fingerprint)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of passages."""
        return self._encode(texts, ("document", "passage"))

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, d] unit vectors of queries."""
        return self._encode(texts, ("query",))

    def overlong(self, texts: Sequence[str]) -> int | None:
        """How many of the passages are longer than it reads."""
        return overlong(self._model, texts)

    def _encode(self, texts: Sequence[str], roles: Sequence[str]) -> np.ndarray:
        import numpy as np

        prompts = self._model.prompts or {}
        prompt = next((prompts[role] for role in roles if prompts.get(role)), "")
        made = np.zeros((len(texts), self.dimension), dtype=np.float32)
        # Texts of like length go together: padding is computed like everything else.
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        for start in range(0, len(order), self._batch_size):
            rows = order[start : start + self._batch_size]
            made[rows] = self._vectors([prompt + texts[row] for row in rows])
        return made

    def _vectors(self, texts: list[str]) -> Any:
        tokens = _tokens(self._model, texts, "np")
        return self._compiled([tokens["input_ids"], tokens["attention_mask"]])[0]

    def _stored(self) -> Path:
        """The quantized model in the cache, made now if it is not there or was damaged."""
        root = os.environ.get(CACHE_VARIABLE)
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        place = (Path(root) if root else home / "neurorit-rag") / f"int8-{self.fingerprint[:32]}"
        try:
            read_manifest(place, "int8-encoder")
        except ArtifactError:
            openvino = _library("openvino")
            manifest = Manifest(
                "int8-encoder", "neurorit-rag index", inputs={"model": self._encoder.fingerprint}
            )
            with writing(place, manifest, overwrite=True) as folder:
                openvino.save_model(_quantized(self._model), folder / _MODEL, False)
        return place / _MODEL


def _quantized_print(own: str) -> str:
    digest = hashlib.sha256(f"{own} {_RECIPE}\n".encode())
    digest.update("\n".join(_sentences()).encode())
    return digest.hexdigest()


def _quantized(model: Any) -> Any:
    """OpenVINO's form of the model with its pooling, quantized."""
    import torch

    openvino, nncf = _library("openvino"), _library("nncf")
    modules = list(model)
    pooling = next((m for m in modules if type(m).__name__ == "Pooling"), None)
    others = {type(m).__name__ for m in modules} - {"Transformer", "Pooling", "Normalize"}
    if pooling is None or pooling.pooling_mode != "mean" or others:
        raise BadInput(
            "‹encoder›: only mean-pooled sentence-transformers can be quantized; leave +int8 out"
        )
    inner = getattr(modules[0], "auto_model", None) or modules[0].model

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            found = self.inner(input_ids=input_ids, attention_mask=attention_mask)
            hidden = found.last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(pooled, dim=1)

    example = dict(_tokens(model, ["One.", "Two of them."], "pt"))
    inputs = {name: example[name] for name in ("input_ids", "attention_mask")}
    shapes = [(name, [-1, -1], openvino.Type.i64) for name in inputs]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        # NNCF draws its progress on stdout, which belongs to the command's result.
        # Tracing warns of Python values that become constants; shapes are free all the same.
        warnings.simplefilter("ignore")
        converted = openvino.convert_model(Pooled().eval(), example_input=inputs, input=shapes)
        logging.getLogger("nncf").setLevel(logging.ERROR)
        samples = [dict(_tokens(model, [text], "np")) for text in _sentences()]
        return nncf.quantize(
            converted,
            nncf.Dataset([{name: sample[name] for name in inputs} for sample in samples]),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
        )


def _compiled(path: Path) -> Any:
    import torch

    openvino = _library("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        # Where a CPU has bfloat16 the rest would be computed in it, and elsewhere not: vectors
        # should not depend on the machine.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(path, "CPU", settings)


def _tokens(model: Any, texts: list[str], kind: str) -> Any:
    length = model.max_seq_length
    return model.tokenizer(
        texts, padding=True, truncation=True, max_length=length, return_tensors=kind
    )


def _sentences() -> list[str]:
    text = (
        files("neurorit.retrieval.encoders").joinpath("calibration.txt").read_text(encoding="utf-8")
    )
    lines = text.splitlines()
    # Single sentences, as questions are, and longer texts, as passages are.
    return lines + [" ".join(lines[i : i + 6]) for i in range(0, len(lines), 2)]


def _library(name: str) -> Any:
    import importlib

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise MissingExtra(name, "int8") from error
