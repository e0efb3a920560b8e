"""Questions as people also write them: with typing errors, in other words, in other case.

What is asked for stays the same, and so do the accepted answers. Each is drawn by seed and
question, the same on every machine.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping

# The keys beside each on a keyboard.
_BESIDE: Mapping[str, str] = {
    letter: row[max(0, at - 1) : at] + row[at + 1 : at + 2]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for at, letter in enumerate(row)
}
_WORD = re.compile(r"[A-Za-z]{4,}")
_MISTYPED = 0.25  # of the words of four letters or more, and one at least
_FRAMES = (
    "Please answer this: {}",
    "I have a question: {}",
    "Could you help me with this one? {}",
    "Something I have been wondering about: {}",
    "{} Please tell me.",
    "{} Do you know?",
    "{} I would like to know.",
)
# Wordings that ask for the same.
_OTHER_WORDS = (
    (r"^what is the name of\b", "what is the name given to"),
    (r"^in which\b", "in what"),
    (r"^in what\b", "in which"),
    (r"^which\b", "what"),
    (r"^what (?=(?:year|city|country|state|person|team|company|language)\b)", "which "),
    (r"^who is\b", "who's"),
    (r"^what is\b", "what's"),
    (r"^where is\b", "where's"),
    (r"^how many\b", "what number of"),
    (r"^when did\b", "at what time did"),
    (r"^when was\b", "at what time was"),
)


def _typos(question: str, rng: random.Random) -> str:
    """Letters inside words swapped, left out, doubled or hit beside; first letters stay."""
    words = list(_WORD.finditer(question))
    chosen = [word for word in words if rng.random() < _MISTYPED]
    if words and not chosen:
        chosen = [rng.choice(words)]
    for word in reversed(chosen):
        question = question[: word.start()] + _mistyped(word[0], rng) + question[word.end() :]
    return question


def _mistyped(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    before, letter, after, rest = word[:at], word[at], word[at + 1], word[at + 2 :]
    beside = rng.choice(_BESIDE[letter.lower()])
    forms = [
        before + after + letter + rest,
        before + after + rest,
        before + letter + letter + after + rest,
        before + (beside.upper() if letter.isupper() else beside) + after + rest,
    ]
    return rng.choice([form for form in forms if form != word])


def _paraphrase(question: str, rng: random.Random) -> str:
    """The first words by others that ask the same, where there are some; else within a sentence."""
    for pattern, words in _OTHER_WORDS:
        said, count = re.subn(pattern, words, question, count=1, flags=re.IGNORECASE)
        if count and rng.random() < 0.5:
            return said[0].upper() + said[1:] if question[0].isupper() else said
    return rng.choice(_FRAMES).format(question)


QUERY_NOISE: Mapping[str, Callable[[str, random.Random], str]] = {
    "typos": _typos,
    "paraphrase": _paraphrase,
    "lower": lambda question, rng: question.lower(),
    "upper": lambda question, rng: question.upper(),
}


def reword(question: str, kind: str, identity: str, seed: int = 0) -> str:
    """The question in another wording; kind: a name of QUERY_NOISE, or "" for as it is.

    identity: the question's id, by which with the seed the wording is drawn.
    """
    if not kind:
        return question
    digest = hashlib.sha256(f"{seed}\0{identity}\0{kind}".encode()).digest()
    return QUERY_NOISE[kind](question, random.Random(int.from_bytes(digest[:8], "big")))
