"""The demonstration on a real model, with a tiny one: every stage, stopped, and gone on with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.pipelines.demo import real
from neurorit.pipelines.demo.data import find_sources
from neurorit.pipelines.demo.settings import DemoSettings
from neurorit.pipelines.evaluation.evaluate import evaluate
from neurorit.pipelines.recipe import Recipe, find_recipe
from neurorit.pipelines.stages import Stages, stages_in

RECIPE = """
demo: {encoder: minilm, conditions: [clean, distractor-1], max_tokens: 4,
       people: 24, causal_contexts: 2, retained: 2, instructions: 2}
demo-lab: {questions: 20, rivals: [sft, lora]}
mix-reader: {distractor: [0], random: [0], without_gold: 0, limit: 24}
mix: {limit: 24}
mine: {contexts: all, least_gain: 0, samples: 4, steps: 4, force: true}
tune: {batch_size: 4, stage1_steps: 1, steps: 2}
tune-reader: {stage1_steps: 0, steps: 3}
"""


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """The whole job on the tiny model; it answers in this process, and nothing is served."""
    monkeypatch.setattr(
        real,
        "evaluate",
        lambda *args, engine, **more: evaluate(*args, engine="transformers", **more),
    )
    monkeypatch.setattr(real, "ask_served", _answer)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    place = {"recipe": tmp_path / "recipe.yaml", "resume": True}
    return partial(real.demo, str(tiny_model), tmp_path / "run", **place)


def _answer(model: Path, index: Path, question: Any, out: Path) -> dict[str, Any]:
    found = {"question": question["question"], "answer": "", "sources": [], "expected": ["x"]}
    found["tuned"] = model.name
    (out / "served.json").write_text(json.dumps(found))
    return found


@pytest.mark.slow
def test_the_whole_job_and_going_on_with_it(
    run: Callable[[], Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tune = real.tuning.tune

    def stopped(*args: Any, **more: Any) -> Any:
        if args[3] == "lora":
            raise KeyboardInterrupt
        return tune(*args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(real.tuning, "tune", stopped)
        with pytest.raises(KeyboardInterrupt):
            run()
    made = run()
    kept = {name for name, seconds in made["seconds"].items() if seconds == 0.0}
    assert {"data", "index", "mix lab", "tune reader", "mine", "tune sft"} <= kept
    assert not {"tune lora", "eval lab"} & kept
    systems = {row["system"] for row in made["results"]["lab"]}
    assert systems == {"instruct", "reader", "neuro-rit", "sft", "lora"}
    report = json.loads((tmp_path / "run" / "report-lab" / "report.json").read_text())
    assert {row["condition"] for row in report["results"]} == {"clean", "distractor-1"}
    assert report["retention"]["base"] == "reader"
    assert report["served"]["tuned"] == "lora"  # what the evidence supports best
    page = (tmp_path / "run" / "report-lab" / "report.html").read_text()
    assert "lora (neuro-rit is the paper&#39;s method)" in page
    # The headline is of the method.
    assert (report["comparisons"][0]["a"], report["comparisons"][0]["b"]) == ("neuro-rit", "reader")
    reader = json.loads((tmp_path / "run" / "examples-reader" / "manifest.json").read_text())
    assert reader["settings"]["limit"] == 24 and reader["settings"]["without_gold"] == 0
    told = capsys.readouterr().err
    assert "served:           lora (neuro-rit is the paper's method)" in told
    assert f"serve --model {tmp_path / 'run' / 'lora'}" in told
    for name in ("instruct", "lora", "distractor-1"):
        assert name in (tmp_path / "run" / "table.md").read_text()
    # Another rate for one rival makes that rival anew, and what is said of it.
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE + "tune-sft: {learning_rate: 0.01}\n")
    again = run()
    made_anew = {name for name, seconds in again["seconds"].items() if seconds > 0.0}
    assert made_anew == {"tune sft", "eval lab"}
    # A report that is not the one that was made is made anew, and so is an index that is gone,
    # whatever an unfinished build of other passages left.
    out = tmp_path / "run"
    (out / "report-lab" / "report.json").write_text("{}")
    shutil.rmtree(out / "index")
    left = out / ".index.building"
    left.mkdir()
    (left / "build.json").write_text('{"of": "another"}')
    (left / "journal.json").write_text("{}")
    third = run()
    made_anew = {name for name, seconds in third["seconds"].items() if seconds > 0.0}
    assert made_anew == {"index", "eval lab"} and not left.exists()
    assert json.loads((out / "report-lab" / "report.json").read_text())["retention"]


def test_a_model_without_a_recipe_needs_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="name a recipe with recipe, such as smollm2"):
        real.demo(str(tmp_path), tmp_path / "run")
    with pytest.raises(BadInput, match="recipe=nosuch: no such file"):
        real.demo("smollm2", tmp_path / "run", recipe=Path("nosuch"))
    assert not (tmp_path / "run").exists()


def test_data_that_changed_below_a_manifest_is_laid_out_anew(tmp_path: Path) -> None:
    folder = tmp_path / "fetched"
    folder.mkdir()
    passages = [{"id": f"p{n}", "title": "", "text": f"Passage {n} says that."} for n in range(9)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, passages)))
    (folder / "manifest.json").write_text("{}")  # as `data fetch` leaves one

    def asked(first: int, last: int) -> str:
        rows = [
            {"id": f"q{n}", "question": f"What says {n}?", "answers": ["that"], "gold": [f"p{n}"]}
            for n in range(first, last)
        ]
        return "\n".join(map(json.dumps, rows))

    (folder / "train.jsonl").write_text(asked(0, 4))
    (folder / "test.jsonl").write_text(asked(4, 6))

    def laid_out() -> tuple[list[str], str]:
        with stages_in(tmp_path / "run", resume=True, tell=lambda _: None) as stages:
            job = real._Job(stages, tmp_path / "recipe.yaml", DemoSettings(), 0)
            names = job.data(find_sources(folder))
        return names, (tmp_path / "run" / "data" / "test.jsonl").read_text()

    names, before = laid_out()
    assert names == ["test"] and laid_out() == (names, before)
    (folder / "test.jsonl").write_text(asked(4, 9))
    assert laid_out()[1].count("\n") == before.count("\n") + 3
    (folder / "dev.jsonl").write_text(asked(6, 9))
    assert laid_out()[0] == ["dev", "test"]


def test_files_that_a_recipe_names_are_of_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed, text = tmp_path / "mine.txt", tmp_path / "keep.jsonl"
    listed.write_text("0 1\n")
    text.write_text('{"id": "a", "text": "kept"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"mine: {{selection: file, neuron_list: {listed}}}\n"
        f"tune-lora: {{kl_weight: 1, kl_on: [text], kl_text: {text}}}\n"
    )
    made: list[str] = []

    def stand_in(_: Any, __: Any, out: Path, *___: Any, **____: Any) -> dict[str, Any]:
        made.append(out.name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "made").write_text("made")
        return {}

    monkeypatch.setattr(real.tuning, "mine", stand_in)
    monkeypatch.setattr(real.tuning, "tune", stand_in)
    for name in ("instruct", "run/examples-train", "run/examples-reader"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "run" / "stages.json").write_text("{}")

    def tuned() -> list[str]:
        made.clear()
        with stages_in(tmp_path / "run", resume=True, tell=lambda _: None) as stages:
            real._Job(stages, recipe, DemoSettings(), 0).tuned(tmp_path / "instruct")
        return list(made)

    assert tuned() == ["reader", "atlas", "neuro-rit", "sft", "lora"]
    assert tuned() == []
    listed.write_text("0 2\n")
    assert tuned() == ["atlas"]
    text.write_text('{"id": "a", "text": "kept too"}\n')
    assert tuned() == ["lora"]


def test_retention_needs_something_to_measure(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="retained"):
        DemoSettings(retained=1)
    stages = Stages(tmp_path / "run", {}, lambda _: None)
    job = real._Job(stages, tmp_path, DemoSettings(instructions=0), 0)
    assert job._retention("lab") is None and job._retention("squad-dev") is not None


def test_a_recipe_that_makes_no_reader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"lab\.yaml: the section `mix-reader` is missing"):
        real.demo("smollm2", tmp_path / "run", recipe=Path("lab"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rivals", "said"),
    [("[sft, dpo]", "rivals: 'dpo' is none of sft, lora"), ("[sft, sft]", "'sft' stands there tw")],
)
def test_rivals_are_known_methods(tmp_path: Path, rivals: str, said: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    readers = "mix-reader: {limit: 4}\ntune-reader: {steps: 1}\n"
    recipe.write_text(f"{readers}demo-lab: {{rivals: {rivals}}}\n")
    with pytest.raises(BadInput, match=said):
        real.demo("smollm2", tmp_path / "run", recipe=recipe)
    assert not (tmp_path / "run").exists()


def test_what_is_served_is_one_that_is_tuned() -> None:
    assert DemoSettings(rivals=("sft", "lora", "retrobust")).to_serve == "retrobust"
    assert DemoSettings(rivals=("sft", "lora")).to_serve == "lora"
    assert DemoSettings(rivals=("sft",)).to_serve == "neuro-rit"
    assert DemoSettings(rivals=("sft",), served="sft").to_serve == "sft"
    with pytest.raises(BadInput, match="served=lora: what is tuned is neuro-rit, sft"):
        DemoSettings(rivals=("sft",), served="lora")


def test_the_packaged_recipe_asks_more_of_real_text_than_of_the_lab() -> None:
    recipe = Recipe(find_recipe("smollm2"))
    text = recipe.settings(DemoSettings, "demo", {})
    lab = recipe.settings(DemoSettings, "demo", {}, real.WITHOUT_DATA)
    assert set(lab.conditions) < set(text.conditions) and lab.questions < text.questions
    assert set(lab.rivals) < set(text.rivals) and lab.least_words == text.least_words
