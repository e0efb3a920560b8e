"""The house itself: light imports, named layers, documents that tell the truth, package data."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

import neurorit
from neurorit.cli import COMMANDS

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "faiss", "vllm", "sentence_transformers", "matplotlib", "numpy")
HEAVY += ("datasets", "peft", "scipy", "fastapi", "uvicorn", "httpx", "pandas", "yaml", "pydantic")
PACKAGES = ("neurorit", "retrieval", "serving", "eval")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/method.md", "docs/using-your-own-data.md")
DOCUMENTS += ("docs/evaluation.md", "docs/serving.md")
SECRETIVE = re.compile(r"https?://[^\s)>\"']*(pypi|simple|artifactory|nexus|mirror)", re.IGNORECASE)


def sources() -> list[Path]:
    """Every module of the product, each once."""
    return [
        path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if not any(above.is_symlink() for above in path.parents)
    ]


def project() -> dict[str, object]:
    with open(ROOT / "pyproject.toml", "rb") as stream:
        return tomllib.load(stream)


def test_command_line_imports_nothing_heavy() -> None:
    code = (
        "import json, sys, neurorit.cli as c; from typer.main import get_command as g\n"
        "for name in c.COMMANDS: g(c.app).get_command(None, name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & set(HEAVY)


def test_one_import_root() -> None:
    for name in PACKAGES[1:]:
        link = ROOT / "neurorit" / name
        assert link.is_symlink() and link.readlink() == Path("..") / name
        assert importlib.import_module(f"neurorit.{name}").__name__ == f"neurorit.{name}"
    bare = re.compile(rf"^\s*(from|import) ({'|'.join(PACKAGES[1:])})\b", re.MULTILINE)
    for path in sources():
        assert not bare.search(path.read_text(encoding="utf-8")), path


def test_rooms_are_small_enough_to_guess() -> None:
    files = [*sources(), *(ROOT / "benchmarks").rglob("*.py")]
    folders = Counter(path.parent for path in files if path.stem != "__init__")
    crowded = {folder: count for folder, count in folders.items() if count > 14}
    assert not crowded


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_commands_that_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"(?:`|^\s*)make ([a-z-]+)", text, re.MULTILINE):
        assert target in targets, f"{name}: make {target}"
    for command in re.findall(r"neurorit-rag ([a-z]+)", text):
        assert command in {*COMMANDS}, f"{name}: neurorit-rag {command}"
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / name).parent.joinpath(link).exists(), f"{name}: {link}"


def paths_of_the_tree() -> list[str]:
    """Every path that CONTRIBUTING's tree names, from the indentation of its lines."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tree,) = (part for part in text.split("```") if part.startswith("\nneurorit/\n"))
    paths, above = [], {0: ""}
    for line in tree.strip().splitlines():
        depth = len(line) - len(line.lstrip())
        named, _, said = line.strip().partition("  ")
        within = above[depth]
        names = named.split(", ")
        paths += [within + name for name in names]
        if names[0].endswith("/"):
            above[depth + 2] = within + names[0]
            # What is said of a folder names files in it.
            beside = re.findall(r"(?<![\w/.])[a-z_0-9]+\.(?:py|md)\b", said)
            paths += [within + names[0] + name for name in beside]
    return paths


def test_every_path_of_the_tree_exists_and_every_room_is_in_it() -> None:
    paths = paths_of_the_tree()
    assert len(paths) > 90
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    rooms = {
        f"{folder.relative_to(ROOT)}/"
        for package in PACKAGES
        for folder in (ROOT / package).iterdir()
        if (folder / "__init__.py").is_file() and not folder.is_symlink()
    }
    assert rooms <= set(paths)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_documents_name_paths_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rooms = "|".join(PACKAGES)
    folders = rf"(?:{rooms}|tests|benchmarks|docs|docker|requirements)"
    for name in re.findall(rf"[`\s](?:python )?({folders}/[\w./-]+\.\w+)[`\s]", text):
        assert (ROOT / name).exists(), f"{path.name}: {name}"
    for dotted in re.findall(rf"`((?:{rooms})(?:\.[a-z_]\w*)+)", text):
        place = ROOT / dotted.replace(".", "/")
        modules = (place.with_suffix(".py"), place.parent.with_suffix(".py"))
        named = place.is_dir() or any(module.is_file() for module in modules)
        assert dotted.startswith("neurorit.") and named, f"{path.name}: {dotted}"


def test_no_deadline_rate_or_lease_hangs_on_a_clock_that_may_be_set() -> None:
    """Times of day are told to people, and read from Retry-After, where the wait has a bound."""
    used = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|utcnow|today)\(|\btime\.ctime\(")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in sources()
        if used.search(path.read_text(encoding="utf-8"))
    }
    assert found == {
        "neurorit/core/endpoint/client.py",
        "serving/gateway/responses.py",
        "serving/gateway/responses_api.py",
    }


def test_version_is_one() -> None:
    from importlib.metadata import version

    assert version("neurorit-rag") == neurorit.__version__
    assert f"## {neurorit.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_recipes_are_read_by_their_settings() -> None:
    from neurorit.mining.settings import MiningSettings
    from neurorit.pipelines.recipe import Recipe
    from neurorit.retrieval.noise.mixer import MixSettings, PoolSettings
    from neurorit.tuning.settings import TuneSettings

    for path in sorted((ROOT / "neurorit" / "recipes").glob("*.yaml")):
        recipe = Recipe(path)
        recipe.settings(MixSettings, "mix", {})
        recipe.settings(PoolSettings, "mix-eval", {})
        recipe.settings(MiningSettings, "mine", {})
        for method in ("neuro-rit", "sft", "lora"):
            recipe.settings(TuneSettings, "tune", {"method": method}, method)


def test_no_file_is_long_and_every_module_says_what_it_is() -> None:
    for path in sources():
        text = path.read_text(encoding="utf-8")
        assert text.startswith('"""'), path
        assert text.count("\n") <= 600, path


def test_no_file_names_a_package_index() -> None:
    for path in [*ROOT.glob("*.*"), *(ROOT / "requirements").iterdir(), ROOT / "Makefile"]:
        if path.is_file():
            assert not SECRETIVE.search(path.read_text(encoding="utf-8")), path


def test_continuous_integration_is_runnable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text(encoding="utf-8")
    assert text.index("lint") < text.index("make --no-print-directory test")
