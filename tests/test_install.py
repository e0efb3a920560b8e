"""The package as people install it: wheel, sdist and editable, beside folders of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "tests/neurorit/pipelines/evaluation/vllm_of_the_test.py"
USERS = ("eval", "serving", "retrieval")  # names that a user's own packages may have


def run(*command: object, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel from the checkout, an sdist, and a wheel from that sdist."""
    folder = tmp_path_factory.mktemp("built")
    hatch = (sys.executable, "-m", "hatchling", "build")
    run(*hatch, "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    run(*hatch, "-t", "wheel", "-d", folder / "again", cwd=folder / sdist.name[: -len(".tar.gz")])
    (wheel,) = folder.glob("*.whl")
    (again,) = (folder / "again").glob("*.whl")
    return {"wheel": wheel, "sdist": again}


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """Where a user works: packages of the same names as our folders, which must not be imported."""
    for name in USERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the user's {name}')")
    corpus = [
        {"id": f"p{i}", "title": f"Town {i}", "text": f"Town {i} has {i} bridges."}
        for i in range(9)
    ]
    question = {"id": "q", "question": "How many bridges has Town 7?", "answers": ["7"]}
    passages = [{**corpus[7], "kind": "gold"}, {**corpus[3], "kind": "distractor"}]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (tmp_path / "test.jsonl").write_text(json.dumps(question | {"passages": passages}) + "\n")
    return tmp_path


@pytest.fixture(params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has the package; that of the wheel shares this one's dependencies alone."""
    if request.param == "editable":
        return Path(sys.executable)
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    scheme = {"base": str(venv), "platbase": str(venv)}
    packages = Path(sysconfig.get_path("purelib", vars=scheme))
    with zipfile.ZipFile(request.getfixturevalue("built")["wheel"]) as wheel:
        wheel.extractall(packages)
    # A path in a .pth file brings no .pth files of its own: the editable install stays out.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv / "bin" / "python"


def stand_in(folder: Path) -> dict[str, str]:
    """An environment with a small stand-in for vLLM: the wheel's real one takes a minute."""
    engine = folder / "engine" / "vllm"
    engine.mkdir(parents=True)
    shutil.copy(STAND_IN, engine / "__init__.py")
    return {"PYTHONPATH": str(engine.parent), "LEDGER": str(folder / "ledger")}


@pytest.mark.slow
def test_one_name_is_installed(built: dict[str, Path]) -> None:
    contents = {}
    for kind, wheel in built.items():
        with zipfile.ZipFile(wheel) as archive:
            contents[kind] = {
                i.filename: i.CRC for i in archive.infolist() if "dist-info" not in i.filename
            }
    assert contents["wheel"] == contents["sdist"]
    assert {name.split("/")[0] for name in contents["wheel"]} == {"neurorit"}
    tracked = run("git", "ls-files", "neurorit", *USERS, cwd=ROOT).split()
    files = {name if name.startswith("neurorit/") else f"neurorit/{name}" for name in tracked}
    assert set(contents["wheel"]) == files - {f"neurorit/{name}" for name in USERS}


# Several commands in one process: its imports take longer than they do.
SEVERAL = """
import json, sys
from neurorit.cli import main
from neurorit.lab import base_model_dir
for words in json.loads(sys.argv[1]):
    sys.argv = ["neurorit-rag", *(w.replace("MODEL", str(base_model_dir())) for w in words)]
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.mark.slow
def test_commands_work_beside_packages_of_the_same_names(python: Path, users_folder: Path) -> None:
    place = run(
        python, "-c", "import neurorit.eval; print(neurorit.eval.__file__)", cwd=users_folder
    )
    assert ("site-packages" in place) == (python != Path(sys.executable))
    assert "serve" in run(python, "-m", "neurorit.cli", "--help", cwd=users_folder)
    commands = [
        ["index", "corpus.jsonl", "--out", "index", "--json"],
        ["search", "index", "bridges of Town 7", "-k", "1", "--json"],
        [
            "eval", "--system", "base=MODEL", "--examples", "test.jsonl", "--condition", "clean",
            "--condition", "distractor-1", "--out", "report", "--json",
        ],
    ]  # fmt: skip
    engine = {} if python != Path(sys.executable) else stand_in(users_folder)
    said = run(python, "-c", SEVERAL, json.dumps(commands), cwd=users_folder, **engine)
    result = json.loads(said.splitlines()[1])
    assert result["passages"][0]["id"] == "p7"
    report = json.loads((users_folder / "report" / "report.json").read_text())
    assert [row["n"] for row in report["results"]] == [1, 1]
