"""What an experiment file may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.pipelines.experiment import run as experiment
from neurorit.pipelines.recipe import LAB_RECIPE
from tests.neurorit.pipelines.experiment.stand_in import write

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "`model` is missing"),
        ({"method": ["sft"]}, "no setting"),
        ({"methods": [], "variants": {}}, "name `methods`"),
        ({"select": {"best": 1}}, "select knows"),
        ({"select": {"clean_within": 1, "each": "seed"}}, "each is method or variant"),
        ({"test": None, "test_seeds": [1]}, "test_seeds is for `test`"),
        ({"test_seeds": [1, 1]}, "test_seeds: one stands there twice"),
        ({"variants": {"a": {"method": "sft", "rate_factors": [0]}}}, "list of positive numbers"),
        (
            {"variants": {"a": {"method": "sft", "rate_factors": [1], "learning_rates": [1]}}},
            "learning_rates or rate_factors, not both",
        ),
        ({"select": {}}, "declare the rule"),
        ({"variants": {"one": {"settings": {}}}}, "variant one"),
        ({"seeds": "many"}, "seeds"),
        ({"seeds": [0, 1, 0]}, "seeds: one stands there twice"),
        ({"variants": {"sft": {"method": "sft"}}}, "variant sft: that is the name of another"),
        ({"variants": {"base": {"method": "sft"}}}, "variant base: that is the name of the untun"),
        ({"variants": {"one": {"method": "sft", "against": "two"}}}, "no other variant"),
        ({"variants": {"one": {"method": "sft", "data": "x"}}}, "not {'data'}"),
    ],
)
def test_a_wrong_file_is_named(
    file: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        experiment.Experiment.read(write(tmp_path, **changes))


def test_data_that_is_not_there_is_named_before_anything_is_made(
    file: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, says in (("examples-train", "`make demo` writes it"), ("other", "rag mix` makes")):
        path = write(tmp_path, evaluate=f"runs/demo/{name}")
        with pytest.raises(BadInput, match=rf"yaml: evaluate: runs/demo/{name}: .*{says}"):
            experiment.run(path, tmp_path / "out")
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(BadInput, match=r"processes: 8"):
        experiment.run(file, tmp_path / "out")
    assert not calls and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": ["clean", "typo-3"]}, "unknown condition 'typo-3'"),
        ({"conditions": ["clean", "random-4"]}, "`clean` and `distractor-K`"),
        ({"methods": ["sfft"]}, "method .sfft"),
        ({"variants": {"own": {"method": "sft", "settings": {"stepps": 1}}}}, "stepps"),
        ({"variants": {"own": {"method": "neuro-rit", "mine": {"share": 3}}}}, "share"),
    ],
)
def test_what_is_wrong_shows_before_anything_is_made(
    file: Path, calls: list[str], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        experiment.run(write(tmp_path, **changes), tmp_path / "out")
    assert not calls


def test_packaged_experiments_can_be_read() -> None:
    from neurorit.tuning.settings import METHODS

    for path in (LAB_RECIPE.parent / "experiments").glob("*.yaml"):
        made = experiment.Experiment.read(path)
        assert {variant.method for variant in made.all_variants()} <= set(METHODS)
