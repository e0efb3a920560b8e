"""vLLM's process without vLLM: ports, the command line, and what a failure says."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput, NeuroritError
from neurorit.model.precision import stored_dtype
from neurorit.serving.backends import vllm_env as vllm_process
from neurorit.serving.backends import vllm_server as engine_module
from neurorit.serving.backends.adapters import Adapters
from neurorit.serving.backends.lora import Lora
from neurorit.serving.backends.offline import Completion, OfflineEngine
from neurorit.serving.backends.vllm_env import (
    context_length,
    engine_environment,
    short_context,
    start_failure,
    vllm_environment,
)
from neurorit.serving.backends.vllm_server import VllmServer, free_port, require_free_port


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "tuned"
    directory.mkdir()
    (directory / "config.json").write_text('{"dtype": "float32", "max_position_embeddings": 64}')
    return directory


def test_a_used_port_is_one_clear_line() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(BadInput, match=rf"port={port} on 127.0.0.1 cannot be used"):
            require_free_port("127.0.0.1", port, "port")
    assert require_free_port("127.0.0.1", free_port(), "port")


def test_a_missing_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no model at .*absent"):
        VllmServer(tmp_path / "absent")
    with pytest.raises(BadInput, match=r"no config\.json"):
        VllmServer(tmp_path)
    with OfflineEngine() as engine, pytest.raises(BadInput, match="no model at"):
        engine.generate(tmp_path / "absent", [[1]], max_tokens=1)


def test_the_key_is_not_on_the_command_line_and_own_flags_win(model: Path) -> None:
    server = VllmServer(model, extra_args=("--dtype=bfloat16", "--max-num-seqs", "8"))
    command = server.command()
    assert server.api_key not in " ".join(command)
    assert "--dtype" not in command
    assert command[-3:] == ["--dtype=bfloat16", "--max-num-seqs", "8"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert server.model == "tuned"


def test_a_checkpoints_penalties_decide_no_served_answer(model: Path) -> None:
    command = VllmServer(model).command()
    assert command[command.index("--generation-config") + 1] == "vllm"
    own = VllmServer(model, extra_args=("--generation-config=auto",)).command()
    assert [flag for flag in own if "generation" in flag] == ["--generation-config=auto"]


def test_adapters_get_room_and_are_loaded_at_each_start(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lora, "unchanged", lambda self: True)
    monkeypatch.setenv("NEURORIT_ADMIN_KEY", "sk-admin")
    lora = Lora("city", model / "lora", 40, "0123456789abcdef")
    adapters = Adapters(model, None, [lora], most=3)  # type: ignore[arg-type]
    server = VllmServer(model, adapters=adapters)
    command = server.command()
    for flag, value in (("--max-loras", "3"), ("--max-cpu-loras", "6"), ("--max-lora-rank", "64")):
        assert command[command.index(flag) + 1] == value
    assert "--enable-lora" in command
    named = json.loads(command[command.index("--lora-modules") + 1])
    assert named == {"name": "city@0123456789ab", "path": str(model / "lora")}
    monkeypatch.setattr(Lora, "unchanged", lambda self: False)
    assert "--lora-modules" not in server.command()
    assert "--enable-lora" not in VllmServer(model).command()
    with pytest.raises(BadInput, match="--adapter NAME=DIR"):
        VllmServer(model, extra_args=("--lora-modules", "x=y"))


def test_no_key_of_others_stands_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("API_KEYS", "ADMIN_KEY", "UPSTREAM_KEY", "BASE_KEY", "ENCODER_KEY")
    for name in names:
        monkeypatch.setenv(f"NEURORIT_{name}", "sk-secret")
    monkeypatch.setenv("NEURORIT_CACHE", "kept")
    environment = vllm_environment()
    assert "sk-secret" not in environment.values()
    assert environment["NEURORIT_CACHE"] == "kept"


def test_a_server_that_ends_says_why_in_one_line(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "print('INFO 1 x'); raise ValueError('head size 7 is not supported')"
    monkeypatch.setattr(engine_module.sys, "executable", "python3")
    monkeypatch.setattr(VllmServer, "command", lambda self: ["python3", "-c", program])
    server = VllmServer(model, log=model / "vllm.log")
    with pytest.raises(NeuroritError) as caught, server:
        pass
    message = str(caught.value)
    assert "ValueError: head size 7 is not supported" in message
    assert "vllm.log" in message
    assert "\n" not in message
    assert not server.alive


def test_the_root_cause_is_found_among_vllms_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "(APIServer pid=1) INFO 01-01 00:00:00 [x.py:1] starting\n"
        "(EngineCore pid=2) ERROR 01-01 00:00:00 [core.py:9] Traceback (most recent call last):\n"
        "(EngineCore pid=2) ERROR 01-01 00:00:00 [core.py:9] ValueError: no memory for keys\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert "vLLM did not start: ValueError: no memory for keys" in str(
        start_failure(log, "vLLM did not start")
    )
    assert "its log is empty" in str(start_failure(tmp_path / "none", "it"))


def test_the_stored_number_format_is_kept(model: Path) -> None:
    assert stored_dtype(model) == "float32"
    (model / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    assert stored_dtype(model) == "bfloat16"
    (model / "config.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        stored_dtype(model)


def test_what_the_user_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    environment = vllm_environment()
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "9"
    assert environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("cores", "flags", "variable", "threads"),
    [
        (1, [], "", "1"),
        (2, [], "", "1"),
        (6, [], "", "5"),
        ((8, 4), [], "", "4"),
        (64, [], "", None),
        (2, ["--tensor-parallel-size=2"], "", None),
        (2, [], "VLLM_CPU_OMP_THREADS_BIND", None),
    ],
)
def test_on_few_cores_the_engine_is_one_process(
    monkeypatch: pytest.MonkeyPatch,
    cores: int | tuple[int, int],
    flags: list[str],
    variable: str,
    threads: str | None,
) -> None:
    for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "0")
    usable, physical = cores if isinstance(cores, tuple) else (cores, cores)
    monkeypatch.setattr(vllm_process, "usable_cores", lambda: usable)
    monkeypatch.setattr(vllm_process, "physical_cores", lambda: physical)
    monkeypatch.setattr(vllm_process, "has_gpu", lambda: False)
    found = engine_environment(flags)
    assert found.get("OMP_NUM_THREADS") == threads
    assert found.get("VLLM_ENABLE_V1_MULTIPROCESSING") == ("0" if threads else None)


def test_prompts_that_do_not_fit_are_refused_without_a_process(model: Path) -> None:
    with OfflineEngine() as engine:
        assert engine.generate(model, [], max_tokens=4) == []
        with pytest.raises(BadInput, match=r"needs 70 tokens, but .* takes 64"):
            engine.generate(model, [[1] * 60], max_tokens=10)


LONG = {
    "dtype": "float32",
    "max_position_embeddings": 9000,
    "original_max_position_embeddings": 700,
    "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
}


def test_positions_for_long_texts_are_taken_where_a_prompt_needs_them(model: Path) -> None:
    (model / "config.json").write_text(json.dumps(LONG))
    said: list[str] = []
    engine = OfflineEngine(say=said.append)
    assert [engine._model_len(model, needed) for needed in (100, 690, 700)] == [256, 700, 700]
    assert not said
    assert [engine._model_len(model, needed) for needed in (701, 800, 100)] == [768, 1024, 1024]
    (line,) = said
    assert "needs 701 tokens, more than the 700 of short texts" in line


def test_the_limits_of_a_model_that_also_sees_stand_in_its_text_part(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({"text_config": LONG, "vision_config": {}}))
    assert (context_length(model), short_context(model)) == (9000, 700)


def test_a_server_takes_the_tokens_of_short_texts_unless_told_otherwise(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(server: VllmServer) -> list[str]:
        command = server.command()
        return [command[i + 1] for i, flag in enumerate(command) if flag == "--max-model-len"]

    assert asked(VllmServer(model)) == []
    named = {"rope_type": "longrope", "original_max_position_embeddings": 800}
    (model / "config.json").write_text(json.dumps({"rope_parameters": named}))
    assert asked(VllmServer(model)) == ["800"]
    (model / "config.json").write_text(json.dumps(LONG))
    assert asked(VllmServer(model)) == ["700"]
    assert asked(VllmServer(model, max_model_len=5000)) == ["5000"]
    assert asked(VllmServer(model, extra_args=("--max-model-len", "6000"))) == ["6000"]
    monkeypatch.setattr(VllmServer, "_spawn", lambda self: 1 / 0)
    said: list[str] = []
    with pytest.raises(ZeroDivisionError):
        VllmServer(model).start(said.append)
    assert said[0].startswith("tuned takes 700 tokens of prompt and answer")
    assert said[1:] == ["starting vLLM"]


def test_a_worker_that_fails_says_why(model: Path, tmp_path: Path) -> None:
    broken = "import sys; sys.stdin.readline(); raise SystemError('no such kernel')"
    import subprocess

    start = subprocess.Popen

    def instead(command: list[str], **keywords: object) -> object:
        return start([command[0], "-c", broken], **keywords)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch, OfflineEngine(log=tmp_path / "log") as engine:
        patch.setattr(subprocess, "Popen", instead)
        with pytest.raises(NeuroritError, match=r"process ended .*SystemError: no such kernel"):
            engine.generate(model, [[1]], max_tokens=1)


def test_completions_keep_the_order_of_the_prompts(model: Path) -> None:
    echo = (
        "import sys, json\n"
        "for line in sys.stdin:\n"
        "    job = json.loads(line)\n"
        "    c = [[i, 'x', p, 'stop'] for i, p in enumerate(job['prompts'])][::-1]\n"
        "    for start in range(0, len(c), 100):\n"
        "        print(json.dumps({'event': 'answers', 'answers': c[start : start + 100]}))\n"
        "    print(json.dumps({'event': 'done', 'seconds': 0}), flush=True)\n"
    )
    import subprocess

    start = subprocess.Popen

    def instead(command: list[str], **keywords: object) -> object:
        return start([command[0], "-c", echo], **keywords)  # type: ignore[call-overload]

    told: list[tuple[int, int]] = []
    prompts = [[i % 50, i // 50] for i in range(701)]
    with pytest.MonkeyPatch.context() as patch, OfflineEngine() as engine:
        patch.setattr(subprocess, "Popen", instead)
        got = engine.generate(
            model, prompts, max_tokens=1, progress=lambda done, total: told.append((done, total))
        )
    assert got == [Completion("x", tuple(ids), "stop") for ids in prompts]
    assert told[0] == (100, 701) and told[-1] == (701, 701)


def test_answers_that_the_worker_keeps_back_are_an_error(model: Path, tmp_path: Path) -> None:
    import subprocess

    silent = "import json; input(); print(json.dumps({'event': 'done', 'seconds': 0}), flush=True)"
    start = subprocess.Popen

    def instead(command: list[str], **keywords: object) -> object:
        return start([command[0], "-c", silent], **keywords)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch, OfflineEngine(log=tmp_path / "log") as engine:
        patch.setattr(subprocess, "Popen", instead)
        with pytest.raises(NeuroritError, match="gave 0 answers to 1 prompts"):
            engine.generate(model, [[1]], max_tokens=1)
