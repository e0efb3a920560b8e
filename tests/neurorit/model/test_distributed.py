"""One device a process, what is joined and what is refused, and memory that is given back."""

from __future__ import annotations

import gc
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.model import distributed as processes
from neurorit.model import load, source
from neurorit.model.distributed import asked_to_shard, join
from neurorit.model.load import release
from neurorit.pipelines.progress import Reporter, _duration
from neurorit.serving.backends.vllm_env import vllm_environment
from neurorit.tuning import tune as tuning
from neurorit.tuning.samples import Sample, check_ends
from neurorit.tuning.settings import TuneSettings
from neurorit.tuning.tune import tune

SETTINGS = TuneSettings(method="sft", stage1_steps=0, steps=1, batch_size=4, device="cpu")


def test_the_trainer_takes_one_device_and_it_is_the_models(tmp_path: Path) -> None:
    from neurorit.tuning.trainer import _Arguments

    arguments = _Arguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    arguments._n_gpu = 4  # as where four are seen
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
    arguments.place_on(torch.device("meta"))
    assert arguments.device == torch.device("meta")


def test_deepspeed_is_refused_before_anything_is_loaded(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setattr(source, "load_model", None)
    with pytest.raises(BadInput, match="DeepSpeed is not supported"):
        tune(checkpoint, None, examples_path, None, SETTINGS, out=tmp_path / "tuned")


def test_accelerates_fsdp_is_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left in the environment, it would wrap the model a second time."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    asked_to_shard.cache_clear()
    try:
        join()
        assert "ACCELERATE_USE_FSDP" not in os.environ
        assert asked_to_shard()
    finally:
        asked_to_shard.cache_clear()
    assert not asked_to_shard()


def test_one_device_for_several_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(BadInput, match="device cuda:1: every process"):
        processes.join("cuda:1")


def test_a_tuned_model_is_not_held(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Any]] = []
    load_model = load.load_model

    def loading(*given: Any, **options: Any) -> Any:
        model, tokenizer = load_model(*given, **options)
        seen.append(weakref.ref(model))
        return model, tokenizer

    monkeypatch.setattr(source, "load_model", loading)
    tune(checkpoint, None, examples_path, None, SETTINGS, out=tmp_path / "tuned")
    release()
    assert len(seen) == 1
    assert seen[0]() is None, gc.get_referrers(seen[0]())


def test_a_model_that_could_not_be_saved_is_found_before_training(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_model: Any) -> None:
        raise BadInput("cannot be saved")

    def trained(*_: Any, **__: Any) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr(tuning, "make_savable", refuse)
    monkeypatch.setattr(tuning._Work, "train", trained)
    with pytest.raises(BadInput, match="cannot be saved"):
        tune(checkpoint, None, examples_path, None, SETTINGS, out=tmp_path / "tuned")


def test_an_end_token_that_is_not_learned_is_told() -> None:
    check_ends([Sample([1, 2], [5, 9], True), Sample([1], [9], False)], end=9, pad=9)
    with pytest.raises(NeuroritError, match="end token 9, which is the padding too, is not"):
        check_ends([Sample([1, 2], [5], True)], end=9, pad=9)


def test_vllm_does_not_join_the_processes_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    found = vllm_environment()
    assert found["VLLM_LOGGING_LEVEL"] == "INFO"
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & set(found)
    assert "TORCHELASTIC_USE_AGENT_STORE" not in found


def test_a_log_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from neurorit.pipelines import progress

    stream, clock = io.StringIO(), iter((0.0, 0.0, 40.0, 40.0))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    report = Reporter(Console(file=stream, width=200), None)
    report("contexts mined", 0, 100, "residual 1 %")
    report("contexts mined", 20, 100, "residual 1 %")
    assert stream.getvalue().splitlines()[1] == (
        "  contexts mined: 20/100 (0.5/s, 3 min left, residual 1 %)"
    )
    assert [_duration(s) for s in (4, 59.4, 700, 11_100)] == ["4 s", "59 s", "12 min", "3 h 5 min"]
