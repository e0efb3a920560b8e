"""Answers are found in a text however they are written, and in no other word."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.data.answers import held_answer, replace_answers
from neurorit.data.letters import plain, spelt_out

SHARED = Path(__file__).parents[4] / "shared" / "data"
FORMS = ("NFC", "NFD", "NFKC", "NFKD")
QUOTES, DASHES = "'\u2019\u2018\u02bc", "-\u2010\u2011\u2013\u2212"
DIGITS = (
    "\u0660\u06f0\u0966\u09e6\u0e50\uff10"  # zeros: Arabic, Persian, Hindi, Bengali, Thai, wide
)
NAMES = (
    *("Łódź", "Søren Kierkegaard", "Đà Nẵng", "Ægir", "1945", "مُحَمَّد", "Zürich", "O'Brien"),
    *("Anne-Marie", "שָׁלוֹם", "दिल्ली", "Straße", "சென்னை", "東京", "Théâtre Guénes", "12 May 1912"),
)  # fmt: skip


def other_digits(text: str, rng: random.Random) -> str:
    zero = ord(rng.choice(DIGITS))
    return "".join(chr(zero + int(c)) if c in "0123456789" else c for c in text)


def without_accents(text: str, rng: random.Random) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f")
    pairs = {
        "\u0142": "l",
        "\u0141": "L",
        "\u00f8": "o",
        "\u0111": "d",
        "\u0110": "D",
        "\u00df": "ss",
    }
    return "".join(pairs.get(c, c) for c in bare)


def spelt(text: str, rng: random.Random) -> str:
    pairs = {"\u00e4": "ae", "\u00f6": "oe", "\u00fc": "ue", "\u00f8": "oe", "\u00e5": "aa"}
    return "".join(pairs.get(c, c) for c in unicodedata.normalize("NFC", text))


def swapped(signs: str) -> Callable[[str, random.Random], str]:
    return lambda text, rng: "".join(rng.choice(signs) if c in signs else c for c in text)


RULES: dict[str, Callable[[str, random.Random], str]] = {
    "normal form": lambda text, rng: unicodedata.normalize(rng.choice(FORMS), text),
    "accents left out": without_accents,
    "umlauts spelt out": spelt,
    "digits of another script": other_digits,
    "case": lambda text, rng: rng.choice((str.upper, str.lower, str.title, str.swapcase))(text),
    "quotes": swapped(QUOTES),
    "dashes": swapped(DASHES),
    "widths": lambda text, rng: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text
    ),
    "spaces": lambda text, rng: text.replace(" ", rng.choice(("\u00a0", "\u2009", "  "))),
}


def rewritten(answer: str, rng: random.Random) -> str:
    """The answer after one to three rules; accents go by one of the two rules that take them."""
    for name in rng.sample(sorted(RULES), rng.randint(1, 3)):
        answer = RULES[name](answer, rng)
    return answer


@given(st.sampled_from(NAMES), st.integers(0, 2**32))
def test_no_way_of_writing_an_answer_hides_it(answer: str, seed: int) -> None:
    rng = random.Random(seed)
    other = rewritten(answer, rng)
    for text, wanted in ((f"It was {other}, they say.", answer), (f"At {answer}.", other)):
        assert held_answer(text, [wanted]) == wanted
        replaced = replace_answers(text, [wanted], "ZZ")
        assert held_answer(replaced, [wanted]) is None or replaced == text


def test_five_thousand_real_answers_are_found_in_other_ways_of_writing() -> None:
    """Rules: normal form, accents, umlauts, digits, case, quotes, dashes, widths, spaces."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here")
    answers: list[str] = []
    for name, most in (("nq-dev", 2_000), ("squad-train", 20_000)):
        with gzip.open(SHARED / f"{name}.jsonl.gz", "rt", encoding="utf-8") as stream:
            answers += [json.loads(line)["answers"][0] for line in islice(stream, most)]
    answers = [one for one in dict.fromkeys(answers) if held_answer(one, [one])]
    rng = random.Random(0)
    # What is written in one way only tells nothing: half have other letters, digits or signs.
    odd = [one for one in answers if not one.replace(" ", "").isalpha() or not one.isascii()]
    chosen = rng.sample(odd, min(len(odd), 2_500))
    chosen += rng.sample(answers, 5_000 - len(chosen))
    missed = []
    for answer in chosen:
        other = rewritten(answer, rng)
        if held_answer(f"They say {other} , and so on.", [answer]) is None:
            missed.append((answer, other))
    assert missed == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("born in Lodz in a house", "\u0141\u00f3d\u017a"),
        ("Zuerich and Bern", "Z\u00fcrich"),
        ("Z\u00fcrich and Bern", "Zuerich"),
        ("Soeren wrote it", "S\u00f8ren"),
        ("Soren wrote it", "S\u00f8ren"),
        ("at Da Nang", "\u0110\u00e0 N\u1eb5ng"),
        ("in 1945", "\u0661\u0669\u0664\u0665"),
        (
            "\u0645\u062d\u0645\u062f \u0643\u062a\u0628",
            "\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f",
        ),
        ("the sea giant Aegir", "\u00c6gir"),
        ("Istanbul", "\u0130stanbul"),
        (
            "\u0939\u093f\u0902\u0926\u0940 \u092e\u0947\u0902",
            "\u0939\u093f\u0928\u094d\u0926\u0940",
        ),  # Hindi, its nasal a dot
        ("\u0939\u0901\u0938\u0940", "\u0939\u0902\u0938\u0940"),
    ],
)
def test_a_reader_calls_these_the_same(text: str, answer: str) -> None:
    assert held_answer(text, [answer]) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\u0926\u0932 \u0906\u092f\u093e", "\u0926\u093f\u0932"),  # another vowel sign
        ("a lodge", "\u0141\u00f3d\u017a"),
        ("\u0e01\u0e32", "\u0e01\u0e34"),
        ("\u091c\u0928\u094d\u092e", "\u091c\u0902\u092e"),  # a nasal of another place stays
        ("19450", "\u0661\u0669\u0664\u0665"),
    ],
)
def test_other_words_are_other_words(text: str, answer: str) -> None:
    assert held_answer(text, [answer]) is None


def test_an_answer_is_replaced_with_its_marks() -> None:
    text = unicodedata.normalize("NFD", "Le th\u00e9\u00e2tre de Gu\u00e9nes brule")
    assert replace_answers(text, ["Gu\u00e9nes"], "ZZ").endswith(" de ZZ brule")
    assert replace_answers("Zuerich liegt am See", ["Z\u00fcrich"], "ZZ") == "ZZ liegt am See"
    assert replace_answers("seit \u0661\u0669\u0664\u0665.", ["1945"], "ZZ") == "seit ZZ."


@given(st.text(), st.sampled_from(FORMS))
def test_plain_letters_know_no_normal_form(text: str, form: str) -> None:
    try:
        other = unicodedata.normalize(form, text)
    except UnicodeError:  # halves of pairs
        return
    assert plain(other) == plain(text)
    assert plain(plain(text)) == plain(text)
    assert spelt_out(plain(text)) == plain(text)
