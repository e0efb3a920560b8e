"""The command line: exit codes, one-line errors, JSON on stdout, and how recipes are read."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from neurorit.cli import COMMANDS, app, end_on_signals, main
from neurorit.core.errors import BadInput
from neurorit.pipelines.demo import closing
from neurorit.pipelines.recipe import Recipe, parse_assignments
from neurorit.pipelines.stages import RECORD, stages_in
from neurorit.retrieval.index.vector_sources import GivenVectors


@dataclass(frozen=True)
class Settings:
    """A stand-in for a room's settings."""

    steps: int = 10
    rate: float = 0.5
    kind: Literal["a", "b"] = "a"
    limit: int | None = None
    layers: tuple[int, ...] = ()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "neurorit.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_every_command_has_help() -> None:
    for name in COMMANDS:
        result = CliRunner().invoke(app, [name, "--help"])
        assert result.exit_code == 0, name
        assert "Usage" in result.output


def test_commands_take_json() -> None:
    for name in COMMANDS:
        command: Any = get_command(app).get_command(None, name)  # type: ignore[attr-defined]
        for one in getattr(command, "commands", {"": command}).values():
            assert "--json" in {flag for param in one.params for flag in param.opts}, one.name


def test_doctor_prints_one_json_object() -> None:
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    names = [check["name"] for check in result["checks"]]
    assert {"python", "torch", "vllm", "encoder", "lab", "gpu", "memory", "disk"} <= set(names)
    for check in result["checks"]:
        assert check["ok"] or (check["means"] and check["fix"]), check


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run("report", str(tmp_path), "--json")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_failure_is_exit_code_1() -> None:
    done = run("ask", "Where?", "--url", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "neurorit-rag serve" in done.stderr and len(done.stderr.splitlines()) == 1


def test_wrong_use_is_exit_code_2() -> None:
    assert run("tune").returncode == 2
    assert run("no-such-command").returncode == 2


def test_interrupt_is_exit_code_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(workplace: Path) -> dict[str, bool]:
        raise KeyboardInterrupt

    monkeypatch.setattr("neurorit.pipelines.doctor.examine", interrupted)
    monkeypatch.setattr(sys, "argv", ["neurorit-rag", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


ENDED = """
import sys, time
from neurorit.cli import main
from neurorit.pipelines import doctor
def examine(workplace):
    try:
        print("up", flush=True)
        time.sleep(60)
    finally:
        print("cleared away", flush=True)
        time.sleep(0.5)
        print("to the end", flush=True)
doctor.examine = examine
sys.argv = ["neurorit-rag", "doctor"]
main()
"""


@pytest.mark.parametrize(
    ("number", "processes", "code", "said"),
    [
        (signal.SIGTERM, "1", 143, "cleared away\nto the end\n"),
        (signal.SIGHUP, "1", 129, "cleared away\nto the end\n"),
        (signal.SIGTERM, "2", -signal.SIGTERM, ""),
    ],
)
def test_a_signal_ends_a_command_with_what_it_holds(
    number: signal.Signals, processes: str, code: int, said: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDED],
        env={**os.environ, "WORLD_SIZE": processes},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    # What a command prints of its own goes to stderr.
    assert process.stderr.readline() == "up\n"
    process.send_signal(number)
    time.sleep(0.2)
    process.send_signal(number)  # a terminal that is closed sends one, and a shell another one
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", said)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        end_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(workplace: Path) -> dict[str, bool]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/vectors")

    monkeypatch.setattr("neurorit.pipelines.doctor.examine", full)
    monkeypatch.setattr(sys, "argv", ["neurorit-rag", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: No space left on device: out/vectors\n"


@pytest.mark.parametrize("library", ["faiss", "sqlite"])
def test_a_full_disk_of_another_library_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], library: str
) -> None:
    def full(workplace: Path) -> dict[str, bool]:
        if library == "sqlite":
            raise sqlite3.OperationalError("database or disk is full")
        import faiss

        index = faiss.IndexFlatL2(2000)
        index.add(np.zeros((500, 2000), dtype=np.float32))
        faiss.write_index(index, "/dev/full")
        return {}

    if library == "faiss" and not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    monkeypatch.setattr("neurorit.pipelines.doctor.examine", full)
    monkeypatch.setattr(sys, "argv", ["neurorit-rag", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith("error: ") and said.endswith("is the disk full?\n")
    assert said.count("\n") == 1


def test_recipe_variant_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("tune: {steps: 5, rate: 1, layers: [1, 2]}\ntune-sft: {steps: 7, kind: b}\n")
    recipe = Recipe(path)
    assert recipe.settings(Settings, "tune", {}) == Settings(5, 1.0, layers=(1, 2))
    given = recipe.settings(Settings, "tune", {"steps": None, "rate": 0.25}, "sft")
    assert given == Settings(7, 0.25, "b", layers=(1, 2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tune: {stepz: 5}", "tune.stepz is no setting"),
        ("tune: {steps: many}", "tune.steps is 'many'"),
        ("tune: {steps: true}", "tune.steps is True, but it must be a whole number"),
        ("tune: {kind: c}", "tune.kind is 'c'"),
        ("tuen: {steps: 5}", "unknown section 'tuen'"),
        ("tune: 5", "section 'tune'"),
        ("- 1", "sections"),
        ("tune: {steps: [", "not a recipe"),
        ("tune-srt: {steps: 3}", "unknown section 'tune-srt'"),
    ],
)
def test_recipe_errors_name_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        Recipe(path).settings(Settings, "tune", {})
    assert str(path) in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        Recipe(tmp_path / "none.yaml")


def test_assignments_are_read_as_yaml() -> None:
    read = parse_assignments(["steps=3", "top-k=[1, 2]", "kind=b", "limit=null"])
    assert read == {"steps": 3, "top_k": [1, 2], "kind": "b", "limit": None}
    for wrong in ("steps", "=3", "steps=["):
        with pytest.raises(BadInput):
            parse_assignments([wrong])


def test_stage_is_kept_only_while_inputs_and_outputs_hold(tmp_path: Path) -> None:
    source, made = tmp_path / "source", tmp_path / "run" / "made"
    source.write_text("1")
    ran: list[str] = []

    def run_stage(resume: bool) -> dict[str, int]:
        def work() -> dict[str, int]:
            ran.append(source.read_text())
            made.write_text(ran[-1])
            return {"value": int(ran[-1])}

        with stages_in(tmp_path / "run", resume=resume, tell=lambda line: None) as stages:
            return stages.run("copy", work, inputs=[source], outputs=[made])

    assert run_stage(False) == {"value": 1}
    assert run_stage(True) == {"value": 1} and len(ran) == 1
    source.write_text("2")
    assert run_stage(True) == {"value": 2} and len(ran) == 2
    made.write_text("changed")
    assert run_stage(True) == {"value": 2} and len(ran) == 3
    assert run_stage(False) == {"value": 2} and len(ran) == 4


def test_stages_leave_foreign_directories_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        with (
            pytest.raises(BadInput, match="no former demo run"),
            stages_in(place, resume=False, tell=lambda line: None),
        ):
            pass
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("resume", [False, True])
def test_of_two_demos_in_one_directory_the_second_is_refused(tmp_path: Path, resume: bool) -> None:
    run = tmp_path / "run"
    with stages_in(run, resume=False, tell=lambda line: None) as stages:
        stages.run("make", lambda: {"size": (run / "made").write_text("1")}, outputs=[run / "made"])
        with (
            pytest.raises(BadInput, match="another demo works there now"),
            stages_in(run, resume=resume, tell=lambda line: None),
        ):
            pass
        assert (run / "made").read_text() == "1"
    with stages_in(run, resume=resume, tell=lambda line: None):
        assert (run / "made").exists() is resume


def test_stages_refuse_a_torn_record(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("{")
    with (
        pytest.raises(BadInput, match="resume=True"),
        stages_in(tmp_path, resume=True, tell=lambda line: None),
    ):
        pass


def test_what_to_run_next_begins_with_the_environment_where_that_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").touch()
    monkeypatch.setattr(closing.sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert closing._entered() == ["source .venv/bin/activate"]
    (binaries / "neurorit-rag").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(binaries))
    assert closing._entered() == []


def test_a_message_names_the_parameter_and_the_command_line_its_option(tmp_path: Path) -> None:
    broken = tmp_path / "vectors.npy"
    broken.write_bytes(b"no vectors")
    with pytest.raises(BadInput) as error:
        GivenVectors(broken, 1, 4)
    assert str(error.value).startswith(f"vectors={broken}: not a .npy file")
    assert error.value.args == (str(error.value),)
    done = run("lab", "judge", "--out", str(tmp_path / "out"), "--reading", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --reading {tmp_path}: no checkpoint there")
    # A flag is set, a setting without an option of its own is given by --set, others are words.
    message = BadInput("name another ‹out› or pass ‹overwrite=True›; ‹top_k=0› ‹no such thing›")
    assert str(message) == "name another out or pass overwrite=True; top_k=0 ‹no such thing›"
    shown = message.for_shell(
        {"out": "--out", "overwrite": "--overwrite", "top_k": "-k"}.__getitem__
    )
    assert shown == "name another --out or pass --overwrite; -k 0 ‹no such thing›"
    assert message.for_shell(lambda name: f"--set {name}").endswith("--set top_k=0 ‹no such thing›")
