"""The seeded world: invented people, their facts, and English that states and asks them.

Every name is made of syllables, so no fact can be known from elsewhere: an answer can only come
from a passage.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import write_text
from neurorit.lab.relations import Relation, make_relations

SPLITS = ("train", "validation", "test")
_SPELLED = "b br d dr f g gr h j k kr l m n p pr r s st t tr v z"
_ONSETS = tuple(_SPELLED.split())
_VOWELS = ("a", "e", "i", "o", "u")
_FIRST_CODAS = ("la", "ra", "n", "s", "lo", "ric", "na", "den")
_LAST_CODAS = ("ford", "well", "sen", "man", "wick", "sky", "ley", "dorf")
_TOWN_CODAS = ("ville", "burg", "port", "haven", "mouth", "field")
_COMPANY_CODAS = ("corp", "tec", "works", "line")
_PRONOUNS = ("She", "He")
_LANGUAGE_CODAS = ("ish", "ese", "ian")


@dataclass(frozen=True)
class Person:
    """An invented person: two names, and a canonical value for every relation."""

    first: str
    last: str
    facts: Mapping[str, str]

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first} {self.last}"


@dataclass(frozen=True)
class World:
    """Names and relations, all drawn from one seed. `pairs` splits names, never mixing splits."""

    firsts: tuple[str, ...]
    lasts: tuple[str, ...]
    relations: tuple[Relation, ...]
    pairs: Mapping[str, tuple[tuple[str, str], ...]]

    def relation(self, name: str) -> Relation:
        """The relation of that name."""
        return next(r for r in self.relations if r.name == name)

    def answers(self, relation: str, value: str) -> list[str]:
        """Accepted answers, the canonical one first."""
        return [value, *self.relation(relation).values[value]]

    def person(self, rng: random.Random, pair: tuple[str, str]) -> Person:
        """A person of that name with facts drawn anew."""
        facts = {r.name: rng.choice(tuple(r.values)) for r in self.relations}
        if facts["birthplace"] == facts["residence"]:
            others = [v for v in self.relation("residence").values if v != facts["birthplace"]]
            facts["residence"] = rng.choice(others)
        return Person(*pair, facts)


def make_world(seed: int = 0, *, people: int = 16_000) -> World:
    """The world of a seed: 120 first and 200 last names, ten relations, `people` name pairs."""
    rng = random.Random(seed)
    used: set[str] = set()
    firsts = _invent(rng, 120, _FIRST_CODAS, used)
    lasts = _invent(rng, 200, _LAST_CODAS, used)
    towns = _invent(rng, 60, _TOWN_CODAS, used)
    companies = _invent(rng, 40, _COMPANY_CODAS, used)
    languages = _invent(rng, 40, _LANGUAGE_CODAS, used)
    pairs = [(f, last) for f in firsts for last in lasts]
    rng.shuffle(pairs)
    pairs = pairs[:people]
    train, held = int(people * 0.75), int(people * 0.125)
    return World(
        firsts=firsts,
        lasts=lasts,
        relations=make_relations(towns, companies, languages),
        pairs={
            "train": tuple(pairs[:train]),
            "validation": tuple(pairs[train : train + held]),
            "test": tuple(pairs[train + held : train + 2 * held]),
        },
    )


def state_facts(
    world: World,
    person: Person,
    relations: Sequence[str],
    rng: random.Random,
    pronoun: str | None = None,
) -> list[str]:
    """One sentence per relation; the first names the person, later ones may use the pronoun.

    A pronoun that is not given is drawn.
    """
    sentences = []
    pronoun = pronoun or rng.choice(_PRONOUNS)
    for i, name in enumerate(relations):
        statement = rng.choice(world.relation(name).statements)
        repeat = i > 0 and statement.startswith("{who}") and rng.random() < 0.7
        who = pronoun if repeat else person.name
        sentences.append(statement.format(who=who, value=person.facts[name]))
    return sentences


def ask(world: World, person: Person, relation: str, rng: random.Random) -> str:
    """A question for one fact of a person."""
    return rng.choice(world.relation(relation).questions).format(who=person.name)


def passages_of(
    world: World,
    person: Person,
    rng: random.Random,
    *,
    most: int = 3,
    pronoun: str | None = None,
) -> list[tuple[list[str], str]]:
    """Up to `most` passages about the person, of 2 to 4 facts each: (relations stated, text)."""
    names = [r.name for r in world.relations]
    rng.shuffle(names)
    groups = (names[:3], names[3:6], names[6:])[:most]
    return [(g, " ".join(state_facts(world, person, g, rng, pronoun))) for g in groups]


def write_world(
    out: Path,
    seed: int = 0,
    *,
    train: int = 800,
    validation: int = 300,
    test: int = 720,
    world: World | None = None,
) -> dict[str, Path]:
    """Write corpus.jsonl and questions-{split}.jsonl; the counts are people per split.

    A person has one to three passages. A test or validation person gets one question, a training
    person one per fact. Each passage records its person's split, so that mixing can keep the
    splits apart.
    """
    world = world or make_world(seed)
    counts = {"train": train, "validation": validation, "test": test}
    out = Path(out)
    corpus: list[str] = []
    paths = {"corpus": out / "corpus.jsonl"}
    for split in SPLITS:
        questions: list[str] = []
        records = _people(world, split, counts[split], seed)
        for index, (person, rng) in enumerate(records):
            gold: dict[str, str] = {}
            most = rng.choices((1, 2, 3), (0.5, 0.3, 0.2))[0]
            told = passages_of(world, person, rng, most=most, pronoun=rng.choice(_PRONOUNS))
            for part, (relations, text) in enumerate(told):
                passage_id = f"{split}-{index:05d}-{part}"
                gold.update(dict.fromkeys(relations, passage_id))
                corpus.append(_line(_passage_record(world, person, relations, text, passage_id)))
            names = sorted(gold)
            asked = names if split == "train" else [rng.choice(names)]
            for relation in asked:
                questions.append(
                    _line(
                        {
                            "id": f"{split}-{index:05d}-{relation}",
                            "question": ask(world, person, relation, rng),
                            "answers": world.answers(relation, person.facts[relation]),
                            "gold": [gold[relation]],
                            "meta": {"entity": person.name, "relation": relation, "split": split},
                        }
                    )
                )
        paths[split] = out / f"questions-{split}.jsonl"
        write_text(paths[split], "".join(questions))
    write_text(paths["corpus"], "".join(corpus))
    return paths


def _people(
    world: World, split: str, count: int, seed: int
) -> Iterator[tuple[Person, random.Random]]:
    for index, pair in enumerate(world.pairs[split][:count]):
        rng = random.Random(f"{seed}/{split}/{index}")
        yield world.person(rng, pair), rng


def _passage_record(
    world: World, person: Person, relations: Sequence[str], text: str, passage_id: str
) -> dict[str, Any]:
    return {
        "id": passage_id,
        "title": person.name,
        "text": text,
        "meta": {
            "entity": person.name,
            "split": passage_id.split("-", 1)[0],
            "facts": {r: world.answers(r, person.facts[r]) for r in relations},
        },
    }


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _invent(
    rng: random.Random, count: int, codas: Sequence[str], used: set[str]
) -> tuple[str, ...]:
    """Distinct capitalised words: onset, vowel, coda."""
    words: list[str] = []
    while len(words) < count:
        middle = rng.choice(_ONSETS) + rng.choice(_VOWELS) if rng.random() < 0.6 else ""
        word = (rng.choice(_ONSETS) + rng.choice(_VOWELS) + middle + rng.choice(codas)).title()
        if word not in used:
            used.add(word)
            words.append(word)
    return tuple(words)
