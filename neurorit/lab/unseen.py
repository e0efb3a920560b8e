"""What no tuning on the lab sees: plain documents, and questions of a world with other names."""

from __future__ import annotations

import random
from typing import Any

from neurorit.data.examples import Example, Passage
from neurorit.lab.documents import DocumentMaker
from neurorit.lab.world import ask, make_world, passages_of

# Far from every seed that a demo or an experiment takes.
_OTHER_WORLD = 7_919


def plain_documents(tokenizer: Any, count: int, seed: int = 0) -> list[tuple[str, str]]:
    """(last line, what stands before it) of `count` reading documents with facts drawn anew.

    The base model learned such documents by their answers: of other tokens it predicts nothing.
    """
    maker = DocumentMaker(make_world(), tokenizer)
    rng = random.Random(f"plain/{seed}")
    texts = []
    for _ in range(count):
        document = maker.reading(rng, rng.randint(1, 4), 1)
        first = document.targets[0]
        ids = document.ids
        texts.append((tokenizer.decode(ids[first:]), tokenizer.decode(ids[:first])))
    return texts


def other_questions(count: int, seed: int = 0) -> list[Example]:
    """`count` questions with their gold passages, of people, towns and firms of another world."""
    world = make_world(_OTHER_WORLD + seed)
    examples = []
    for number, pair in enumerate(world.pairs["test"][:count]):
        rng = random.Random(f"other/{seed}/{number}")
        person = world.person(rng, pair)
        relations, text = passages_of(world, person, rng, most=1)[0]
        relation = rng.choice(relations)
        examples.append(
            Example(
                f"other-{number}",
                ask(world, person, relation, rng),
                tuple(world.answers(relation, person.facts[relation])),
                (Passage(f"other-{number}", person.name, text, "gold"),),
            )
        )
    return examples
