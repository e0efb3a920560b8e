"""Parts by name: ours, registered ones, and entry points of other packages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import neurorit as nr
from neurorit.core import registry
from neurorit.core.errors import BadInput
from neurorit.core.registry import KINDS, Registry, register
from neurorit.data.examples import NOISE, Example, Passage
from neurorit.eval.conditions import build_condition, parse_condition
from neurorit.mining.selection.choose import Evidence, select
from neurorit.mining.settings import ATTRIBUTIONS, SELECTIONS, SITES
from neurorit.pipelines.evaluation.judge import JUDGES
from neurorit.retrieval.noise.kinds import Chosen, Draw, Reason
from neurorit.tuning.settings import LOSSES, TUNINGS
from tests.neurorit.conftest import examples

EVERY: tuple[Registry[Any], ...] = (ATTRIBUTIONS, SELECTIONS, SITES, LOSSES, TUNINGS, NOISE, JUDGES)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in KINDS})
    yield


def test_every_part_of_ours_is_there() -> None:
    assert {one.kind for one in EVERY} == set(KINDS)
    for one in EVERY:
        assert one.names()
        for name in one.names():
            assert callable(one.get(name)) or hasattr(one.get(name), "__dict__"), name


def test_a_part_is_registered_found_and_replaced() -> None:
    @register("selection", "none")
    def nothing(evidence: Any) -> Any:
        return {}

    assert SELECTIONS.get("none") is nothing
    assert SELECTIONS.names()[-1] == "none"
    register("selection", "none")(len)  # as when a notebook's cell runs again
    assert SELECTIONS.get("none") is len
    with pytest.raises(BadInput, match="'count' is built in"):
        register("selection", "count")
    with pytest.raises(BadInput, match="no part is a 'selektion': the kinds are attribution"):
        register("selektion", "mine")


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match=r"^selection 'best': it is one of count"):
        nr.MiningSettings(selection="best")
    with pytest.raises(BadInput, match=r"^method 'guess': it is one of integrated-gradients"):
        nr.MiningSettings(method="guess")
    with pytest.raises(BadInput, match=r"^losses 'l2': it is one of cross-entropy"):
        nr.TuneSettings(losses={"l2": 1.0})
    with pytest.raises(BadInput, match=r"^kinds 'rumour': it is one of distractor"):
        nr.MixSettings(kinds={"rumour": (1,)})


def installed(folder: Path, group: str, name: str, place: str, code: str) -> Path:
    """A package with one entry point, as pip leaves it."""
    (folder / "plugged.py").write_text(code, encoding="utf-8")
    info = folder / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {place}\n")
    return folder


def test_an_entry_point_is_loaded_when_it_is_named(tmp_path: Path) -> None:
    code = "def rule(counts, scores, k):\n    return counts > 0\n"
    installed(tmp_path, "neurorit.selection", "kept", "plugged:rule", code)
    program = (
        "import sys; from neurorit.mining.settings import SELECTIONS\n"
        "assert 'kept' in SELECTIONS and 'kept' in SELECTIONS.names()\n"
        "assert 'plugged' not in sys.modules and 'torch' not in sys.modules\n"
        "print(SELECTIONS.get('kept').__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "plugged"


def test_an_entry_point_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert "wise" not in JUDGES
    # One that is installed while a notebook runs is found, though all were looked at before.
    installed(tmp_path, "neurorit.judge", "wise", "plugged:Judge", "import no_such_module\n")
    said = r"judge 'wise': the entry point plugged:Judge of the package plugged cannot be loaded: M"
    with pytest.raises(BadInput, match=said):
        JUDGES.get("wise")


def test_a_selection_of_ones_own_chooses_the_neurons(checkpoint: Path) -> None:
    @register("selection", "last-layer")
    def last_layer(evidence: Evidence) -> dict[str, np.ndarray]:
        order = np.argsort(-evidence.atlas.scores_rel[-1], kind="stable")[: evidence.budget]
        return {"rel": np.stack([np.full(len(order), 3), order], axis=1)}

    settings = nr.MiningSettings(
        samples=4, contexts="all", steps=4, share=0.05, resamples=2, force=True
    )
    atlas = nr.mine(checkpoint, None, examples(), replace(settings, selection="last-layer"))
    assert set(atlas.rel[:, 0].tolist()) == {3}
    assert not len(atlas.irrel) + len(atlas.shared)
    wrong = [
        ("float", lambda e: {"rel": np.zeros((2, 2))}, "rel is to be whole numbers"),
        ("outside", lambda e: {"rel": np.array([[9, 0]])}, "that the model does not have"),
        ("unnamed", lambda e: {"noise": np.array([[0, 0]])}, "'noise' is none of rel, irrel"),
        ("twice", lambda e: {"rel": np.array([[0, 0]]), "irrel": np.array([[0, 0]])}, "twice"),
        ("empty", lambda e: {}, "no neuron is left"),
        ("many", lambda e: {"rel": np.argwhere(np.ones((1, 6)))}, "took 6 neurons, more than"),
    ]
    for name, rule, said in wrong:
        register("selection", name)(rule)
        with pytest.raises(BadInput, match=said):
            select(Evidence(atlas, 5, together=True), name)


def test_an_attribution_of_ones_own_scores_the_neurons(checkpoint: Path) -> None:
    from neurorit.mining.integrated_gradients import Comparison, Method

    def size(given: Comparison) -> tuple[torch.Tensor, None]:
        return given.difference.abs().sum(2), None

    register("attribution", "size")(Method(size))
    example = examples()[1]
    settings = nr.MiningSettings(method="size")
    found = nr.attribute(checkpoint, None, example, answer="Mira", settings=settings)
    plain = nr.attribute(
        checkpoint, None, example, answer="Mira", settings=replace(settings, method="activation")
    )
    torch.testing.assert_close(found.scores, plain.scores.abs())
    assert found.residual == 0.0


def test_a_method_and_a_loss_of_ones_own_train_what_they_say(checkpoint: Path) -> None:
    from neurorit.model.load import load_model
    from neurorit.tuning.stages import Method, Stage, Task
    from neurorit.tuning.tuned_model import Forward

    class Head:
        def __init__(self, model: Any) -> None:
            model.requires_grad_(False)
            self.weight = model.lm_head.weight
            self.weight.requires_grad_(True)

        def samples(self, evidence: torch.Tensor) -> None: ...

        def merge(self) -> None: ...

    def stages(task: Task) -> list[Stage]:
        rate = task.settings.learning_rate
        return [
            Stage(
                "head",
                lambda model, _: Head(model),
                task.samples,
                task.settings.steps,
                lambda head: [([("lm_head.weight", head.weight)], rate)],
            )
        ]

    seen: list[float] = []

    def shrinking(given: Forward) -> torch.Tensor:
        seen.append(float(given.evidence.float().mean()))
        return given.logits.float().square().mean()

    register("tuning", "head")(Method(stages, needs_atlas=False))
    register("loss", "shrinking")(shrinking)
    losses = {"cross-entropy": 1.0, "shrinking": 0.5}
    settings = nr.TuneSettings(method="head", steps=2, batch_size=6, losses=losses)
    model, tokenizer = load_model(checkpoint, device="cpu")
    tuned = nr.tune(model, tokenizer, examples(), settings=settings)
    assert len(seen) == 2
    before, after = model.state_dict(), tuned.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["model.embed_tokens.weight", "lm_head.weight"]  # they are one
    alone = replace(settings, losses={"cross-entropy": 1.0})
    other = nr.tune(model, tokenizer, examples(), settings=alone)
    assert not torch.equal(other.lm_head.weight, tuned.lm_head.weight)


def test_a_noise_of_ones_own_is_mixed_read_and_shown(tmp_path: Path) -> None:
    @register("noise", "reversed")
    def backwards(draw: Draw) -> Chosen:
        if draw.gold is None:
            return []
        text = " ".join(reversed(draw.gold.text.split()))
        made = Passage(f"{draw.gold.id}#reversed", draw.gold.title, text, "reversed")
        return [(made, Reason(made.id, "reversed", "the gold passage's words, backwards"))]

    corpus = [Passage("a", "Mira", "Mira was born in Karvel."), Passage("b", "Jon", "Jon was not.")]
    index = nr.build_index(corpus, tmp_path / "index")
    asked = [Example("q", "Where was Mira born?", ("Karvel",))]
    settings = nr.PoolSettings(kinds={"reversed": (1,)})
    mixed = nr.mix(asked, index, settings, out=tmp_path / "examples")
    (example,) = nr.load_examples(tmp_path / "examples")
    assert example == mixed[0]
    assert parse_condition("reversed-1").noise == "reversed"
    shown = build_condition(example, "reversed-only-1")
    assert [p.text for p in shown] == ["Karvel. in born was Mira"]
    assert mixed.counts["passages"]["reversed"] == 1
    with pytest.raises(BadInput, match="kinds: random has a setting of its own"):
        nr.mix(asked, index, nr.MixSettings(kinds={"random": (1,)}))
    register("noise", "wrong")(lambda draw: [(draw.hits[0].passage, Reason("a", "wrong", ""))])
    with pytest.raises(BadInput, match="kinds: wrong gave other passages than 1 of its kind"):
        nr.mix(asked, index, nr.MixSettings(kinds={"wrong": (1,)}))
    with pytest.raises(BadInput, match="unknown condition 'rumour-1'"):
        parse_condition("rumour-1")
