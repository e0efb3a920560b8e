"""Every kind of instruction: a reply that follows it, and ones that nearly do."""

from __future__ import annotations

import re

import pytest

from neurorit.eval.retention.instructions import (
    KINDS,
    Instruction,
    copied_words,
    make_instructions,
    written_in,
)

MADE = make_instructions(110, seed=3)


def first(kind: str) -> Instruction:
    return next(one for one in MADE if one.kind == kind)


def number(one: Instruction) -> int:
    return int(re.search(r"\d+", one.prompt)[0])  # type: ignore[index]


def test_all_kinds_are_made_and_none_twice() -> None:
    assert {one.kind for one in MADE} == set(KINDS)
    assert len({one.prompt for one in MADE}) == len({one.id for one in MADE}) == 110
    assert [one.prompt for one in make_instructions(110, seed=3)] == [one.prompt for one in MADE]
    assert [one.prompt for one in make_instructions(110, seed=4)] != [one.prompt for one in MADE]


def test_nothing_follows_when_nothing_is_said() -> None:
    assert not any(one.follows(text) for one in MADE for text in ("", "  ", "."))


@pytest.mark.parametrize("kind", KINDS)
def test_a_following_reply_and_others(kind: str) -> None:
    one = first(kind)
    topic = re.search(r"about (\w+)|Describe (\w+)", one.prompt)
    match kind:
        case "exact-words":
            n = number(one)
            good, bad = "word " * n, ["word " * (n + 1), "word " * (n - 1)]
        case "at-most":
            good, bad = "It is good to have.", ["It " * 30, "It."]
        case "one-sentence":
            good, bad = "It is quite a thing.", ["It is a thing. It is more.", "Thing."]
        case "list":
            n = number(one)
            good = "\n".join(["- it is there"] * n)
            bad = ["\n".join(["- it is there"] * (n + 1)), f"Here:\n{good}", "it is there"]
        case "json":
            keys = re.search(r"keys (\w+) and (\w+)", one.prompt)
            assert keys
            good = f'```json\n{{"{keys[1]}": 1, "{keys[2]}": "x"}}\n```'
            bad = [f'{{"{keys[1]}": 1}}', "{}", f"Sure: {good}", "[1]"]
        case "capitals":
            good, bad = "IT IS A THING.", ["It IS A THING."]
        case "beginning":
            words = re.search("'(.*)'", one.prompt)
            assert words
            good, bad = f"{words[1]}, it is old.", ["It is old.", f"Yes. {words[1]}, it is old."]
        case "ending":
            words = re.search("'(.*)'", one.prompt)
            assert words
            good, bad = f"It is old. {words[1]}", [f"{words[1]} It is old.", words[1]]
        case "without-letter":
            letter = one.prompt.rstrip(".")[-1]
            good, bad = "It is a fine sight to see.", [f"It is a fine sight {letter}.", "It."]
        case "language":
            good = {
                "German": "Das ist ein Haus und es ist alt.",
                "French": "Il est dans la maison et ce n'est pas vieux.",
                "Spanish": "La casa es de un hombre que no es viejo.",
            }[one.prompt.rstrip(".").split()[-1]]
            bad = ["The house is old and it is of wood."]
        case _:
            story = one.prompt.split(": ", 1)[1]
            good, bad = "Somebody did a rather kind thing.", [story, " ".join(story.split()[:9])]
    assert one.follows(good), (one.prompt, good, topic)
    assert not any(one.follows(text) for text in bad), one.prompt


def test_copies_and_languages() -> None:
    assert copied_words("The cat, SAT on a mat", "a cat sat on the mat") == 3
    assert copied_words("", "a") == 0
    assert written_in("Der Hund ist mit den Katzen da", "German")
    assert not written_in("Der Hund ist mit den Katzen da", "French")
    assert not written_in("Hund Katze Maus Haus Baum", "German")
