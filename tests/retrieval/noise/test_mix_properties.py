"""Mixing, by properties: noise holds no answer by a check of its own, and a seed gives one result.

The check does not use `neurorit.data.answers`: it compares lists of letters and digits.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example, Passage
from neurorit.retrieval.index.index import Hit
from neurorit.retrieval.noise.mix import mix
from neurorit.retrieval.noise.mixer import Mixer, MixSettings

NAMES = (
    *("O'Brien", "O\u2019Brien", "Z\u00fcrich", "Zurich", "1954", "1912\u20131954", "Anne-Marie"),
    *("\u6771\u4eac", "\u4eac", "U.S.", "New York", "York", "The Owl", "owl"),
)
FILLING = (
    *("went", "to", "the", "river", "in", "1912-1954", "fowl", "Yorkshire", "\u306b\u884c\u304f"),
    *(
        "(owl)",
        "us",
        "Anne",
        "O'Brien's",
        "\u2014York\u2014",
        "x\u6771\u4eac\u90fd",
        "Z\u00fcrich's",
    ),
)


def letters(text: str) -> list[str]:
    """Words of letters and digits without accents; each character of Han or kana is one."""
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+", bare.lower())


def holds(text: str, answer: str) -> bool:
    wanted, words = letters(re.sub(r"(?i)\bthe\b", "", answer)), letters(text)
    words = [word for word in words if word != "the"]
    size = len(wanted)
    return any(words[at : at + size] == wanted for at in range(len(words) - size + 1))


class WordIndex:
    """An index that ranks by common words: as `Index` to a Mixer, and quick."""

    digest = "of no folder"

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = list(passages)

    def __len__(self) -> int:
        return len(self.passages)

    def passage(self, identity: str) -> Passage:
        return next(p for p in self.passages if p.id == identity)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = []
        for query in queries:
            asked = set(query.split())
            scores = [len(asked & set(p.text.split())) for p in self.passages]
            order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
            hits = [(self.passages[i], float(scores[i])) for i in order]
            found.append([Hit(p, score, rank) for rank, (p, score) in enumerate(hits, start=1)])
        return found


TEXTS = st.lists(st.sampled_from(NAMES + FILLING), min_size=1, max_size=8).map(" ".join)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[WordIndex, list[Example]]:
    """Passages of names and other words, and questions about some of them."""
    texts = draw(st.lists(TEXTS, min_size=4, max_size=14))
    titles = draw(st.lists(st.sampled_from(("", *NAMES)), min_size=len(texts), max_size=len(texts)))
    passages = [
        Passage(f"p{i}", title, f"{text}. And more.")
        for i, (title, text) in enumerate(zip(titles, texts, strict=True))
    ]
    answers = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)
    named = st.lists(st.integers(0, len(passages) - 1), max_size=1)
    asked = [
        Example(f"q{i}", draw(TEXTS), tuple(draw(answers)), (), {"gold": [f"p{n}" for n in gold]})
        for i, gold in enumerate(draw(st.lists(named, min_size=2, max_size=5)))
    ]
    return WordIndex(passages), asked


SETTINGS = MixSettings(
    distractor=(0, 2, 3),
    random=(0, 2),
    counterfactual=(0, 2),
    near_duplicate=(0, 1),
    injected=(0, 1),
    depth=3,
)


@settings(max_examples=150, deadline=None)
@given(world=worlds(), seed=st.integers(0, 99))
def test_no_noise_holds_an_answer(world: tuple[WordIndex, list[Example]], seed: int) -> None:
    index, asked = world
    made: Any = Mixer(index, asked, SETTINGS, seed).mix(asked)  # type: ignore[arg-type]
    for example, record in made:
        for passage in example.passages:
            if passage.kind != "gold":
                for answer in example.answers:
                    assert not holds(f"{passage.title} {passage.text}", answer), (passage, answer)
        assert [p.id for p in example.passages] == [entry["id"] for entry in record["passages"]]


@settings(max_examples=25, deadline=None)
@given(world=worlds(), seed=st.integers(0, 99), position=st.sampled_from(["", "middle", "random"]))
def test_a_seed_gives_the_same_bytes_and_any_example_alone(
    world: tuple[WordIndex, list[Example]], seed: int, position: Any
) -> None:
    index, asked = world
    wanted = MixSettings(distractor=(1, 2), without_gold=0.3, position=position)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr("neurorit.retrieval.noise.mix.Index.load", lambda place: index)
        (folder / "asked.jsonl").write_text(
            "".join(
                json.dumps({"id": q.id, "question": q.question, "answers": q.answers, **q.meta})
                + "\n"
                for q in asked
            )
        )
        for out in ("a", "b"):
            try:
                mix(folder / "asked.jsonl", folder, wanted, seed=seed, out=folder / out)
            except BadInput as error:
                # A small world may hold no passage that any question could be shown.
                assert "no question found a passage" in str(error)
                reject()
        lines = (folder / "a" / "examples.jsonl").read_bytes()
        assert lines == (folder / "b" / "examples.jsonl").read_bytes()
        ledger = (folder / "a" / "ledger.jsonl").read_bytes()
        assert ledger == (folder / "b" / "ledger.jsonl").read_bytes()
        one = json.loads(lines.splitlines()[-1])["id"]
        mix(folder / "asked.jsonl", folder, wanted, seed=seed, out=folder / "c", only=[one])
        assert (folder / "c" / "examples.jsonl").read_bytes() == lines.splitlines(True)[-1]


def test_an_answer_is_kept_out_in_other_letters_and_a_field_may_hold_several_values() -> None:
    texts = {"gold": "born in \u0141\u00f3d\u017a", "x1": "born in Lodz too", "x2": "born to weave"}
    tags = {"gold": ["a"], "x1": ["a", "b"], "x2": [["b"], "c"]}
    index: Any = WordIndex([Passage(i, "", t, meta={"tags": tags[i]}) for i, t in texts.items()])
    question = Example("q", "born in", ("\u0141\u00f3d\u017a",), (), {"gold": ["gold"]})
    ((example, record),) = Mixer(index, [question], SETTINGS, 0).mix([question])
    assert "x1" not in {p.id for p in example.passages}
    assert {"id": "x1", "held": "\u0141\u00f3d\u017a"}.items() <= record["rejected"][0].items()
    within = MixSettings(within="tags", without_gold=1.0, distractor=(3,), random=(0,))
    for own, wanted in (("c", {"x2"}), (["b"], {"x1", "x2"}), (["a", "c"], {"gold", "x1", "x2"})):
        asked = Example("q", "born", ("nothing",), (), {"tags": own})
        ((example, _),) = Mixer(index, [asked], within, 0).mix([asked])
        assert {p.id for p in example.passages} == wanted


def test_yes_and_no_stand_in_no_passage_and_what_has_no_answer_gets_noise_alone() -> None:
    index: Any = WordIndex([Passage("p1", "", "the kiln is shut"), Passage("p2", "", "no bell")])
    asked = Example("y", "is the kiln open", ("no",))
    with pytest.raises(BadInput, match=r"question 'y' is answered by yes or no.*'gold'"):
        list(Mixer(index, [asked], SETTINGS, 0).mix([asked]))
    named = Example("y", "is the kiln open", ("no",), (), {"gold": ["p1"]})
    wanted = MixSettings(without_gold=0.0, distractor=(1,), random=(0,), counterfactual=(1,))
    ((example, _),) = Mixer(index, [named], wanted, 0).mix([named])
    assert sorted((p.id, p.kind) for p in example.passages) == [
        ("p1", "gold"),
        ("p2", "distractor"),
    ]
    impossible = Example("u", "who is no bell", (), (), {"unanswerable": True})
    ((example, record),) = Mixer(index, [impossible], wanted, 0).mix([impossible])
    assert [p.kind for p in example.passages] == ["distractor"] and not record["answerable"]
