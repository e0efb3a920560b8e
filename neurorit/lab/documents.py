"""Training documents of the lab's base model, as token ids with the places that matter marked.

Two kinds. *Reading documents* are plain text: one to five passages about people with similar
names, then several questions, some of which nothing in the document answers ("unknown").
*Chats* use the chat template and the prompt of every later stage; nearly all hold one passage,
the right one, so that the chat model learns to trust what it is given. It knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from neurorit.lab.tokenizer import ASSISTANT, BEGIN, END, USER
from neurorit.lab.world import Person, World, ask, state_facts
from neurorit.model.prompts import PromptTemplate

TEMPLATE = PromptTemplate(
    instruction="",
    passage="[{number}] {title}: {text}\n",
    question="Question: {question}",
    closed_book="Question: {question}",
    answer_prefix=" ",
)
UNKNOWN = "unknown"


@dataclass
class Document:
    """Token ids with the targets of the loss and of the attention supervision.

    targets: positions whose token is learned; reads: (position, positions to look at) for the
    head that reads the value; firsts, lasts, words: the same for the heads that look at names
    and at the words that tell the relation.
    """

    ids: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    reads: list[tuple[int, list[int]]] = field(default_factory=list)
    firsts: list[tuple[int, list[int]]] = field(default_factory=list)
    lasts: list[tuple[int, list[int]]] = field(default_factory=list)
    words: list[tuple[int, list[int]]] = field(default_factory=list)


@dataclass(frozen=True)
class _Stated:
    person: Person
    relations: Sequence[str]
    sentences: Sequence[str]


class DocumentMaker:
    """Draws documents from a world; people's facts are new in every document."""

    def __init__(self, world: World, tokenizer: Any) -> None:
        self.world = world
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._pairs = world.pairs["train"]
        self._known = set(self._pairs)
        self._relations = [r.name for r in world.relations]
        ids = tokenizer.convert_tokens_to_ids
        self._begin, self._user = ids(BEGIN), ids(USER)
        self._assistant, self._end = ids(ASSISTANT), ids(END)
        self._firsts = {self._encode(f" {name}")[0] for name in world.firsts}
        self._lasts = {self._encode(f" {name}")[0] for name in world.lasts}

    def reading(
        self, rng: random.Random, passages: int, questions: int, *, unknown: float = 0.25
    ) -> Document:
        """A plain document; `unknown` is the share of questions that nothing in it answers."""
        stated = self._passages(rng, passages)
        document = Document(ids=[self._begin])
        values = self._write_passages(document, stated)
        for _ in range(questions):
            person, relation, known = self._pick(rng, stated, unknown)
            start = len(document.ids)
            document.ids += self._encode("Question:")
            document.ids += self._encode(" " + ask(self.world, person, relation, rng))
            document.ids += self._encode("\nAnswer:")
            places = values.get((person.name, relation), [0]) if known else [0]
            answer = person.facts[relation] if known else UNKNOWN
            self._answer(document, start, places, answer, self._encode("\n"))
        return document

    def chat(self, rng: random.Random, passages: int) -> Document:
        """One chat turn; with no passages the answer is a guess, with several one is right."""
        stated = self._passages(rng, passages)
        document = Document(ids=[self._begin, self._user])
        if passages:
            person, relation, _ = self._pick(rng, stated, 0.0)
            values = self._write_passages(document, stated)
        else:
            person, relation, values = self._draw(rng), rng.choice(self._relations), {}
        start = len(document.ids)
        document.ids += self._encode("Question:")
        document.ids += self._encode(" " + ask(self.world, person, relation, rng))
        document.ids.append(self._assistant)
        places = values.get((person.name, relation), [0])
        self._answer(document, start, places, person.facts[relation], [self._end])
        return document

    def _passages(self, rng: random.Random, count: int) -> list[_Stated]:
        """Passages about people with shared names, most of them stating one shared relation."""
        shared = rng.choice(self._relations)
        first = self._draw(rng)
        people = [first]
        stated: list[_Stated] = []
        for i in range(count):
            person = first if i == 0 else self._similar(rng, first)
            if i and rng.random() < 0.25:
                person = rng.choice(people)
            taken = {r for s in stated if s.person.name == person.name for r in s.relations}
            free = [r for r in self._relations if r not in taken]
            size = rng.choice((2, 3, 3, 4))
            relations = rng.sample(free, min(size, len(free)))
            if shared in free and shared not in relations and rng.random() < 0.8:
                relations[rng.randrange(len(relations))] = shared
            if not relations:
                continue
            people.append(person)
            sentences = state_facts(self.world, person, relations, rng)
            stated.append(_Stated(person, relations, sentences))
        rng.shuffle(stated)
        return stated

    def _draw(self, rng: random.Random) -> Person:
        return self.world.person(rng, rng.choice(self._pairs))

    def _similar(self, rng: random.Random, person: Person) -> Person:
        for _ in range(20):
            kind = rng.random()
            first = person.first if kind < 0.4 else rng.choice(self.world.firsts)
            last = person.last if 0.4 <= kind < 0.8 else rng.choice(self.world.lasts)
            if (first, last) in self._known and (first, last) != (person.first, person.last):
                return self.world.person(rng, (first, last))
        return self._draw(rng)

    def _pick(
        self, rng: random.Random, stated: Sequence[_Stated], unknown: float
    ) -> tuple[Person, str, bool]:
        """A person and relation to ask for, and whether the passages state it."""
        chosen = rng.choice(stated)
        if rng.random() >= unknown:
            return chosen.person, rng.choice(tuple(chosen.relations)), True
        if rng.random() < 0.3:
            mine = {r for s in stated if s.person.name == chosen.person.name for r in s.relations}
            missing = [r for r in self._relations if r not in mine]
            if missing:
                return chosen.person, rng.choice(missing), False
        names = {s.person.name for s in stated}
        for _ in range(20):
            other = self._similar(rng, chosen.person)
            if other.name not in names:
                return other, rng.choice(tuple(chosen.relations)), False
        return chosen.person, rng.choice(tuple(chosen.relations)), True

    def _write_passages(
        self, document: Document, stated: Sequence[_Stated]
    ) -> dict[tuple[str, str], list[int]]:
        """Append the passages; (person, relation) -> positions of the value's first token."""
        values: dict[tuple[str, str], list[int]] = {}
        for number, passage in enumerate(stated, start=1):
            start = len(document.ids)
            person = passage.person
            document.ids += self._encode(f"[{number}]") + self._encode(f" {person.name}")
            document.ids += self._encode(":")
            for relation, sentence in zip(passage.relations, passage.sentences, strict=True):
                begin = len(document.ids)
                document.ids += self._encode(f" {sentence}")
                token = self._encode(f" {person.facts[relation]}")[0]
                place = document.ids.index(token, begin)
                values[person.name, relation] = [place]
                self._watch(document, place, range(start, place), range(begin, len(document.ids)))
            document.ids += self._encode("\n")
        return values

    def _answer(
        self,
        document: Document,
        question: int,
        places: list[int],
        answer: str,
        end: list[int],
    ) -> None:
        at = len(document.ids) - 1
        tokens = document.ids
        document.reads.append((at, places))
        self._watch(document, at, range(question, at), range(question, at))
        learned = self._encode(f" {answer}") + end
        document.targets += range(len(tokens), len(tokens) + len(learned))
        tokens += learned

    def _watch(self, document: Document, at: int, names: range, words: range) -> None:
        """What the token at `at` is to look at: the names in one range, the words in the other."""
        tokens = document.ids
        document.firsts.append((at, [i for i in names if tokens[i] in self._firsts]))
        document.lasts.append((at, [i for i in names if tokens[i] in self._lasts]))
        both = self._firsts | self._lasts
        document.words.append((at, [i for i in words if i < at and tokens[i] not in both]))

    def _encode(self, text: str) -> list[int]:
        found = self._cache.get(text)
        if found is None:
            found = self._tokenizer.encode(text, add_special_tokens=False)
            if len(text) < 24:
                self._cache[text] = found
        return found
