"""Conditions: from an example's pools of typed passages to the passages a model gets to see.

A condition is a name such as `distractor-4`. It knows nothing of how the pools were filled, nor of
prompts.
"""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

from retrieval.errors import BadInput
from retrieval.examples import KINDS, Example, Passage

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
_NOISE_KINDS = tuple(kind for kind in KINDS if kind != "gold")
_NAME = re.compile(rf"({'|'.join(_NOISE_KINDS)}|noise-only)-([1-9][0-9]*)")


class TooFewPassages(BadInput):
    """An example's pools cannot fill a condition."""


@dataclass(frozen=True)
class Condition:
    """What a condition's name says.

    noise: the kind of the noisy passages, None for no noise; count: how many of them;
    gold: the gold passage stands among them.
    """

    name: str
    noise: str | None
    count: int
    gold: bool


def parse_condition(name: str) -> Condition:
    """Read `closed-book`, `clean`, `KIND-K` or `noise-only-K`; raises BadInput for other names."""
    if name == "closed-book":
        return Condition(name, None, 0, gold=False)
    if name == "clean":
        return Condition(name, None, 0, gold=True)
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadInput(
            f"unknown condition {name!r}: use closed-book, clean, noise-only-K or KIND-K with "
            f"KIND one of {', '.join(_NOISE_KINDS)} and K from 1, e.g. distractor-4"
        )
    kind, count = found[1], int(found[2])
    if kind == "noise-only":
        return Condition(name, "distractor", count, gold=False)
    return Condition(name, kind, count, gold=True)


def build_condition(example: Example, name: str, seed: int = 0) -> list[Passage]:
    """The passages of `example` under condition `name`, in the order that the model sees.

    The first K of a pool are taken, so `distractor-2` adds one passage to those of `distractor-1`;
    the order is shuffled by a hash of seed, example and condition, the same on every machine.
    `noise-only-K` takes distractors, and random passages once those run out.
    Raises TooFewPassages if the pools are too small, BadInput for an unknown name.
    """
    condition = parse_condition(name)
    chosen = _take(example, "gold", 1, condition) if condition.gold else []
    if condition.noise is not None:
        kinds = (condition.noise,) if condition.gold else (condition.noise, "random")
        chosen += _take_any(example, kinds, condition.count, condition)
    digest = hashlib.sha256(f"{seed}\0{example.id}\0{name}".encode()).digest()
    random.Random(int.from_bytes(digest[:8], "big")).shuffle(chosen)
    return chosen


def distractor_conditions(names: list[str]) -> list[str]:
    """Those of `names` that add distractors to the gold passage, fewest first."""
    parsed = [parse_condition(name) for name in names]
    kept = [c for c in parsed if c.gold and c.noise == "distractor"]
    return [c.name for c in sorted(kept, key=lambda c: c.count)]


def _take(example: Example, kind: str, count: int, condition: Condition) -> list[Passage]:
    return _take_any(example, (kind,), count, condition)


def _take_any(
    example: Example, kinds: tuple[str, ...], count: int, condition: Condition
) -> list[Passage]:
    pool = [passage for kind in kinds for passage in example.passages if passage.kind == kind]
    if len(pool) < count:
        raise TooFewPassages(
            f"example {example.id!r} has {len(pool)} {' or '.join(kinds)} passages, but "
            f"{condition.name} needs {count}: mix the examples with larger pools"
        )
    return pool[:count]
