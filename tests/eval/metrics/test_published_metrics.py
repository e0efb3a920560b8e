"""Our scores against torchmetrics' SQuAD metric, an implementation of its own."""

from __future__ import annotations

import random
import unicodedata

import pytest
from torchmetrics.functional.text import squad
from torchmetrics.functional.text.squad import _normalize_text

from neurorit.data.answers import normalize_answer
from neurorit.eval.metrics.answers import exact_match, f1

HAND_PICKED = [
    ("The Cat", ["cat"]),
    ("a", ["the"]),
    ("An apple a day.", ["apple day", "orange"]),
    ("U.S.A.", ["USA", "United States"]),
    ("\u00c9cole\u2014Nord", ["\u00e9cole nord", "\u00c9COLE\u2014NORD"]),
    ("stra\u00dfe", ["STRASSE"]),
    ("\u0130stanbul", ["istanbul"]),
    ("\u6771\u4eac", ["\u6771\u4eac", "Tokyo"]),
    ("caf\u0065\u0301", ["caf\u00e9"]),
    ("rock'n'roll", ["rock n roll", "rocknroll"]),
    ("1,000", ["1000"]),
    ("theatre", ["the atre", "theatre"]),
    ("a-the-b", ["ab", "atheb"]),
    ("x\u00a0y", ["x y"]),
    ("x\ty\nz", ["x y z"]),
    ("!!!", ["x", "..."]),
    ("New York City, NY", ["New York", "New York City"]),
    ("the the the", ["the", "x"]),
    ("\U0001f600 smile", ["smile"]),
    ("\u201cquoted\u201d", ["quoted", '"quoted"']),
]
WORDS = ["the", "a", "An", "cat", "Cat's", "U.S.", "1,000", "\u00e9t\u00e9", "\u6771\u4eac", "x-y"]
WORDS += ["...", "\u2014", "don't", "THE", "\u00df", "\u0130", "dog", "Dog", "'", "\u00a0", "42%"]


def generated(count: int) -> list[tuple[str, list[str]]]:
    rng = random.Random(0)

    def phrase(least: int) -> str:
        words = [rng.choice(WORDS) for _ in range(rng.randint(least, 5))]
        return rng.choice([" ", "  ", "\t", "-"]).join(words)

    pairs = []
    for _ in range(count):
        answers = [phrase(1) for _ in range(rng.randint(1, 3))]
        # Half of the answers are near an alias, else nearly all would score nothing.
        near = rng.choice(answers) + rng.choice(["", ".", " the", " cat", "!"])
        pairs.append((near if rng.random() < 0.5 else phrase(0), answers))
    return pairs


def composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


PAIRS = [*HAND_PICKED, *generated(2_100)]


def test_scores_equal_the_published_ones() -> None:
    seen = set()
    for said, answers in PAIRS:
        # Ours on purpose: an accent that is a character of its own makes no other word.
        said, answers = composed(said), [composed(answer) for answer in answers]
        published = squad(
            [{"prediction_text": said, "id": "0"}],
            [{"answers": {"answer_start": [0] * len(answers), "text": answers}, "id": "0"}],
        )
        assert normalize_answer(said) == _normalize_text(said)
        if not said.strip():
            # Ours on purpose: an empty answer is a refusal and never matches, whatever the answer.
            assert not exact_match(said, answers) and f1(said, answers) == 0
            continue
        assert exact_match(said, answers) == (float(published["exact_match"]) == 100), said
        assert 100 * f1(said, answers) == pytest.approx(float(published["f1"]), abs=1e-3), said
        seen.add((exact_match(said, answers), 0 < f1(said, answers) < 1))
    assert exact_match("caf\u0065\u0301", ["caf\u00e9"])
    assert len(PAIRS) >= 2_000
    assert len(seen) >= 3, "the pairs must hold right, partly right and wrong answers"
