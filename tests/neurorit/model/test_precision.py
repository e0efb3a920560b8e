"""Number formats: by a model's size, its files and the processor; what tuning keeps in float32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neurorit.core.errors import BadInput
from neurorit.model import precision
from neurorit.model.load import load_model
from neurorit.model.precision import autocasts, compute_dtype, count_weights, pays
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.tune import tune


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that is quick in bfloat16, and models of this size large."""
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: "AMX")
    monkeypatch.setattr(precision, "LARGE", 1000)


def test_weights_are_counted_from_headers(checkpoint: Path, tmp_path: Path) -> None:
    model, _ = load_model(checkpoint, device="cpu")
    assert count_weights(checkpoint) == model.num_parameters()
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="no safetensors file"):
        count_weights(tmp_path)


def test_auto_is_bfloat16_for_large_float32_models_on_quick_processors(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    assert compute_dtype(checkpoint) == "bfloat16"
    assert compute_dtype(checkpoint, gpu=True) == "float32"
    assert compute_dtype(checkpoint, "stored") == "float32"
    assert compute_dtype(checkpoint, "float16") == "float16"
    with pytest.raises(BadInput, match="dtype half: it is one of auto, "):
        compute_dtype(checkpoint, "half")
    half = shutil.copytree(checkpoint, tmp_path / "half")
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    assert compute_dtype(half) == "float16"
    monkeypatch.setattr(precision, "LARGE", 10**9)
    assert compute_dtype(checkpoint) == "float32"
    monkeypatch.setattr(precision, "LARGE", 1)
    monkeypatch.setattr(precision, "fast_bfloat16", lambda: None)
    assert compute_dtype(checkpoint) == "float32" and not pays(10**12)


def test_the_labs_models_stay_as_they_are() -> None:
    from neurorit.lab import base_model_dir

    assert compute_dtype(base_model_dir()) == "float32"


def test_training_autocasts_where_it_pays(checkpoint: Path, quick: None) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    model, _ = load_model(checkpoint, device="cpu")
    assert autocasts(model, cpu, "auto") and not autocasts(model, gpu, "auto")
    assert autocasts(model, gpu, "bf16") and not autocasts(model, cpu, "float32")
    low = model.to(torch.bfloat16)
    assert autocasts(low, gpu, "auto")
    with pytest.raises(BadInput, match="precision float32 wants float32 weights"):
        autocasts(low, cpu, "float32")
    with pytest.raises(BadInput, match="precision is 'half', but it must be one of"):
        TuneSettings(method="sft", precision="half").check(atlas=False, adapter=False)


def test_small_models_tune_in_float32_and_bf16_keeps_float32_masters(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    losses, weights = {}, {}
    for name in ("auto", "float32", "bf16"):
        settings = TuneSettings(
            method="sft", stage1_steps=0, steps=3, batch_size=4, precision=name, device="cpu"
        )
        made = tune(checkpoint, None, examples_path, None, settings, out=tmp_path / name)
        losses[name] = made.tuning_record["sft"]["loss"]
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    same = weights["float32"]
    for name, tensor in weights["auto"].items():
        assert torch.equal(tensor, same[name])
    before = load_file(checkpoint / "model.safetensors")
    for name, tensor in weights["bf16"].items():
        assert tensor.dtype == torch.float32
        # A step of 1e-3 would be rounded away in bfloat16 weights.
        assert torch.allclose(tensor, same[name], atol=0.01)
    moved = [
        name for name, tensor in weights["bf16"].items() if not torch.equal(tensor, before[name])
    ]
    assert moved and any(not torch.equal(weights["bf16"][name], same[name]) for name in moved)
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bf16"] != losses["float32"]
