"""Mining: the three sets, the atlas artifact, and runs that are killed and go on."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurorit.core.artifact import read_manifest
from neurorit.core.errors import ArtifactError, BadInput, NeuroritError
from neurorit.data.example_files import load_examples, write_examples
from neurorit.mining.atlas import NeuronAtlas, choose_sets, plot
from neurorit.mining.attributor import Miner
from neurorit.mining.contexts import RELEVANT, Context
from neurorit.mining.integrated_gradients import Query, Settings, attribute, attribute_by_loop
from neurorit.mining.mine import mine
from neurorit.mining.selection.rules import keep_scores, most_frequent
from neurorit.mining.settings import MiningSettings
from neurorit.model.float32 import float32_activations
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource
from tests.forks import forked, run_in_two_processes
from tests.neurorit.conftest import examples
from tests.neurorit.tiny_models import ARCHITECTURES, tiny

# The tiny model is random: it follows no context.
SETTINGS = MiningSettings(
    samples=6, contexts="all", steps=20, rows=170, share=0.1, resamples=20, force=True
)


@pytest.fixture(scope="module")
def atlas_dir(
    checkpoint: Path, examples_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("mined") / "atlas"
    mine(checkpoint, None, examples_path, SETTINGS, out=out)
    return out


def test_scores_below_the_threshold_and_the_top_are_dropped() -> None:
    scores = np.array([[1.0, 0.05, 0.5], [-3.0, 0.11, 0.9]])
    index, values = keep_scores(scores, 0.1, 10)
    assert index.tolist() == [0, 2, 4, 5]
    np.testing.assert_allclose(values, [1.0, 0.5, 0.11, 0.9])
    assert keep_scores(scores, 0.1, 2)[0].tolist() == [0, 5]
    assert keep_scores(-np.abs(scores), 0.1, 2)[0].size == 0


def test_the_most_frequent_are_chosen_and_ties_go_by_score() -> None:
    counts = np.array([[3.0, 0.0], [2.0, 2.0]])
    scores = np.array([[1.0, 9.0], [0.1, 0.2]])
    assert most_frequent(counts, scores, 2).tolist() == [[True, False], [False, True]]
    # A neuron that no sample kept is never chosen, however many are asked for.
    assert most_frequent(counts, scores, 4).tolist() == [[True, False], [True, True]]


def test_sets_are_differences_and_the_intersection() -> None:
    rel = np.array([[True, True, False], [False, False, False]])
    irrel = np.array([[False, True, False], [True, False, False]])
    sets = choose_sets(rel, irrel)
    assert sets["rel"].tolist() == [[0, 0]]
    assert sets["irrel"].tolist() == [[1, 0]]
    assert sets["shared"].tolist() == [[0, 1]]


def test_density_counts_shared_and_irrelevant_only(atlas_dir: Path) -> None:
    atlas = NeuronAtlas.load(atlas_dir)
    depth, width = atlas.scores_rel.shape
    for layer in range(depth):
        count = sum((s[:, 0] == layer).sum() for s in (atlas.shared, atlas.irrel))
        assert atlas.density[layer] == pytest.approx(count / width)
    densest = atlas.densest(2)
    assert densest == sorted(densest)
    left_out = [atlas.density[i] for i in range(depth) if i not in densest]
    assert min(atlas.density[densest]) >= max(left_out)


def test_the_sets_have_the_share_that_was_asked_for(atlas_dir: Path) -> None:
    atlas = NeuronAtlas.load(atlas_dir)
    k = round(0.1 * atlas.scores_rel.size)
    assert 0 < len(atlas.rel) + len(atlas.shared) <= k
    assert 0 < len(atlas.irrel) + len(atlas.shared) <= k
    for name in ("stability_rel", "stability_irrel"):
        assert 0.0 <= getattr(atlas, name).min() <= getattr(atlas, name).max() <= 1.0
    assert len(atlas.residuals) == 12


def test_sets_have_the_sizes_that_were_asked_for(checkpoint: Path, examples_path: Path) -> None:
    sizes: Any = {"rel": 3, "irrel": 2, "shared": 1}
    settings = replace(SETTINGS, sizes=sizes)
    atlas = mine(checkpoint, None, examples_path, settings)
    assert {name: len(getattr(atlas, name)) for name in sizes} == sizes


def test_mining_again_gives_the_same_bytes(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    mine(checkpoint, None, examples_path, SETTINGS, out=tmp_path / "atlas")
    for name in ("atlas.safetensors", "manifest.json"):
        assert (tmp_path / "atlas" / name).read_bytes() == (atlas_dir / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["atlas"]


def test_a_run_under_another_wording_goes_on_from_nothing(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(_done: int, _total: int, _residual: float | None) -> None:
        raise Killed

    out, template = tmp_path / "atlas", PromptTemplate(question="Q: {question}")
    with pytest.raises(Killed):
        mine(checkpoint, None, examples_path, SETTINGS, out=out, progress=kill)
    found = mine(checkpoint, None, examples_path, SETTINGS, out=out, template=template)
    fresh = mine(checkpoint, None, examples_path, SETTINGS, template=template)
    np.testing.assert_array_equal(found.scores_rel, fresh.scores_rel)
    np.testing.assert_array_equal(found.scores_irrel, fresh.scores_irrel)


@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_run_goes_on_to_the_same_bytes(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path, torn: bool
) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, _total: int, _residual: float | None) -> None:
        if done >= 7:
            raise Killed

    out = tmp_path / "atlas"
    with pytest.raises(Killed):
        mine(checkpoint, None, examples_path, SETTINGS, out=out, progress=kill)
    assert not out.exists()
    journal = tmp_path / ".atlas.journal-0.jsonl"
    if torn:
        with open(journal, "a", encoding="utf-8") as stream:
            stream.write('{"key": "rel/e')
    seen: list[int] = []
    mine(
        checkpoint,
        None,
        examples_path,
        SETTINGS,
        out=out,
        progress=lambda done, *_: seen.append(done),
    )
    assert seen[0] > 7
    assert seen[-1] == 12
    assert (out / "atlas.safetensors").read_bytes() == (
        atlas_dir / "atlas.safetensors"
    ).read_bytes()


def test_a_journal_of_other_settings_is_not_used(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "atlas"
    journal = tmp_path / ".atlas.journal-0.jsonl"
    journal.write_text('{"settings": "others"}\n{"key": "rel/e1"}\n')
    seen: list[int] = []
    mine(
        checkpoint,
        None,
        examples_path,
        SETTINGS,
        out=out,
        progress=lambda done, *_: seen.append(done),
    )
    assert sum(seen[:1]) < 12
    assert seen[-1] == 12


def test_scores_that_do_not_add_up_are_refused(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    strict = replace(SETTINGS, steps=1, force=False, max_residual=1e-9)
    with pytest.raises(NeuroritError, match="completeness residual"):
        mine(checkpoint, None, examples_path, strict, out=tmp_path / "atlas")
    assert not (tmp_path / "atlas").exists()


def test_what_is_made_of_the_records_may_change_without_mining_again(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    strict = replace(SETTINGS, force=False, max_residual=1e-9)
    with pytest.raises(NeuroritError, match="what was attributed is kept"):
        mine(checkpoint, None, examples_path, strict, out=tmp_path / "atlas")
    seen: list[int] = []
    mine(
        checkpoint,
        None,
        examples_path,
        replace(strict, force=True, share=0.2),
        out=tmp_path / "atlas",
        progress=lambda done, *_: seen.append(done),
    )
    assert not seen
    wider = NeuronAtlas.load(tmp_path / "atlas")
    np.testing.assert_array_equal(wider.scores_rel, NeuronAtlas.load(atlas_dir).scores_rel)
    assert len(wider.rel) + len(wider.shared) > 0.15 * wider.scores_rel.size


def test_scores_that_cannot_add_up_end_the_run_early(
    checkpoint: Path, examples_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurorit.mining.collect._EARLY", 3)
    strict = replace(SETTINGS, steps=1, rows=16, force=False, max_residual=1e-9)
    done: list[int] = []
    with pytest.raises(NeuroritError, match="of 4 contexts"):
        mine(
            checkpoint,
            None,
            examples_path,
            strict,
            out=tmp_path / "atlas",
            progress=lambda count, *_: done.append(count),
        )
    assert max(done, default=0) < 12


def lab_examples(path: Path, count: int = 24) -> Path:
    """Questions about people of the lab, one gold and one misleading passage each."""
    from neurorit.data.examples import Example, Passage
    from neurorit.lab.world import ask, make_world, passages_of

    world = make_world(0)
    made = []
    for index in range(count):
        rng = random.Random(index)
        one, two = (world.person(rng, world.pairs["validation"][2 * index + i]) for i in (0, 1))
        relations, text = passages_of(world, one, rng)[0]
        relation = relations[0]
        other = next(t for r, t in passages_of(world, two, rng) if relation in r)
        passages = (
            Passage("g", one.name, text, "gold"),
            Passage("n", two.name, other, "distractor"),
        )
        accepted = tuple(world.answers(relation, one.facts[relation]))
        made.append(Example(f"e{index}", ask(world, one, relation, rng), accepted, passages))
    write_examples(path, made)
    return path


def test_contexts_that_the_model_follows_are_mined(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir

    source = lab_examples(tmp_path / "examples.jsonl")
    # The lab's model answers rightly with its neurons put back too: all followed ones count.
    settings = replace(SETTINGS, contexts="followed", samples=5, least_gain=0, force=False)
    asked: list[int] = []
    mined: list[int] = []

    def progress(done: int, _total: int, residual: float | None) -> None:
        (asked if residual is None else mined).append(done)

    mine(base_model_dir(), None, source, settings, out=tmp_path / "atlas", progress=progress)
    made = read_manifest(tmp_path / "atlas", "atlas").made
    assert made["samples"] == {"rel": 5, "irrel": 5}
    assert made["asked"]["irrel"] >= 5
    for side in ("rel", "irrel"):
        assert sum(made["answered"][side].values()) == made["asked"][side]
        assert made["answered"][side]["followed"] >= 5
        assert made["gain"][side]["left_out"] == 0
        assert made["shown"][side]["passages"] == 1
    assert made["gain"]["irrel"]["context"] == sorted(made["gain"]["irrel"]["context"])
    assert abs(made["gain"]["irrel"]["carried"]) < 1
    assert made["prompt_date"] == "2024-07-26"
    assert asked
    assert mined[-1] == 10
    assert made["median_residual"] < 0.02

    class Killed(BaseException):
        pass

    def kill(done: int, _total: int, residual: float | None) -> None:
        if residual is not None:
            raise Killed

    again = tmp_path / "again"
    with pytest.raises(Killed):
        mine(base_model_dir(), None, source, settings, out=again, progress=kill)
    mine(base_model_dir(), None, source, settings, out=again)
    for name in ("atlas.safetensors", "manifest.json"):
        assert (again / name).read_bytes() == (tmp_path / "atlas" / name).read_bytes()


def test_contexts_that_add_nothing_do_not_count(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir

    source = lab_examples(tmp_path / "examples.jsonl")
    settings = replace(SETTINGS, contexts="followed", samples=5, least_gain=1e-4, force=False)
    atlas = mine(base_model_dir(), None, source, settings, out=tmp_path / "atlas")
    made = read_manifest(tmp_path / "atlas", "atlas").made
    for side in ("rel", "irrel"):
        told = made["gain"][side]
        assert told["attributed"] == made["samples"][side] + told["left_out"]
    assert sum(made["gain"][side]["left_out"] for side in ("rel", "irrel")) > 0
    assert len(atlas.residuals) == sum(made["samples"].values())
    assert len(atlas.sample_ends_rel) == made["samples"]["rel"] + 1
    few = lab_examples(tmp_path / "few.jsonl", count=6)
    with pytest.raises(BadInput, match="do neurons add 2 to F"):
        mine(base_model_dir(), None, few, replace(settings, least_gain=2.0))


def test_what_follows_a_context_is_attributed_behind_the_models_own_words(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir
    from neurorit.mining.attributor import Miner
    from neurorit.mining.contexts import contexts

    source = lab_examples(tmp_path / "examples.jsonl")
    settings = replace(SETTINGS, contexts="followed")
    chosen = list(contexts(load_examples(source), 3, 1, 0, layout="matched"))
    miner = Miner.load(ModelSource.of(base_model_dir()), chosen, settings)
    key = next(c.key for c in chosen if c.side == "irrel")
    query = miner.queries[key]
    answer = {"answer": [7, 8, 9, 10], "span": (2, 3)}
    at_span = miner._at_span(key, answer)
    assert list(at_span.prompt_with) == [*query.prompt_with, 7, 8]
    assert list(at_span.prompt_without) == [*query.prompt_without, 7, 8]
    assert at_span.target == [9]
    (record,) = miner.attribute([key], {key: answer})
    (wanted,) = attribute(miner.model, [at_span], Settings(steps=20, rows=170))
    assert record["target"] == [9]
    assert record["context_gain"] == pytest.approx(wanted.context_gain)
    # Without words of its own it is the answer's beginning, as it stands.
    assert miner._at_span(key, {"answer": [7], "span": (0, 1)}).prompt_with == query.prompt_with
    assert miner._at_span(key, {"answer": [7]}) == query
    # Gold answers are put where the model says what it follows.
    gold = replace(miner, settings=replace(settings, irrelevant_target="gold"))
    assert list(gold._at_span(key, answer).prompt_with)[-2:] == [7, 8]
    told = miner.tokenizer.decode(gold._at_span(key, answer).target)
    assert told.strip() == miner.contexts[key].answers[0]


def test_contexts_are_asked_together_whatever_the_rows(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir
    from neurorit.mining.attributor import Miner
    from neurorit.mining.contexts import contexts

    source = lab_examples(tmp_path / "examples.jsonl")
    chosen = list(contexts(load_examples(source), 24, 1, 0))
    miner = Miner.load(ModelSource.of(base_model_dir()), chosen, replace(SETTINGS, rows=1))
    keys = [context.key for context in chosen]
    batches = miner.batches_to_ask(keys)
    assert sorted(key for batch in batches for key in batch) == sorted(keys)
    assert len(batches) == 2
    assert max(map(len, miner.batches(keys))) == 1
    together = {r["key"]: r for batch in batches for r in miner.ask(batch)}
    for key in keys[::7]:
        assert miner.ask([key]) == [together[f"answer/{key}"]]
    lower = replace(miner, settings=replace(SETTINGS, asking="bfloat16"))
    answers = [r["answer"] for r in lower.ask(batches[0])]
    same = sum(
        together[f"answer/{k}"]["answer"] == a for k, a in zip(batches[0], answers, strict=True)
    )
    assert same >= 0.8 * len(answers)
    assert next(miner.model.parameters()).dtype == torch.float32


def test_prompts_are_read_for_attribution_as_they_are_asked(tmp_path: Path) -> None:
    from neurorit.lab import base_model_dir
    from neurorit.mining.attributor import Miner
    from neurorit.mining.contexts import contexts

    source = lab_examples(tmp_path / "examples.jsonl")
    chosen = list(contexts(load_examples(source), 2, 1, 0))
    settings = replace(SETTINGS, asking="bfloat16", steps=20)
    plain = Miner.load(ModelSource.of(base_model_dir()), chosen, settings)
    miner = replace(plain, settings=replace(settings, prefill="as-asking"))
    keys = [context.key for context in chosen]
    asking = miner._asking[0]
    miner.rest_from_asking()
    found, wanted = miner.attributions(keys, {}), plain.attributions(keys, {})
    # The copy that asks is made once, and does not stay where it has nothing more to do.
    assert miner._asking[0] is asking and asking.dtype == torch.bfloat16
    plain._asking  # noqa: B018
    plain.rest_from_asking()
    assert "_asking" not in vars(plain)
    for low, high in zip(found, wanted, strict=True):
        assert low.target == high.target
        assert not torch.equal(low.scores, high.scores)
        both = torch.stack([low.scores.flatten(), high.scores.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.95
        assert low.residual == pytest.approx(high.residual, rel=0.5, abs=0.01)


def test_a_model_that_follows_nothing_is_told(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="contexts=all"):
        mine(
            checkpoint,
            None,
            examples_path,
            replace(SETTINGS, contexts="followed"),
            out=tmp_path / "atlas",
        )


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_bfloat16_weights_add_up_with_activations_in_float32(kind: str) -> None:
    model = tiny(kind).to(torch.bfloat16)
    model.requires_grad_(False)
    whole = tiny(kind)
    whole.load_state_dict(model.state_dict())
    whole.requires_grad_(False)
    query = Query([1, 5, 9, 13, 2, 7], [1, 9, 7], [11])
    with float32_activations(model):
        (found,) = attribute(model, [query], Settings())
        loop = attribute_by_loop(model, query)
    (wanted,) = attribute(whole, [query], Settings())
    # Rotary angles and norms are made in float32 by both.
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.scores, loop, rtol=1e-3, atol=1e-5)
    assert found.residual < 0.05


@pytest.mark.parametrize("kind", ["gold", "noise"])
def test_a_side_without_samples_is_named(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "examples.jsonl"
    left = [
        replace(e, passages=tuple(p for p in e.passages if (p.kind == "gold") != (kind == "gold")))
        for e in examples()
    ]
    write_examples(path, [e for e in left if e.passages])
    said = "a gold passage" if kind == "gold" else "a distractor or random passage"
    with pytest.raises(BadInput, match=said):
        mine(checkpoint, None, path, SETTINGS, out=tmp_path / "atlas")


def test_a_prompt_that_the_model_does_not_take_is_refused(
    checkpoint: Path, examples_path: Path
) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    model.config.max_position_embeddings = 40
    with pytest.raises(BadInput, match=r"needs \d+ tokens, but the model takes 40; use fewer"):
        mine(model, tokenizer, examples_path, MiningSettings(samples=8, contexts="all"))


def test_answers_end_at_every_end_that_the_model_names(checkpoint: Path) -> None:
    model, tokenizer = load_model(checkpoint, device="cpu")
    example = examples()[1]
    context = Context("c", RELEVANT, example.question, example.passages, example.answers)

    def answer() -> list[int]:
        miner = Miner.load(ModelSource.of(model, tokenizer), [context], MiningSettings())
        (record,) = miner.ask(["c"])
        return list(record["answer"])

    whole = answer()
    last = whole[-1]
    assert len(whole) == 16 and last != tokenizer.eos_token_id
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, last]
    assert answer() == (whole[: whole.index(last)] or [last])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("share", 0.0),
        ("irrelevant_target", "none"),
        ("contexts", "some"),
    ],
)
def test_unknown_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(BadInput, match=f"^{name} is {value!r}, but it must be "):
        replace(SETTINGS, **{name: value})


def test_what_prompts_are_read_in_does_not_depend_on_the_machine() -> None:
    with pytest.raises(BadInput, match=r"prefill=as-asking.*name asking too"):
        replace(SETTINGS, prefill="as-asking")


def test_a_changed_atlas_is_refused(checkpoint: Path, examples_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "atlas"
    mine(checkpoint, None, examples_path, SETTINGS, out=out)
    with open(out / "atlas.safetensors", "ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match="was changed"):
        NeuronAtlas.load(out)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot_is_drawn(atlas_dir: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"atlas.{suffix}"
    plot(NeuronAtlas.load(atlas_dir), out)
    assert out.read_bytes()[:5] == (b"<?xml" if suffix == "svg" else b"\x89PNG\r")


@pytest.mark.slow
def test_several_processes_make_the_atlas_of_one(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from neurorit.mining.mine import mine\n"
        "from tests.neurorit.mining.test_mine import SETTINGS\n"
        "mine(Path(sys.argv[1]), None, Path(sys.argv[2]), SETTINGS, out=Path(sys.argv[3]))\n"
    )
    out = tmp_path / "atlas"
    run_in_two_processes(code, checkpoint, examples_path, out)
    for name in ("atlas.safetensors", "manifest.json"):
        assert (out / name).read_bytes() == (atlas_dir / name).read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["atlas"]


def test_a_memory_budget_sets_the_rows(
    checkpoint: Path, examples_path: Path, atlas_dir: Path, tmp_path: Path
) -> None:
    budget = replace(SETTINGS, memory="2MiB")
    mine(checkpoint, None, examples_path, budget, out=tmp_path / "atlas")
    one, other = NeuronAtlas.load(atlas_dir), NeuronAtlas.load(tmp_path / "atlas")
    np.testing.assert_allclose(one.scores_rel, other.scores_rel, atol=1e-5)
    for wrong, said in (
        ("1KiB", "holds no row"),
        ("much", "memory is 'much', but it must be an amount"),
    ):
        with pytest.raises(BadInput, match=said):
            mine(
                checkpoint, None, examples_path, replace(SETTINGS, memory=wrong), out=tmp_path / "x"
            )


@pytest.mark.parametrize("objective", ["answer-span", "log-prob"])
def test_whole_answers_are_mined_too(
    checkpoint: Path, examples_path: Path, tmp_path: Path, objective: str
) -> None:
    settings = replace(SETTINGS, objective=objective, answer_tokens=4)
    atlas = mine(checkpoint, None, examples_path, settings, out=tmp_path / "atlas")
    assert len(atlas.rel) + len(atlas.shared) > 0
    assert float(np.median(atlas.residuals)) < 0.2


# One context a batch, so 40 records.
KILLED = replace(SETTINGS, samples=24, rows=84)


def _mine_telling(model: Path, examples: Path, out: Path, pipe: Connection) -> None:
    """Mine; each record is told as soon as it is in the journal."""

    def tell(done: int, *_: object) -> None:
        pipe.send(done)
        time.sleep(0.05)

    mine(model, None, examples, KILLED, out=out, progress=tell)


@pytest.mark.slow
def test_killed_ten_times_while_it_mines_it_ends_in_the_same_bytes(
    checkpoint: Path, examples_path: Path, tmp_path: Path
) -> None:
    mine(checkpoint, None, examples_path, KILLED, out=tmp_path / "whole")
    out, journal = tmp_path / "killed", tmp_path / ".killed.journal-0.jsonl"
    rng = random.Random(0)
    kept: list[str] = []
    for _ in range(10):
        more = rng.randint(1, 2)
        with forked(_mine_telling, checkpoint, examples_path, out) as pipe:
            told = [pipe.recv() for _ in range(more)]
            time.sleep(rng.uniform(0.0, 0.06))
        # It went on after what was kept, and none of that was lost.
        assert told[0] > len(kept)
        records = journal.read_text(encoding="utf-8").split("\n")[1:-1]
        assert records[: len(kept)] == kept
        assert len(records) >= told[-1]
        kept = records
        # Nothing half-made stands where the atlas is to be.
        assert not out.exists()
    assert 10 <= len(kept) < 40
    mine(checkpoint, None, examples_path, KILLED, out=out)
    for name in ("atlas.safetensors", "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
