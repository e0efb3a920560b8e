"""Conditions: from an example's pools of typed passages to the passages a model gets to see.

A condition is a name such as `distractor-4`; `distractor-4@last@ranked` also says where the gold
passage stands and in which order the noise does, and `distractor-4+typos` how the question is put.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from neurorit.core.errors import BadInput
from neurorit.data.examples import NOISE, Example, Passage
from neurorit.eval.query_noise import QUERY_NOISE, reword

CONDITIONS = (
    "closed-book",
    "clean",
    "distractor-1",
    "distractor-2",
    "distractor-4",
    "random-4",
    "counterfactual-1",
    "noise-only-4",
)
POSITIONS = ("random", "first", "middle", "last")
ORDERS = ("shuffled", "ranked", "reversed")


@cache
def _form(kinds: tuple[str, ...]) -> re.Pattern[str]:
    """What names of conditions look like, with these kinds of noise."""
    noise = "|".join(map(re.escape, kinds))
    return re.compile(
        rf"((?:{noise}|noise)-only|{noise}|retrieved)-([1-9][0-9]*)"
        rf"(?:@({'|'.join(POSITIONS)}))?(?:@({'|'.join(ORDERS)}))?"
    )


class TooFewPassages(BadInput):
    """An example's pools cannot fill a condition."""


@dataclass(frozen=True)
class Condition:
    """What a condition's name says.

    noise: the kind of the noisy passages, None for no noise; count: how many of them;
    gold: the gold passage stands among them, at `position` (one of POSITIONS); order: of the noisy
    ones (one of ORDERS; ranked: best first, as the pool has them); retrieved: the passages are what
    a retriever finds, `count` of them, gold or not; filled: random passages stand in once those of
    `noise` run out; query: how the question is put (of QUERY_NOISE), "" for as it is.
    """

    name: str
    noise: str | None
    count: int
    gold: bool
    position: str = "random"
    order: str = "shuffled"
    retrieved: bool = False
    filled: bool = False
    query: str = ""

    @property
    def bare(self) -> str:
        """The name of the same passages with the question as it is."""
        return self.name.removesuffix(f"+{self.query}") if self.query else self.name


def parse_condition(name: str) -> Condition:
    """Read `closed-book`, `clean`, `KIND-K[@POSITION][@ORDER]`, `noise-only-K[@ORDER]`,
    `KIND-only-K[@ORDER]` or `retrieved-K`, each with or without `+QUERY`; raises BadInput for other
    names.
    """
    bare, plus, query = name.partition("+")
    if plus and query not in QUERY_NOISE:
        known = ", ".join(f"+{kind}" for kind in QUERY_NOISE)
        raise BadInput(f"condition {name!r}: a question is put otherwise by {known}")
    return replace(_parse_bare(bare), name=name, query=query)


def _parse_bare(name: str) -> Condition:
    if name == "closed-book":
        return Condition(name, None, 0, gold=False)
    if name == "clean":
        return Condition(name, None, 0, gold=True)
    kinds = NOISE.names()
    found = _form(kinds).fullmatch(name)
    if found is None:
        raise BadInput(
            f"unknown condition {name!r}: use closed-book, clean, noise-only-K, retrieved-K, "
            f"KIND-only-K or KIND-K with KIND one of {', '.join(kinds)} and K from 1, "
            f"e.g. distractor-4; after it @{'|'.join(POSITIONS)} for the gold passage and "
            f"@{'|'.join(ORDERS)}, +{'|'.join(QUERY_NOISE)} for the question"
        )
    kind, count = found[1], int(found[2])
    if kind == "retrieved":
        if found[3] or found[4]:
            raise BadInput(f"condition {name!r}: retrieved passages stand in the order of ranks")
        return Condition(name, None, count, gold=False, retrieved=True)
    order = found[4] or "shuffled"
    if kind.endswith("-only"):
        if found[3]:
            raise BadInput(f"condition {name!r}: {kind} has no gold passage to place")
        filled = kind == "noise-only"
        noise = "distractor" if filled else kind.removesuffix("-only")
        return Condition(name, noise, count, gold=False, order=order, filled=filled)
    return Condition(name, kind, count, gold=True, position=found[3] or "random", order=order)


Retrieved = Mapping[tuple[str, str], Sequence[Passage]]
"""(question id, kind of query noise or "") -> what a retriever found for it, best first."""


def asked_question(example: Example, name: str, seed: int = 0) -> str:
    """The question as it is put under condition `name`."""
    return reword(example.question, parse_condition(name).query, example.id, seed)


def build_condition(
    example: Example, name: str, seed: int = 0, retrieved: Retrieved | None = None
) -> list[Passage]:
    """The passages of `example` under condition `name`, in the order that the model sees.

    The first K of a pool are taken, so `distractor-2` adds one passage to those of `distractor-1`;
    the order is shuffled by a hash of seed, example and condition, the same on every machine.
    `noise-only-K` takes distractors, and random passages once those run out; `KIND-only-K` takes
    one kind: with counterfactual ones it shows whether errors are followed, refused or corrected.
    With a suffix the passages are those of the bare name: only the order differs.
    Raises TooFewPassages if the pools are too small, BadInput for an unknown name.
    """
    condition = parse_condition(name)
    if condition.retrieved:
        if retrieved is None:
            raise BadInput(f"condition {name!r} needs a retriever: name an index to search")
        return list(retrieved[example.id, condition.query][: condition.count])
    golds = [p for p in example.passages if p.kind == "gold"]
    if condition.gold and not golds:
        raise TooFewPassages(
            f"example {example.id!r} has no gold passage, but {condition.name} shows it"
        )
    chosen = list(golds) if condition.gold else []
    if condition.noise is not None:
        kinds = (condition.noise, "random") if condition.filled else (condition.noise,)
        chosen += _take(example, kinds, condition.count, condition)
    bare = condition.bare.partition("@")[0]
    digest = hashlib.sha256(f"{seed}\0{example.id}\0{bare}".encode()).digest()
    shuffled = list(chosen)
    random.Random(int.from_bytes(digest[:8], "big")).shuffle(shuffled)
    return _arrange(chosen, shuffled, condition)


def distractor_conditions(names: list[str]) -> list[str]:
    """Those of `names` that add distractors to the gold passage, fewest first.

    Conditions that fix a position or an order, or put the question otherwise, ask something else
    and are not among them.
    """
    parsed = [parse_condition(name) for name in names if "@" not in name]
    kept = [c for c in parsed if c.gold and c.noise == "distractor" and not c.query]
    return [c.name for c in sorted(kept, key=lambda c: c.count)]


def _arrange(
    pooled: Sequence[Passage], shuffled: list[Passage], condition: Condition
) -> list[Passage]:
    """The order that a name's suffixes ask for; pooled: gold first, then noise, best first."""
    if condition.position == "random" and condition.order == "shuffled":
        return shuffled
    gold = [p for p in pooled if p.kind == "gold"] if condition.gold else []
    noise = [p for p in shuffled if p not in gold]
    if condition.order != "shuffled":
        noise = list(pooled[len(gold) :])
    if condition.order == "reversed":
        noise.reverse()
    if not gold:
        return noise
    if condition.position == "random":
        places = iter(noise)
        return [p if p in gold else next(places) for p in shuffled]
    place = {"first": 0, "middle": (len(noise) + 1) // 2, "last": len(noise)}[condition.position]
    return [*noise[:place], *gold, *noise[place:]]


def _take(
    example: Example, kinds: tuple[str, ...], count: int, condition: Condition
) -> list[Passage]:
    pool = [passage for kind in kinds for passage in example.passages if passage.kind == kind]
    if len(pool) < count:
        raise TooFewPassages(
            f"example {example.id!r} has {len(pool)} {' or '.join(kinds)} passages, but "
            f"{condition.name} needs {count}: mix the examples with larger pools (PoolSettings, "
            "`mix --for eval`)"
        )
    return pool[:count]


POOLED = "distractor-mean"
