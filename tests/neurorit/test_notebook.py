"""What a notebook relies on: wording goes along, nothing else is changed, work is not lost."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import neurorit as nr
from neurorit.core import registry
from neurorit.core.artifact import Manifest
from neurorit.core.registry import KINDS
from neurorit.core.work_folder import work_folder
from neurorit.mining.integrated_gradients import Comparison, Method
from neurorit.mining.settings import ATTRIBUTIONS, SELECTIONS
from neurorit.model.prompts import EVIDENCE_FIRST, PromptTemplate
from neurorit.model.source import ModelSource
from neurorit.tuning.adapter_file import adapter_template, save_adapter
from neurorit.tuning.settings import TUNINGS, settings_inputs
from tests.neurorit.conftest import examples
from tests.neurorit.test_api import CORPUS, MINING, TUNING, pools, same_weights

OWN = PromptTemplate(instruction="Read, then answer.\n\n")
SHORT = replace(TUNING, stage1_steps=1, steps=1)


@pytest.fixture
def worded(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that was tuned with a wording of its own."""
    made = tmp_path / "worded"
    shutil.copytree(checkpoint, made)
    OWN.save(made)
    return made


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_REGISTERED", {kind: {} for kind in KINDS})
    yield


def test_a_loaded_model_is_asked_as_its_folder_is(worded: Path) -> None:
    model, tokenizer = nr.load_model(worded, device="cpu")
    assert ModelSource.of(model, tokenizer).template == OWN
    plain = AutoModelForCausalLM.from_pretrained(worded)
    assert ModelSource.of(plain, tokenizer).template == OWN
    systems = {"file": worded, "loaded": (model, tokenizer), "plain": (plain, tokenizer)}
    found = nr.evaluate(systems, pools(2), ["clean"], max_tokens=2, unended_as_wrong=True)
    assert len({p.output for p in found.predictions if p.id == found.predictions[0].id}) == 1
    for given, said in (({"a": worded}, "template"), ({"a": (worded, tokenizer)}, "a tokenizer")):
        more = {"template": OWN} if said == "template" else {}
        with pytest.raises(nr.errors.BadInput, match=rf"systems\['a'\]: {said} is for loaded"):
            nr.evaluate(given, pools(2), ["clean"], **more)


def test_what_is_tuned_brings_its_wording_and_its_adapter_does(
    checkpoint: Path, tmp_path: Path
) -> None:
    model, tokenizer = nr.load_model(checkpoint, device="cpu")
    atlas = nr.mine(model, tokenizer, examples(), MINING)
    settings = replace(SHORT, method="neurons", dense_layers=0, wording="evidence-first")
    out, adapter = tmp_path / "tuned", tmp_path / "adapter"
    tuned = nr.tune(model, tokenizer, examples(), atlas, settings, out=out, adapter=adapter)
    assert ModelSource.of(tuned, tokenizer).template.instruction == EVIDENCE_FIRST
    assert ModelSource.of(model, tokenizer).template == PromptTemplate()
    # It was made from weights in memory, and fits the folder that these were loaded from.
    nr.merge(str(checkpoint), str(adapter), str(tmp_path / "merged"))
    merged = nr.load_model(tmp_path / "merged", device="cpu")[0]
    assert same_weights(merged, tuned)
    nr.merge(checkpoint, adapter, tmp_path / "lora", as_lora=True)
    for made in (out, adapter, tmp_path / "merged", tmp_path / "lora"):
        assert PromptTemplate.of_checkpoint(made).instruction == EVIDENCE_FIRST, made
    # An adapter of before says in its settings alone how it was tuned.
    said = Manifest(kind="adapter", command="", settings={"wording": "evidence-first"})
    save_adapter(tuned, atlas.rel, (), tmp_path / "older", said)
    assert adapter_template(tmp_path / "older", checkpoint).instruction == EVIDENCE_FIRST
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(2.0)
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(nr.errors.BadInput, match="another base model's weights"):
        nr.merge(tmp_path / "other", adapter, tmp_path / "x")


def drawn() -> list[Any]:
    states = [random.getstate(), np.random.get_state()[1].tolist()]  # type: ignore[index]
    return [*states, torch.get_rng_state().tolist(), logging.get_verbosity()]


def test_tuning_draws_from_nobodys_generators(checkpoint: Path, tmp_path: Path) -> None:
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    before = drawn()
    once = nr.TuneSettings(method="lora", stage1_steps=0, steps=1, batch_size=4)
    nr.tune(checkpoint, None, examples(), settings=once)
    assert drawn() == before

    def stopping(stage: str, step: int, steps: int) -> None:
        raise KeyboardInterrupt

    model, tokenizer = nr.load_model(checkpoint, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        nr.tune(model, tokenizer, examples(), settings=once, in_place=True, progress=stopping)
    assert drawn() == before
    with pytest.raises(nr.errors.BadInput, match="a tuning in place ended in its midst"):
        nr.tune(model, tokenizer, examples(), settings=once)


def test_an_index_in_memory_is_searched_with_the_effort_that_is_asked_for(tmp_path: Path) -> None:
    threads = faiss.omp_get_max_threads()
    settings = nr.BuildSettings(threads=threads + 1)
    index = nr.build_index(CORPUS, tmp_path / "index", settings=settings)
    assert faiss.omp_get_max_threads() == threads
    wide = nr.Retriever.load(index, effort=64)
    assert wide.index.effort == 64 == nr.Retriever.load(tmp_path / "index", effort=64).index.effort
    assert index.effort is None
    assert nr.Retriever.load(index).index is index


def test_examples_that_were_read_through_are_named(tmp_path: Path) -> None:
    given = iter(examples())
    assert len(nr.load_examples(given)) == 24
    with pytest.raises(nr.errors.BadInput, match="there are none, or what gives them was read"):
        nr.load_examples(given)


def test_work_without_a_place_stays_where_it_fails(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, tokenizer = nr.load_model(checkpoint, device="cpu")

    def stopping(done: int, of: int, residual: float | None) -> None:
        if residual is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        nr.mine(model, tokenizer, examples(), MINING, progress=stopping)
    (note,) = stopped.value.__notes__
    out = Path(note.split("'")[1])
    done = [line for p in out.parent.glob(".*") for line in p.read_text().splitlines()]
    assert done
    told: list[int] = []
    atlas = nr.mine(
        model, tokenizer, examples(), MINING, out=out, progress=lambda d, n, r: told.append(d)
    )
    assert told == [] or told[0] > 1  # what stands in the journal is not attributed again
    assert atlas.digest == nr.NeuronAtlas.load(out).digest
    shutil.rmtree(out.parent)
    for fails in (True, False):
        with pytest.raises(ZeroDivisionError) as failed, work_folder(None, "a", "*.jsonl") as got:
            if fails:
                got[1].mkdir()
            1 / 0  # noqa: B018
        assert not hasattr(failed.value, "__notes__")
    assert not list(tmp_path.iterdir())


def test_an_atlas_in_memory_is_saved_and_used(checkpoint: Path, tmp_path: Path) -> None:
    atlas = nr.mine(checkpoint, None, examples(), MINING)
    atlas.save(str(tmp_path / "atlas"))
    again = nr.NeuronAtlas.load(str(tmp_path / "atlas"))
    assert (again.digest, again.model, again.site) == (atlas.digest, atlas.model, atlas.site)
    nr.tune(checkpoint, None, examples(), tmp_path / "atlas", SHORT)


def test_other_text_is_a_file_or_texts(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("Mira works.\n\nSolden was born.\n", encoding="utf-8")
    settings = replace(MINING, selection="spared-gradient", measured=4, neurons=0.1)
    one = nr.mine(checkpoint, None, examples(), settings, general=tmp_path / "other.txt")
    texts = ["Mira works.", "Solden was born."]
    assert one.digest == nr.mine(checkpoint, None, examples(), settings, general=texts).digest
    with pytest.raises(nr.errors.BadInput, match="only the commands know the embedded world"):
        nr.mine(checkpoint, None, examples(), replace(settings, general="lab"))


@pytest.mark.usefixtures("parts")
def test_what_is_no_part_of_its_kind_is_refused_by_name() -> None:
    nr.register("attribution", "bare")(lambda comparison: None)
    nr.register("tuning", "bare")(lambda task: [])
    nr.register("selection", "number")(7)
    with pytest.raises(nr.errors.BadInput, match=r"'bare': it is a function; register a .*Method"):
        ATTRIBUTIONS.get("bare")
    with pytest.raises(nr.errors.BadInput, match=r"tuning 'bare': .*tuning\.stages\.Method"):
        TUNINGS.get("bare")
    with pytest.raises(nr.errors.BadInput, match="'number': int is nothing to be called"):
        SELECTIONS.get("number")


@pytest.mark.usefixtures("parts")
def test_a_part_that_was_edited_is_another_one(checkpoint: Path, tmp_path: Path) -> None:
    calls: list[str] = []

    def wrong(given: Comparison) -> tuple[torch.Tensor, Any]:
        calls.append("wrong")
        score = given.difference.abs().sum(2)
        return score, torch.full(score.shape[:2], -9.0)

    def right(given: Comparison) -> tuple[torch.Tensor, Any]:
        calls.append("right")
        return given.difference.abs().sum(2), None

    nr.register("attribution", "own")(Method(wrong))
    settings = replace(MINING, method="own", force=False)
    first = ATTRIBUTIONS.revision("own")
    with pytest.raises(nr.errors.NeuroritError, match="do not add up"):
        nr.mine(checkpoint, None, examples(), settings, out=tmp_path / "atlas")
    nr.register("attribution", "own")(Method(right))
    assert first != ATTRIBUTIONS.revision("own") == ATTRIBUTIONS.revision("own")
    calls.clear()
    nr.mine(checkpoint, None, examples(), settings, out=tmp_path / "atlas")
    assert set(calls) == {"right"}  # nothing of the former journal was taken
    assert ATTRIBUTIONS.revision("integrated-gradients") == ""
    nr.register("attribution", "unseen")(Method(len))  # type: ignore[arg-type]
    assert ATTRIBUTIONS.revision("unseen")
    nr.register("loss", "own")(wrong)
    named = settings_inputs(nr.TuneSettings(losses={"own": 1.0, "cross-entropy": 1.0}))
    assert set(named) == {"loss own"}


def test_two_trainings_into_one_place_are_parted(checkpoint: Path, tmp_path: Path) -> None:
    settings = nr.TuneSettings(method="sft", stage1_steps=0, steps=2, batch_size=4)
    out, state = tmp_path / "tuned", tmp_path / ".tuned.tuning"

    def another(stage: str, step: int, steps: int) -> None:
        before = sorted(state.rglob("*"))
        with pytest.raises(nr.errors.BadInput, match="another training writes its states there"):
            nr.tune(checkpoint, None, examples(), settings=settings, seed=1, out=out)
        assert sorted(state.rglob("*")) == before

    nr.tune(checkpoint, None, examples(), settings=settings, out=out, progress=another)
    assert out.is_dir() and not state.exists()


def test_nobody_elses_folder_is_replaced_and_that_is_said_at_once(
    checkpoint: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    refused = pytest.raises(nr.errors.BadInput, match="is no artifact of this program")

    def never(*told: Any) -> None:
        raise AssertionError("it began to work")

    with refused:
        nr.mine(checkpoint, None, examples(), MINING, out=theirs, overwrite=True, progress=never)
    sft = nr.TuneSettings(method="sft", stage1_steps=0, steps=1)
    with refused:
        nr.tune(
            checkpoint, None, examples(), settings=sft, out=theirs, overwrite=True, progress=never
        )
    with refused:
        nr.import_model(checkpoint, theirs, overwrite=True)
    assert (theirs / "notes.txt").read_text() == "mine"
