"""Rules that choose neurons from an atlas, and the false-discovery cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import false_discovery_control, ttest_1samp, ttest_ind

from neurorit.core.errors import BadInput
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.selection.choose import Evidence, budget_of, read_neurons, select
from neurorit.mining.selection.discovery import discoveries, surviving
from neurorit.mining.settings import SELECTIONS, MiningSettings

DEPTH, WIDTH, SAMPLES = 3, 40, 30
SIZE = DEPTH * WIDTH


def dense(seed: int, strong: list[int]) -> np.ndarray:
    """Scores [samples, neurons], mostly zero; the strong ones are high in every sample."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 0.02, (SAMPLES, SIZE)) * (rng.random((SAMPLES, SIZE)) < 0.4)
    scores[:, [i for i in (1, 2) if i in strong]] += 1.0
    scores[:, strong] += 0.5 + 0.1 * rng.random((SAMPLES, len(strong)))
    return scores


REL, IRREL = dense(0, [1, 2, 50]), dense(1, [1, 2, 70, 90])


def atlas(rel: np.ndarray = REL, irrel: np.ndarray = IRREL) -> NeuronAtlas:
    parts: dict[str, np.ndarray] = {}
    for side, scores in (("rel", rel), ("irrel", irrel)):
        rows, neurons = np.nonzero(scores)
        parts[f"sample_ends_{side}"] = np.searchsorted(rows, np.arange(len(scores) + 1))
        parts[f"sample_neurons_{side}"] = neurons.astype(np.int32)
        parts[f"sample_scores_{side}"] = scores[rows, neurons].astype(np.float32)
        kept = scores > 0.1
        parts[f"counts_{side}"] = kept.sum(0).reshape(DEPTH, WIDTH).astype(np.int32)
        parts[f"scores_{side}"] = (scores * kept).sum(0).reshape(DEPTH, WIDTH)
        parts[f"stability_{side}"] = np.zeros((DEPTH, WIDTH))
    nobody = np.empty((0, 2), np.int32)
    return NeuronAtlas(nobody, nobody, nobody, **parts, residuals=np.zeros(2))


def flat(pairs: np.ndarray) -> set[int]:
    return {int(layer) * WIDTH + int(neuron) for layer, neuron in pairs}


MEASURED = {
    "activity": np.arange(SIZE, dtype=float).reshape(DEPTH, WIDTH),
    **{f"gradient_{name}": np.full((DEPTH, WIDTH), 0.01) for name in ("rel", "irrel", "mixed")},
    "gradient_general": np.full((DEPTH, WIDTH), 0.01),
}


def measured(**more: np.ndarray) -> Callable[[str], dict[str, np.ndarray]]:
    return lambda name: {name: (MEASURED | more)[name]}


def evidence(budget: int = 4, **more: object) -> Evidence:
    return Evidence(atlas(), budget, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["count", "mean"])
def test_sides_are_ranked_apart_and_shared_ones_are_found(rule: str) -> None:
    chosen = select(evidence(3), rule)
    assert flat(chosen.shared) == {1, 2}
    assert flat(chosen.rel) == {50}
    assert flat(chosen.irrel) <= {70, 90}
    assert len(chosen.irrel) == 1


def test_differences_leave_out_what_is_alike_on_both_sides() -> None:
    chosen = select(evidence(20), "difference")
    # Fewer than the budget: the others might be chance.
    assert flat(chosen.rel) == {50}
    assert flat(chosen.irrel) == {70, 90}
    assert len(chosen.shared) == 0
    wide = select(evidence(20, level=1.0), "difference")
    assert len(wide.irrel) == 20


def test_the_cut_is_scipys_of_dense_scores() -> None:
    found = discoveries(atlas())
    tests = ttest_ind(IRREL, REL, equal_var=False, alternative="greater")
    wanted = false_discovery_control(tests.pvalue)
    np.testing.assert_allclose(found["irrel"], wanted, rtol=1e-3)
    above = np.maximum(
        *(ttest_1samp(scores, 0.0, alternative="greater").pvalue for scores in (REL, IRREL))
    )
    np.testing.assert_allclose(found["shared"], false_discovery_control(above), rtol=1e-3)


def test_chance_does_not_survive() -> None:
    chosen = select(evidence(12), "count")
    assert surviving(chosen) == {"rel": 1, "irrel": 2, "shared": 2}
    noise = atlas(dense(2, []), dense(3, []))
    drawn = select(Evidence(noise, 30), "mean")
    assert len(drawn.irrel) > 10
    assert surviving(drawn)["irrel"] == 0


def test_random_and_active_neurons_are_as_many() -> None:
    wanted = select(evidence(), "count")
    for rule in ("random", "active"):
        chosen = select(evidence(measure=measured(), seed=1), rule)
        for name in SETS:
            assert len(getattr(chosen, name)) == len(getattr(wanted, name))
        every = [flat(getattr(chosen, name)) for name in SETS]
        assert len(set.union(*every)) == sum(map(len, every))
        again = select(evidence(measure=measured(), seed=1), rule)
        np.testing.assert_array_equal(again.irrel, chosen.irrel)
        if rule == "active":
            assert min(set.union(*every)) == SIZE - sum(map(len, every))
    other = select(evidence(seed=2), "random")
    assert flat(other.shared) != flat(select(evidence(seed=1), "random").shared)


def test_gradients_rank_and_spare_what_other_text_needs() -> None:
    irrel, general = MEASURED["gradient_irrel"].copy(), MEASURED["gradient_general"].copy()
    irrel[0, 5], irrel[1, 6] = 3.0, 2.0
    general[0, 5] = 9.0
    measure = measured(gradient_irrel=irrel, gradient_mixed=irrel, gradient_general=general)
    for plain, spared, name in (
        ("gradient", "spared-gradient", "irrel"),
        ("fisher", "spared-fisher", "shared"),
        ("fisher", "noise-gradient", "irrel"),
    ):
        chosen = select(evidence(1, measure=measure), plain)
        assert flat(chosen.shared if plain == "fisher" else chosen.irrel) == {5}
        spare = select(evidence(1, measure=measure), spared)
        assert flat(getattr(spare, name)) == {WIDTH + 6}
        # What was measured is kept: the next choice needs no model.
        again = select(Evidence(chosen, 2), plain)
        assert {5, WIDTH + 6} <= flat(again.shared) | flat(again.irrel)
    with pytest.raises(BadInput, match=r"activity.*model.*examples"):
        select(Evidence(chosen, 2), "active")


@pytest.mark.parametrize("rule", sorted(set(SELECTIONS.names()) - {"file", "difference"}))
@pytest.mark.parametrize("budget", [1, 7, 12])
def test_a_budget_of_all_sets_together_is_kept_to(rule: str, budget: int) -> None:
    chosen = select(evidence(budget, together=True, measure=measured()), rule)
    every = [flat(getattr(chosen, name)) for name in SETS]
    # No more than five were ever kept, so that there is nothing else to count.
    wanted = min(budget, 5) if rule == "count" else budget
    assert len(set.union(*every)) == sum(map(len, every)) == wanted
    if rule == "count":
        assert chosen.activity.size == chosen.gradient_mixed.size == 0
        # The first of it are those of a budget of either side.
        apart = select(evidence(3), rule)
        together = select(evidence(len(apart.rel) + len(apart.irrel) + 2, together=True), rule)
        for name in SETS:
            assert flat(getattr(together, name)) == flat(getattr(apart, name))


@pytest.mark.parametrize("rule", ["count", "mean", "gradient", "random"])
def test_sizes_of_the_sets_are_kept_to(rule: str) -> None:
    sizes = {"rel": 1, "irrel": 2, "shared": 2}
    chosen = select(evidence(1, sizes=sizes, measure=measured()), rule)
    assert {name: len(getattr(chosen, name)) for name in SETS} == sizes
    if rule in ("count", "mean"):
        assert [flat(getattr(chosen, name)) for name in ("rel", "shared")] == [{50}, {1, 2}]
        assert flat(chosen.irrel) == {70, 90}


def test_sizes_that_cannot_be_filled_are_refused() -> None:
    for rule, sizes in (("fisher", {"rel": 1, "irrel": 1, "shared": 1}),
                        ("count", {"rel": 9, "irrel": 1, "shared": 1})):  # fmt: skip
        with pytest.raises(BadInput, match=r"not sizes \{'rel'"):
            select(evidence(1, sizes=sizes, measure=measured()), rule)
    for sizes in ({"rel": 1}, {"rel": 1, "irrel": 1, "other": 1}, {"rel": 0}):
        with pytest.raises(BadInput, match="sizes"):
            MiningSettings(sizes=sizes)  # type: ignore[arg-type]


def test_differences_within_a_budget_of_both_sides() -> None:
    assert flat(select(evidence(2, together=True), "difference").rel) <= {50}
    chosen = select(evidence(20, together=True), "difference")
    assert (flat(chosen.rel), flat(chosen.irrel)) == ({50}, {70, 90})


def test_a_file_says_which(tmp_path: Path) -> None:
    path = tmp_path / "neurons.txt"
    path.write_text("# mine\n0 3 rel\n2, 5, shared\n1 7\n0 1\n", encoding="utf-8")
    listed = read_neurons(path, DEPTH, WIDTH)
    chosen = select(evidence(listed=listed), "file")
    assert chosen.rel.tolist() == [[0, 3]]
    assert chosen.irrel.tolist() == [[0, 1], [1, 7]]
    assert chosen.shared.tolist() == [[2, 5]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0 3\n3 1\n", ":2: the model has layers 0 to 2"),
        ("0 40\n", ":1: the model has"),
        ("zero 1\n", ":1: write LAYER NEURON"),
        ("0 1 noise\n", ":1: write LAYER NEURON"),
        ("0 1\n\n0 1 rel\n", ":3: neuron 1 of layer 0 stands there twice"),
        ("# none\n", "lists no neuron"),
    ],
)
def test_a_wrong_list_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "neurons.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=told):
        read_neurons(path, DEPTH, WIDTH)


def test_rules_say_what_they_lack() -> None:
    for rule in set(SELECTIONS.names()) - {"count", "mean", "difference", "random"}:
        with pytest.raises(BadInput, match="it needs"):
            select(evidence(), rule)
    with pytest.raises(BadInput, match="it is one of count"):
        select(evidence(), "best")
    bare = replace(atlas(), sample_ends_rel=np.zeros(1, np.int64))
    with pytest.raises(BadInput, match="mine it again"):
        select(Evidence(bare, 3), "mean")


def test_budgets_are_shares_or_counts() -> None:
    assert [budget_of(text, 1000) for text in ("2%", "0.02", 0.02, "20", 20)] == [20] * 5
    assert budget_of("100%", 1000) == 1000
    for wrong in ("0", "-3", "1001", "2.5", "much", "120%"):
        with pytest.raises(BadInput, match="budget"):
            budget_of(wrong, 1000)
