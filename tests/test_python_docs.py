"""docs/python.md and examples/lab.py do what they say, on a small piece of the lab's world."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import neurorit as nr
from neurorit.core import registry
from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
pytestmark = pytest.mark.slow


def blocks(language: str, *, named: str = "") -> list[str]:
    """The page's code blocks of a language: those without a file's name, or of that name."""
    text = PAGE.read_text(encoding="utf-8")
    mark = rf" file={re.escape(named)}" if named else ""
    return re.findall(rf"^```{language}{mark}\n(.*?)^```$", text, flags=re.M | re.S)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page takes for granted; it is the current one."""
    world = write_world(tmp_path / "world", 0, train=12, validation=1, test=6)
    for name in ("corpus", "train", "test"):
        shutil.copy(world[name], tmp_path / f"{name}.jsonl")
    (tmp_path / "model").symlink_to(base_model_dir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in registry.KINDS})
    return tmp_path


def small(code: str) -> str:
    """The same with few samples and steps."""
    code = re.sub(r"samples=\d+", "samples=6", code)
    code = re.sub(r"(?<=[( ])steps=\d+", "stage1_steps=1, steps=2, batch_size=4", code)
    return code


def test_the_pages_python_runs_as_it_stands(place: Path) -> None:
    first, *more = blocks("python")
    assert f"```python\n{first}```" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert len([line for line in first.splitlines() if line.strip()]) == 10
    names: dict[str, Any] = {}
    for code in (first, *more):
        assert small(code) == code or "steps" in code or "samples" in code
        exec(compile(small(code), str(PAGE), "exec"), names)
    assert names["tuned"] is not names["model"]
    assert list(names["table"].to_pandas("em").columns) == ["base", "tuned"]
    assert len(names["hits"]) == 5
    assert names["found"].residual < 0.05
    assert (place / "table.html").is_file()
    atlas = names["atlas"]
    assert len(atlas.irrel) > 0 and not len(atlas.rel)


def test_a_selection_in_a_package_of_its_own_is_found(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = blocks("python", named="my_rules.py")
    (project,) = blocks("toml", named="pyproject.toml")
    site = place / "site"
    site.mkdir()
    (site / "my_rules.py").write_text(code, encoding="utf-8")
    described = tomllib.loads(project)["project"]
    info = site / f"my_rules-{described['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {described['name']}\nVersion: {described['version']}\n"
    (info / "METADATA").write_text(head)
    lines = []
    for group, entries in described["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    try:
        settings = nr.MiningSettings(
            selection="even-layers", samples=4, contexts="all", steps=4, resamples=2, force=True
        )
        index = nr.build_index("corpus.jsonl", "index")
        train = nr.mix("train.jsonl", index, nr.MixSettings(limit=12))
        even = nr.mine("model", None, train, settings)
    finally:
        sys.modules.pop("my_rules", None)
    depth, width = even.scores_rel.shape
    most = round(settings.share * depth * width) // depth
    layers = even.irrel[:, 0].tolist()
    assert [layers.count(layer) for layer in range(depth)] == [most] * depth
    assert not len(even.rel) + len(even.shared)


def test_the_lab_as_a_script_makes_a_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = ROOT / "examples" / "lab.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    spec = importlib.util.spec_from_file_location("lab_example", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    table = script.main(place / "lab", people=15, questions=6, steps=6)
    assert table.report["systems"] == ["base", "neuro-rit"]
    assert table.report["judge"]["kappa"] > 0.5
    assert "NeuronAtlas(" in capsys.readouterr().out
