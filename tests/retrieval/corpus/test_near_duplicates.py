"""Repeats in a corpus: found by the words themselves, told, and left out on request."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.retrieval.corpus.near_duplicates import _shingles, _words, survey
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.build import REPEATS
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.settings import BuildSettings


def text(rng: random.Random, words: int = 80) -> list[str]:
    return [f"w{rng.randrange(3000)}" for _ in range(words)]


def overlap(first: set[str], second: set[str]) -> float:
    return len(first & second) / len(first | second)


def corpus(seed: int, size: int = 400) -> list[Passage]:
    """Passages, of which some repeat an earlier one with some words changed."""
    rng = random.Random(seed)
    made: list[list[str]] = []
    for number in range(size):
        if number % 5 or not made:
            made.append(text(rng))
            continue
        copy = list(rng.choice(made))
        for _ in range(rng.choice((0, 0, 1, 2, 4, 12))):
            copy[rng.randrange(len(copy))] = "changed"
        made.append(copy)
    return [Passage(f"p{i}", "", " ".join(words)) for i, words in enumerate(made)]


@pytest.mark.parametrize("near", [0.6, 0.8, 0.9])
def test_near_duplicates_are_those_that_every_pair_compared_shows(near: float) -> None:
    passages = corpus(0)
    shingles = [_shingles(_words(passage)) for passage in passages]
    gone: set[int] = set()
    for second in range(len(passages)):
        pairs = (overlap(shingles[i], shingles[second]) for i in range(second) if i not in gone)
        if max(pairs, default=0.0) >= near:
            gone.add(second)
    found = survey(lambda: iter(passages), near)
    rows = {one.row for one in found.repeats}
    assert found.passages == len(passages) and found.exact
    assert len(gone) > 30
    assert len(rows ^ gone) <= 1, "MinHash misses one pair in a hundred at most"
    for one in found.repeats:
        first = int(one.of.removeprefix("p"))
        assert first < one.row and one.similarity >= near


def test_the_same_words_are_the_same_whatever_their_case_and_space() -> None:
    same = [
        Passage("a", "Otter", "The otter  swims."),
        Passage("b", "", "otter the\nOTTER swims."),
        Passage("c", "", "The otter."),
    ]
    (one,) = survey(lambda: iter(same)).repeats
    assert (one.id, one.of, one.similarity, one.row) == ("b", "a", 1.0, 1)
    with pytest.raises(BadInput, match=r"near_duplicates=0\.2"):
        survey(lambda: iter(same), 0.2)


def test_repeats_do_not_cost_their_text() -> None:
    def read() -> Iterator[Passage]:
        for number in range(4_000):
            yield Passage(str(number), "", " ".join(text(random.Random(number % 2_000))))

    survey(read)  # what is imported on first use is not counted
    tracemalloc.start()
    found = survey(read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.exact, len(found.repeats)) == (2_000, 2_000)
    assert peak < 4_000_000, f"{peak} bytes for 2,000 pairs"


def test_near_duplicates_are_compared_in_several_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    passages = corpus(1, 200)
    whole = survey(lambda: iter(passages), 0.8)
    monkeypatch.setattr("neurorit.retrieval.corpus.near_duplicates._HELD", 3)
    monkeypatch.setattr("neurorit.retrieval.corpus.near_duplicates._CHUNK", 7)
    assert survey(lambda: iter(passages), 0.8) == whole and whole.repeats


def test_near_duplicates_of_a_script_without_spaces_are_found() -> None:
    first = "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002" * 3
    pair = [Passage("a", "", first + "\u4e00"), Passage("b", "", first + "\u4e8c")]
    (one,) = survey(lambda: iter(pair), 0.8).repeats
    assert (one.id, one.of) == ("b", "a") and 0.8 <= one.similarity < 1


def test_an_index_tells_of_repeats_or_leaves_them_out(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "text": "The otter swims in rivers and eats the fish of it."},
        {"id": "b", "text": "Bread is baked."},
        {"id": "c", "text": "the otter swims in rivers and eats the fish of it."},
        {"id": "d", "text": "The otter swims in rivers and eats the fish of it too."},
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoder = load_encoder()
    made = build_index(path, tmp_path / "told", encoder=encoder).built
    assert (made["passages"], made["duplicates"]) == (4, 1)
    told = json.loads((tmp_path / "told" / REPEATS).read_text())
    assert (told["id"], told["of"]) == ("c", "a")
    settings = BuildSettings(near_duplicates=0.7, drop_duplicates=True)
    made = build_index(path, tmp_path / "less", encoder=encoder, settings=settings).built
    assert (made["passages"], made["duplicates"], made["near_duplicates"]) == (2, 1, 1)
    assert [p.id for p in Index.load(tmp_path / "less", encoder=encoder).passages] == ["a", "b"]
    with pytest.raises(BadInput, match="drop_duplicates"):
        BuildSettings(drop_duplicates=True, vectors=tmp_path / "v.npy")
