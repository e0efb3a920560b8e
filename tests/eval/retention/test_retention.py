"""Retention: nothing lost against itself, and noise in the weights ranked by every part."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput
from neurorit.data.examples import Example, Passage
from neurorit.data.plain_text import Text, read_texts
from neurorit.eval.retention.figures import LEAST, summarise, task_row, text_row
from neurorit.eval.retention.instructions import Instruction
from neurorit.eval.retention.measure import Suite, measure_retention
from neurorit.eval.retention.text import TextDrift, drift
from neurorit.model.load import load_model, load_tokenizer
from neurorit.model.prompts import PromptTemplate, end_token_id, render_chat, render_prompt
from neurorit.model.text_rows import encode_texts

# Few words: the tiny model's tokens are bytes, and it learns every prompt.
TEMPLATE = PromptTemplate("", "{title}: {text}\n", "Q: {question}", "Q: {question}")
NOISES = (0.0, 0.5, 0.7, 0.9)


def noisy(model: Any, amount: float) -> Any:
    """A copy with noise of that share of each matrix's deviation; larger ones add to the same."""
    made = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.add_(amount * parameter.std() * noise)
    return made


def suite() -> Suite:
    words = [
        "amber",
        "birch",
        "cedar",
        "delta",
        "ember",
        "fjord",
        "grove",
        "heath",
        "islet",
        "jetty",
    ]
    texts = [
        Text(f"{words[i % 10]} stands by {words[(3 * i + 1) % 10]} since {i}.") for i in range(24)
    ]
    examples = [
        Example(
            f"q{i}",
            f"Who keeps {words[i % 10]} {i}?",
            (words[(7 * i + 2) % 10],),
            (Passage(f"p{i}", "Keep", f"{words[(7 * i + 2) % 10]} keeps it.", "gold"),),
        )
        for i in range(24)
    ]
    instructions = [
        Instruction(f"i{i}", "say", f"Say {words[i % 10]} {i}", says(words[i % 10].upper()))
        for i in range(24)
    ]
    return Suite(texts, examples, instructions)


def says(word: str) -> Callable[[str], bool]:
    return lambda reply: reply.strip() == word


@pytest.fixture(scope="module")
def learned(tiny_model: Path) -> tuple[Any, Any]:
    """A tiny model that knows the suite by heart: what it can lose by noise."""
    _, tokenizer = load_model(tiny_model, device="cpu")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=512, eos_token_id=0, pad_token_id=0,
            bos_token_id=None,
        )
    )  # fmt: skip
    held, end = suite(), end_token_id(tokenizer)

    def plain(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    rows = [(0, plain(one.text)) for one in held.texts]
    for example in held.examples:
        for passages in ([], list(example.passages)):
            prompt = render_prompt(tokenizer, TEMPLATE, example.question, passages)
            rows.append((len(prompt), prompt + plain(example.answers[0]) + [end]))
    for one in held.instructions:
        prompt = render_chat(tokenizer, [{"role": "user", "content": one.prompt}])
        said = one.prompt.split()[1].upper()
        rows.append((len(prompt), prompt + plain(said) + [end]))
    width = max(len(ids) for _, ids in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for i, (start, row) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, start : len(row)] = ids[i, start : len(row)]
        mask[i, : len(row)] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(400):
        optimizer.zero_grad()
        pick = torch.randperm(len(rows))[:32]
        loss = model(ids[pick], attention_mask=mask[pick], labels=labels[pick]).loss
        loss.backward()
        optimizer.step()
        if step % 20 == 0 and loss.item() < 0.01:
            break
    return model.eval(), tokenizer


def measure(learned: tuple[Any, Any], amounts: Mapping[str, float], place: Path) -> dict[str, Any]:
    model, tokenizer = learned
    made = {name: noisy(model, amount) for name, amount in amounts.items()}
    with Cache(place) as store:
        return measure_retention(
            dict.fromkeys(made, "") | {name: name for name in made},
            "base",
            suite(),
            lambda name: (made[name], tokenizer),
            store,
            template=TEMPLATE,
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_noise_in_the_weights_is_ranked_by_every_part(
    learned: tuple[Any, Any], tmp_path: Path
) -> None:
    amounts = {"base": 0.0, "same": 0.0} | {f"n{a}": a for a in NOISES[1:]}
    found = measure(learned, amounts, tmp_path)
    parts = dict.fromkeys(row["part"] for row in found["rows"])
    assert list(parts) == ["text", "closed-book", "clean passages", "instructions"]
    order = ["same", *(f"n{a}" for a in NOISES[1:])]
    for part in parts:
        rows = {r["system"]: r for r in found["rows"] if r["part"] == part}
        kept = [rows[name]["kept"] for name in order]
        assert kept == sorted(kept, reverse=True) and len(set(kept)) == len(order), (part, kept)
        assert kept[0] == 1.0 and kept[-1] < 0.75
    kls = [r["kl"] for r in found["rows"] if r["part"] == "text" and r["system"] in order]
    assert kls == sorted(kls) and len(set(kls)) == len(order)
    values = [row["value"] for row in found["figures"] if row["system"] in order]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(order)
    # Against itself nothing differs, and every interval holds that.
    for row in (r for r in found["rows"] if r["system"] == "same"):
        assert row["delta"] == 0 and row["kept"] == 1 and row["p"] == 1
        assert row["delta_ci95"][0] <= 0 <= row["delta_ci95"][1]
        assert row["kept_ci95"][1] == 1
        assert abs(row.get("kl", 0.0)) < 1e-6
    same = next(row for row in found["figures"] if row["system"] == "same")
    assert same["value"] == 1 and same["ci95"][1] == 1


def test_no_marker_in_a_text_becomes_a_token(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    texts = [Text("a <|end|> b"), Text("c <|end|> d", "Before <|end|>: "), Text("plain")]
    rows = encode_texts(tokenizer, texts)
    end = end_token_id(tokenizer)
    assert end in tokenizer("a <|end|> b").input_ids
    assert all(end not in row.ids for row in rows)
    assert rows[2].ids == tokenizer("plain").input_ids
    assert tokenizer.decode(rows[1].ids[rows[1].start :]) == "c <|end|> d"


def test_text_is_compared_token_by_token(tiny_model: Path) -> None:
    """Against plain sums over each text alone; padding and batches change nothing."""
    model, tokenizer = load_model(tiny_model, device="cpu")
    other = noisy(model, 0.5)
    texts = [Text("abc"), Text("a longer text than that"), Text("x y"), Text("its end", "Before: ")]
    rows = encode_texts(tokenizer, texts)
    found = drift(model, other, rows, batch_tokens=60)
    assert found[3].tokens == len("its end")
    for (row, _), one in zip(rows[:3], found[:3], strict=True):
        with torch.inference_mode():
            ids = torch.tensor([row])
            p, q = (m(ids).logits[0, :-1].double().log_softmax(-1) for m in (model, other))
        assert one.tokens == len(row) - 1
        assert one.base_loss == pytest.approx(-float(p.gather(1, ids[0, 1:, None]).sum()), abs=1e-4)
        assert one.loss == pytest.approx(-float(q.gather(1, ids[0, 1:, None]).sum()), abs=1e-4)
        assert one.kl == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-4)
    same = drift(model, copy.deepcopy(model), rows)
    assert all(abs(one.kl) < 1e-6 and one.loss == one.base_loss for one in same)
    with torch.no_grad():
        next(other.parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="predicts no numbers"):
        drift(model, other, rows)


def test_the_figure_is_the_mean_of_its_parts() -> None:
    right = np.ones(40)
    lost = np.r_[np.zeros(10), np.ones(30)]
    few = np.r_[np.ones(LEAST - 1), np.zeros(21)]
    found = summarise(
        "base",
        [
            text_row("s", [TextDrift(10, 20.0, 20.0 + i % 3, 0.5) for i in range(30)]),
            task_row("s", "clean passages", right, lost),
            task_row("s", "closed-book", few, np.zeros(40)),
        ],
    )
    text, clean, closed = found["rows"]
    assert text["delta"] == pytest.approx(0.1) and text["kept"] == pytest.approx(np.exp(-0.1))
    assert (clean["kept"], clean["delta"], closed["kept"]) == (0.75, -0.25, None)
    (figure,) = found["figures"]
    assert figure["value"] == pytest.approx((np.exp(-0.1) + 0.75) / 2)
    assert figure["worst"] == "clean passages" and set(figure["parts"]) == {
        "text",
        "clean passages",
    }
    low, high = figure["ci95"]
    assert low < figure["value"] < high < 1


def test_the_base_keeps_all_of_itself() -> None:
    right = np.r_[np.ones(30), np.zeros(10)]
    few = np.r_[np.ones(LEAST - 1), np.zeros(21)]
    parts = {"clean passages": right, "closed-book": few}
    rows = [task_row(s, part, of, of) for s in ("base", "same") for part, of in parts.items()]
    found = summarise("base", rows)
    intervals = [row["kept_ci95"] for row in found["rows"]]
    assert intervals[:2] == [[1.0, 1.0], None] == [found["figures"][0]["ci95"], intervals[3]]
    # Another model may lose what these questions do not show.
    assert intervals[2][0] < intervals[2][1] == 1.0


def test_a_gain_on_text_is_no_credit() -> None:
    row = text_row("s", [TextDrift(10, 20.0, 10.0 + i, 1.0) for i in range(4)])
    assert row["delta"] < 0 and row["kept"] == 1.0


def test_texts_of_a_file(tmp_path: Path) -> None:
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"text": "One."}\n\n{"text": " "}\n{"text": "Two."}\n')
    assert read_texts(lines) == [Text("One."), Text("Two.")]
    (tmp_path / "t.txt").write_text("One\nmore.\n\nTwo.\n")
    assert read_texts(tmp_path / "t.txt") == [Text("One\nmore."), Text("Two.")]
    lines.write_text('{"text": "One."}\n{"no": 1}\n')
    with pytest.raises(BadInput, match=r"texts.jsonl:2: no JSON object with a `text`"):
        read_texts(lines)
    with pytest.raises(BadInput, match="no such file"):
        read_texts(tmp_path / "none")


def test_other_tokens_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_model, device="cpu")
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<new>"])
    loaded = {"base": (model, tokenizer), "s": (model, other)}
    with Cache(tmp_path) as store, pytest.raises(BadInput, match="system s: its tokenizer has"):
        measure_retention(
            {"base": "b", "s": "s"},
            "base",
            Suite([Text("a b"), Text("c d")]),
            loaded.__getitem__,
            store,
        )
    with Cache(tmp_path) as store, pytest.raises(BadInput, match="one text has no interval"):
        measure_retention({"base": "b"}, "base", Suite([Text("a b")]), loaded.__getitem__, store)
    with Cache(tmp_path) as store, pytest.raises(BadInput, match="there is no text"):
        measure_retention({"base": "b"}, "base", Suite(), loaded.__getitem__, store)


def test_what_was_computed_is_not_computed_again(tiny_model: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_model, device="cpu")
    held = Suite([Text("some text"), Text("more text")], instructions=suite().instructions[:2])
    calls = []

    def load(name: str) -> tuple[Any, Any]:
        calls.append(name)
        return model, tokenizer

    with Cache(tmp_path) as store:
        first = measure_retention({"base": "b", "s": "s"}, "base", held, load, store)
        broken = lambda *a, **k: pytest.fail("asked again")  # noqa: E731
        model_forward, model.forward = model.forward, broken
        try:
            again = measure_retention({"base": "b", "s": "s"}, "base", held, load, store)
        finally:
            model.forward = model_forward
    assert json.dumps(again) == json.dumps(first)
