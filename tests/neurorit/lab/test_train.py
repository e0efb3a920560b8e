"""The lab's training goes on where it was, and the packaged models are what they are said to be."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.lab import base_model_dir, judge_model_dir
from neurorit.lab.documents import TEMPLATE
from neurorit.lab.judge import labelled_verdicts
from neurorit.lab.train import BaseRecipe, save_checkpoint, train_base
from neurorit.lab.world import ask, make_world, passages_of
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt

TINY = BaseRecipe(hidden=32, layers=4, heads=4, head_size=16, feed_forward=48)
TINY = replace(
    TINY,
    reading=replace(TINY.reading, steps=4, rows=2, supervised=2, easy=1, answered=2),
    practice=replace(TINY.practice, steps=2, rows=2),
    chat=replace(TINY.chat, steps=4, rows=2),
)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    calls = 0

    def kill(_phase: str, _step: int, _steps: int, _loss: float) -> None:
        nonlocal calls
        calls += 1
        if calls in (3, 9):
            raise Killed

    whole = train_base(tmp_path / "whole", TINY, every=1)
    for _ in range(2):
        with pytest.raises(Killed):
            train_base(tmp_path / "killed", TINY, every=1, report=kill)
    killed = train_base(tmp_path / "killed", TINY, every=1, report=kill)
    wanted = load_file(whole / "model.safetensors")
    found = load_file(killed / "model.safetensors")
    for name in wanted:
        assert torch.equal(wanted[name], found[name]), name


def test_a_checkpoint_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: PromptTemplate, directory: Path) -> None:
        assert (directory / "model.safetensors").is_file()
        raise KeyboardInterrupt

    model, tokenizer = load_model(base_model_dir(), device="cpu")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PromptTemplate, "save", killed)
        save_checkpoint(model, tokenizer, tmp_path / "lab" / "base")
    assert not list((tmp_path / "lab").iterdir())
    save_checkpoint(model, tokenizer, tmp_path / "lab" / "base")
    assert [path.name for path in (tmp_path / "lab").iterdir()] == ["base"]
    assert PromptTemplate.of_checkpoint(tmp_path / "lab" / "base") == TEMPLATE


def test_another_folder_in_the_place_of_a_phase_stays(tmp_path: Path) -> None:
    (tmp_path / "reading").mkdir()
    (tmp_path / "reading" / "notes").write_text("mine")
    with pytest.raises(BadInput, match="reading is no artifact"):
        train_base(tmp_path, TINY)
    assert (tmp_path / "reading" / "notes").read_text() == "mine"


def test_packaged_weights_are_small_and_safe() -> None:
    for directory in (base_model_dir(), judge_model_dir()):
        total = sum(p.stat().st_size for p in directory.iterdir() if p.suffix == ".safetensors")
        assert total <= 16 * 2**20
        assert not [p for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


def answers(questions: list[list[int]], model: object, end: int) -> list[list[int]]:
    """Greedy answers, one prompt at a time."""
    found = []
    for prompt in questions:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = model.generate(  # type: ignore[attr-defined]
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=end,
            )
        found.append(out[0, len(prompt) :].tolist())
    return found


def test_the_packaged_base_reads_one_passage_and_guesses_without() -> None:
    model, tokenizer = load_model(base_model_dir(), device="cpu")
    template = PromptTemplate.of_checkpoint(base_model_dir())
    world, rng = make_world(0), random.Random(11)
    prompts, closed, wanted = [], [], []
    for pair in world.pairs["validation"][1000:1040]:
        person = world.person(rng, pair)
        relations, text = passages_of(world, person, rng)[0]
        relation = rng.choice(relations)
        question = ask(world, person, relation, rng)
        passages = [Passage("p", person.name, text)]
        prompts.append(render_prompt(tokenizer, template, question, passages))
        closed.append(render_prompt(tokenizer, template, question, []))
        wanted.append(person.facts[relation])
    end = end_token_id(tokenizer)

    def right(questions: list[list[int]]) -> float:
        said = [
            tokenizer.decode(ids, skip_special_tokens=True).strip()
            for ids in answers(questions, model, end)
        ]
        return sum(a == b for a, b in zip(said, wanted, strict=True)) / len(wanted)

    assert right(prompts) >= 0.9
    assert right(closed) <= 0.2


def test_the_packaged_judge_agrees_with_the_truth() -> None:
    from neurorit.eval.judges.judge import give_verdicts
    from neurorit.eval.judges.local import LocalJudge
    from neurorit.eval.predictions import Item

    labelled = labelled_verdicts(5, 300)
    items = [Item(a.question, a.answers, a.answer) for a in labelled]
    verdicts = give_verdicts(LocalJudge(judge_model_dir()), items)
    same = sum(v == a.label for v, a in zip(verdicts, labelled, strict=True))
    assert same / len(labelled) >= 0.95
