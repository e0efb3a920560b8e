"""The verbs of `import neurorit` on objects: they give what files give, and change nobody's."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import neurorit as nr
from neurorit.core.errors import BadInput
from neurorit.model.load import load_model
from neurorit.model.prompts import end_token_id, render_prompt
from neurorit.tuning.samples import make_samples
from tests.neurorit.conftest import examples

MINING = nr.MiningSettings(samples=6, contexts="all", steps=10, share=0.2, resamples=5, force=True)
TUNING = nr.TuneSettings(stage1_steps=2, steps=3, batch_size=6, dense_layers=1)


@pytest.fixture(scope="module")
def loaded(checkpoint: Path) -> tuple[Any, Any]:
    return load_model(checkpoint, device="cpu")


def same_weights(one: Any, other: Any) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def test_every_name_of_the_package_is_there() -> None:
    for name in nr.__all__:
        assert getattr(nr, name) is not None, name
        assert name in dir(nr)
    with pytest.raises(AttributeError, match="no attribute 'mime'"):
        nr.mime  # noqa: B018


def test_importing_it_costs_nothing() -> None:
    code = (
        "import sys, time; begun = time.perf_counter(); import neurorit\n"
        "heavy = {'torch', 'numpy', 'transformers', 'faiss', 'typer'} & set(sys.modules)\n"
        "print(heavy or time.perf_counter() - begun)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    assert min(float(one.stdout) for one in told) < 0.1


def test_a_loaded_model_gives_the_atlas_of_its_folder(
    checkpoint: Path, examples_path: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    model.train()
    before = copy.deepcopy(model)
    ours = nr.mine(model, tokenizer, nr.load_examples(examples_path), MINING)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert same_weights(model, before)
    theirs = nr.mine(checkpoint, None, examples_path, MINING, out=tmp_path / "atlas")
    assert [p.name for p in tmp_path.iterdir()] == ["atlas"]
    for name, value in vars(ours).items():
        if name != "model":
            np.testing.assert_array_equal(value, getattr(theirs, name), err_msg=name)
    assert "4 layers of" in repr(ours)


def test_a_copy_of_a_loaded_model_is_tuned_unless_it_may_be_changed(
    examples_path: Path, checkpoint: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    before = copy.deepcopy(model)
    atlas = nr.mine(model, tokenizer, examples(), MINING)
    tuned = nr.tune(model, tokenizer, examples(), atlas, TUNING)
    assert same_weights(model, before)
    assert not same_weights(tuned, before)
    assert set(tuned.tuning_record) == {"samples", "left_out_too_long", "stage1", "stage2"}
    out = tmp_path / "tuned"
    again = nr.tune(checkpoint, None, examples_path, atlas, TUNING, out=out)
    assert same_weights(tuned, again)
    assert same_weights(tuned, load_model(out, device="cpu")[0])
    here = nr.tune(before, tokenizer, examples(), atlas, TUNING, in_place=True)
    assert here is before
    assert same_weights(tuned, here)


def test_an_atlas_of_other_weights_is_refused_wherever_they_are(
    checkpoint: Path, atlas_dir: Path, loaded: tuple[Any, Any]
) -> None:
    model, tokenizer = loaded
    changed = copy.deepcopy(model)
    # What was loaded from the folder that was mined is taken, until it is changed.
    once = replace(TUNING, stage1_steps=1, steps=0)
    nr.tune(changed, tokenizer, examples(), atlas_dir, once)
    with torch.no_grad():
        changed.model.layers[0].mlp.down_proj.weight.add_(0.01)
    with pytest.raises(BadInput, match="mined from other weights"):
        nr.tune(changed, tokenizer, examples(), atlas_dir, once)
    atlas = nr.mine(changed, tokenizer, examples(), MINING)
    for one in (model, checkpoint):
        with pytest.raises(BadInput, match="mined from other weights"):
            nr.tune(one, tokenizer, examples(), atlas, once)


def test_what_is_left_out_in_memory_is_said(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    samples, _ = make_samples(examples(), tokenizer, nr.PromptTemplate(), 512)
    most = sorted(sample.length for sample in samples)[12]
    short = nr.TuneSettings(method="sft", stage1_steps=0, steps=1, max_length=most)
    with pytest.warns(UserWarning, match=r"\d+ of 24 examples were left out"):
        nr.tune(model, tokenizer, examples(), settings=short)


def test_one_context_is_attributed(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    example = examples()[1]
    found = nr.attribute(model, tokenizer, example, answer=example.answers[0])
    assert found.scores.shape == (4, model.config.intermediate_size)
    assert float(found.scores.abs().sum()) > 0
    assert found.residual < 0.05
    own = nr.attribute(model, tokenizer, example.question, example.passages)
    assert len(own.target) == 1
    with pytest.raises(BadInput, match="passages: there are none"):
        nr.attribute(model, tokenizer, example.question)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda m, t: (m, None, examples()), "tokenizer: a loaded model needs"),
        (lambda m, t: (7, t, examples()), "neither a path nor a loaded"),
        (lambda m, t: (m, t, []), "examples: there are none"),
        (lambda m, t: (m, t, [{"id": "a"}]), r"examples\[0\]: not an example"),
        (lambda m, t: (m, t, [*examples(), examples()[3]]), r"examples\[24\]: the id 'e3'"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_parameter(
    loaded: tuple[Any, Any], arguments: Any, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        nr.mine(*arguments(*loaded), MINING)


CORPUS = [
    {"id": "a", "title": "Mira Solden", "text": "Mira Solden was born in Karvel."},
    {"id": "b", "title": "Jon Falk", "text": "Jon Falk was born in Tessin."},
    {"id": "c", "title": "Ada Brinn", "text": "Ada Brinn mends clocks in Oreva."},
]


def test_passages_in_memory_are_indexed_searched_and_mixed(tmp_path: Path) -> None:
    index = nr.build_index(CORPUS, tmp_path / "index")
    assert index.built["passages"] == len(index) == 3
    passages = [nr.Passage(**record) for record in CORPUS]
    assert nr.build_index(passages, tmp_path / "again").digest == index.digest
    question = "Where was Mira Solden born?"
    hits = nr.Retriever.load(index, mode="hybrid").search(question, k=2)
    assert [hit.passage.id for hit in hits[:1]] == ["a"]
    assert index.search(question, 1)[0].passage.id == "a"
    asked = [{"id": "q", "question": question, "answers": ["Karvel"]}]
    settings = nr.MixSettings(distractor=(2,), without_gold=0.0, random=(0,))
    mixed = nr.mix(asked, index, settings)
    assert sorted(str(p.kind) for p in mixed[0].passages) == ["distractor", "distractor", "gold"]
    assert mixed.counts["answerable"] == 1
    assert mixed.ledger[0]["id"] == "q"
    written = nr.mix(asked, tmp_path / "index", settings, out=tmp_path / "examples")
    assert written == mixed == nr.load_examples(tmp_path / "examples")
    with pytest.raises(BadInput, match=r"corpus\[1\]: not a passage"):
        nr.build_index([CORPUS[0], {"id": "x"}], tmp_path / "bad")
    with pytest.raises(BadInput, match=r"corpus\[1\]: the id 'a' was used in corpus\[0\]"):
        nr.build_index([CORPUS[0], CORPUS[0]], tmp_path / "bad")
    with pytest.raises(BadInput, match="mood"):
        nr.Retriever.load(index, mood="hybrid")


def pools(count: int = 4) -> list[nr.Example]:
    """Questions with a gold passage and two distractors each."""
    made = []
    for i, example in enumerate(e for e in examples() if e.has_evidence):
        gold = next(p for p in example.passages if p.kind == "gold")
        noise = [
            nr.Passage(f"d{i}-{j}", "Falk", f"Falk mends clock {j}.", "distractor") for j in (0, 1)
        ]
        made.append(replace(example, passages=(gold, *noise)))
    return made[:count]


def test_loaded_models_are_compared_by_a_table_a_page_and_figures(
    checkpoint: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.mul_(-1.0)
    conditions = ["closed-book", "clean", "distractor-2"]
    systems = {"base": model, "other": (other, tokenizer), "file": checkpoint}
    table = nr.evaluate(systems, pools(), conditions, max_tokens=5, unended_as_wrong=True)
    assert table.report["manifest"]["engine"]["name"] == "transformers"
    assert len(table.predictions) == 4 * 3 * 3
    said = {name: [p.output for p in table.predictions if p.system == name] for name in systems}
    assert said["base"] == said["file"] != said["other"]
    # The same prompts, and what `generate` alone says to one of them.
    prompt = render_prompt(tokenizer, nr.PromptTemplate(), pools()[0].question, ())
    ids = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=end_token_id(tokenizer),
    )[0, len(prompt) :]
    assert said["base"][0] == tokenizer.decode(ids, skip_special_tokens=True).strip()
    wide = table.to_pandas("em")
    assert list(wide.columns) == list(systems)
    assert set(conditions) <= set(wide.index)
    rows = table.to_pandas()
    assert {"system", "condition", "metric", "value", "low", "high"} <= set(rows.columns)
    assert "<table" in table._repr_html_() and "em in percent, 4 questions" in repr(table)
    page = table.to_html(tmp_path / "table.html").read_text(encoding="utf-8")
    assert "distractor-2" in page
    again = nr.evaluate(
        systems, pools(), conditions, max_tokens=5, unended_as_wrong=True, out=tmp_path / "run"
    )
    assert again.report["results"] == table.report["results"]
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {"report.json", "report.html"}
    with pytest.raises(BadInput, match="metric: 'bleu' was not measured; there are em"):
        table.to_pandas("bleu")
    with pytest.raises(BadInput, match="engine: it is one of"):
        nr.evaluate(systems, pools(), conditions, engine="sglang")  # type: ignore[arg-type]


def test_a_loaded_model_of_nowhere_needs_its_tokenizer(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    made = type(model)(copy.deepcopy(model.config))
    made.config._name_or_path = ""
    with pytest.raises(BadInput, match=r"systems\['made'\]: no tokenizer is known"):
        nr.evaluate({"made": made}, pools(), ["clean"])
    found = nr.evaluate(
        {"made": made}, pools(), ["clean"], tokenizer=tokenizer, max_tokens=2, unended_as_wrong=True
    )
    assert found.report["systems"] == ["made"]
