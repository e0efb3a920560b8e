"""Instructions to follow to the letter, generated, each scored by a program: no judge, no data set.

Kinds: length in words, sentences or lines, JSON, capitals, a given beginning or end, a letter to
leave out, another language, and a text to retell without copying it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import NamedTuple

_TOPICS = (
    *("bread", "bridges", "bees", "chess", "clouds", "deserts", "glass", "harbours", "ice"),
    *("libraries", "lighthouses", "maps", "mountains", "music", "paper", "rivers", "salt"),
    *("ships", "snow", "stars", "tea", "trains", "trees", "volcanoes", "windmills", "wool"),
)
_STORIES = (
    "The baker of the small harbour town rose before dawn every morning and carried his bread in a "
    "wicker basket to the boats that were about to leave for the open sea.",
    "When the old bridge was closed after the flood, the children of the village crossed the river "
    "in a wooden ferry that a retired carpenter had built from fallen oaks.",
    "A letter that had been posted before the war was found behind a loose board of the post "
    "office and was handed to the granddaughter of the woman it was meant for.",
    "Because the lighthouse had no road, its keeper was supplied by a mule that knew the way along "
    "the cliffs so well that nobody had to lead it any more.",
)
_LONGEST_COPY = 6  # words in a row that a retelling may share with its story
_LANGUAGES = {
    "German": "der die das und ist ein eine nicht von zu mit den auf sich es im dem des wird sind",
    "French": "le la les et est un une des du que dans pour pas qui sur au avec ce il sont",
    "Spanish": "el la los las y es un una de que en por con para no se del su al son",
}
_ENGLISH = "the and is a of to in that it for on with as are this be by from at was"


class Instruction(NamedTuple):
    """prompt: the user's turn; follows: whether a reply does as it says."""

    id: str
    kind: str
    prompt: str
    follows: Callable[[str], bool]


def make_instructions(count: int = 96, seed: int = 0) -> list[Instruction]:
    """`count` instructions of all kinds in turn, drawn by the seed; prompts do not repeat."""
    rng = random.Random(f"instructions/{seed}")
    kinds = list(_KINDS.items())
    made: dict[str, Instruction] = {}
    for tries in range(count * 50):
        if len(made) == count:
            break
        kind, make = kinds[tries % len(kinds)]
        prompt, follows = make(rng)
        if prompt not in made:
            made[prompt] = Instruction(f"{kind}-{len(made):03d}", kind, prompt, follows)
    return list(made.values())


def copied_words(reply: str, text: str) -> int:
    """The longest run of words that a reply shares with a text, in whatever case."""
    said, given = _words(reply), _words(text)
    longest, before = 0, [0] * (len(given) + 1)
    for word in said:
        row = [0] * (len(given) + 1)
        for j, other in enumerate(given, start=1):
            if word == other:
                row[j] = before[j - 1] + 1
                longest = max(longest, row[j])
        before = row
    return longest


def written_in(reply: str, language: str) -> bool:
    """Whether a reply's function words are that language's rather than another's; 5 words least."""
    words = _words(reply)
    listed = {"English": _ENGLISH, **_LANGUAGES}
    counts = {name: sum(word in held.split() for word in words) for name, held in listed.items()}
    best = max(counts.values())
    return len(words) >= 5 and counts[language] == best and list(counts.values()).count(best) == 1


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text.lower())


def _sentences(text: str) -> int:
    return len(re.findall(r"[^.!?\n]*[^\W_][^.!?\n]*(?:[.!?]+|\n|$)", text.strip()))


Made = tuple[str, Callable[[str], bool]]


def _exact_words(rng: random.Random) -> Made:
    topic, count = rng.choice(_TOPICS), rng.randint(2, 8)
    return (
        f"Write exactly {count} words about {topic}, and nothing else.",
        lambda reply: len(_words(reply)) == count,
    )


def _at_most(rng: random.Random) -> Made:
    topic, count = rng.choice(_TOPICS), rng.choice((10, 15, 20))
    return (
        f"Tell me something about {topic} in at most {count} words.",
        lambda reply: 3 <= len(_words(reply)) <= count,
    )


def _one_sentence(rng: random.Random) -> Made:
    topic = rng.choice(_TOPICS)
    return (
        f"Describe {topic} in exactly one sentence.",
        lambda reply: _sentences(reply) == 1 and len(_words(reply)) >= 4,
    )


def _list(rng: random.Random) -> Made:
    topic, count = rng.choice(_TOPICS), rng.randint(2, 5)
    return (
        f"Give a list of exactly {count} facts about {topic}. Begin each line with '- ' and write "
        "nothing else.",
        lambda reply: (
            len(lines := [line for line in reply.strip().splitlines() if line.strip()]) == count
            and all(line.startswith("- ") and len(_words(line)) >= 2 for line in lines)
        ),
    )


def _json(rng: random.Random) -> Made:
    topic = rng.choice(_TOPICS)
    keys = rng.sample(("topic", "colour", "use", "origin", "size"), 2)

    def follows(reply: str) -> bool:
        bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", reply.strip())
        try:
            record = json.loads(bare)
        except ValueError:
            return False
        return isinstance(record, dict) and set(record) == set(keys)

    return (
        f"Describe {topic} as a JSON object with the keys {keys[0]} and {keys[1]} alone. Write "
        "nothing but the JSON.",
        follows,
    )


def _capitals(rng: random.Random) -> Made:
    topic = rng.choice(_TOPICS)
    return (
        f"Write a sentence about {topic} in capital letters only.",
        lambda reply: len(_words(reply)) >= 3 and reply == reply.upper(),
    )


def _beginning(rng: random.Random) -> Made:
    topic, first = rng.choice(_TOPICS), rng.choice(("Indeed", "Certainly", "Dear reader", "Well"))
    return (
        f"Tell me one thing about {topic}. Begin your answer with the words '{first}'.",
        lambda reply: (
            reply.strip().startswith(first) and len(_words(reply)) > len(_words(first)) + 1
        ),
    )


def _ending(rng: random.Random) -> Made:
    topic, last = rng.choice(_TOPICS), rng.choice(("The end.", "Thank you.", "That is all."))
    return (
        f"Tell me one thing about {topic}. End your answer with the words '{last}'",
        lambda reply: reply.strip().endswith(last) and len(_words(reply)) > len(_words(last)) + 1,
    )


def _without_letter(rng: random.Random) -> Made:
    letter = rng.choice("kqxz")
    topic = rng.choice([t for t in _TOPICS if letter not in t])
    return (
        f"Write a sentence about {topic} that does not hold the letter {letter}.",
        lambda reply: len(_words(reply)) >= 4 and letter not in reply.lower(),
    )


def _language(rng: random.Random) -> Made:
    topic, language = rng.choice(_TOPICS), rng.choice(tuple(_LANGUAGES))
    return (
        f"Write two sentences about {topic} in {language}.",
        lambda reply: written_in(reply, language),
    )


def _retelling(rng: random.Random) -> Made:
    story = rng.choice(_STORIES)
    count = rng.choice((10, 15, 20, 25, 30))
    return (
        f"Retell this in your own words, in {count} words or fewer. Do not copy more than "
        f"{_LONGEST_COPY} words in a row: {story}",
        lambda reply: (
            5 <= len(_words(reply)) <= count and copied_words(reply, story) <= _LONGEST_COPY
        ),
    )


_KINDS: dict[str, Callable[[random.Random], Made]] = {
    "exact-words": _exact_words,
    "at-most": _at_most,
    "one-sentence": _one_sentence,
    "list": _list,
    "json": _json,
    "capitals": _capitals,
    "beginning": _beginning,
    "ending": _ending,
    "without-letter": _without_letter,
    "language": _language,
    "no-copy": _retelling,
}
KINDS = tuple(_KINDS)
