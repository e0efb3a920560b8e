"""Mixing: questions and an index in, examples and their ledger out, in memory or as an artifact.

What goes into an example is `neurorit.retrieval.noise.mixer`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, writing
from neurorit.core.errors import BadInput
from neurorit.data.contamination import Seen
from neurorit.data.example_files import (
    ExampleSource,
    examples_digest,
    examples_name,
    load_examples,
    write_examples,
)
from neurorit.data.examples import Example
from neurorit.retrieval.index.index import Index
from neurorit.retrieval.noise.mixer import Mixer, MixSettings

EXAMPLES = "examples.jsonl"
LEDGER = "ledger.jsonl"


class Mixture(list[Example]):
    """Mixed examples, in the questions' order.

    counts: what was mixed in, what was left out, and what fell short; ledger: of each question why
    its passages are there, and which were rejected.
    """

    def __init__(
        self,
        examples: Iterable[Example],
        counts: Mapping[str, Any],
        ledger: Sequence[Mapping[str, Any]],
    ) -> None:
        super().__init__(examples)
        self.counts, self.ledger = counts, ledger

    def __repr__(self) -> str:
        told = ", ".join(f"{value} {name}" for name, value in self.counts["passages"].items())
        return f"Mixture({len(self)} examples, {self.counts['answerable']} answerable: {told})"


def mix(
    questions: ExampleSource,
    index: Index | str | PathLike[str],
    settings: MixSettings | None = None,
    *,
    seed: int = 0,
    only: Sequence[str] = (),
    apart_from: Sequence[ExampleSource] = (),
    out: str | PathLike[str] | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Mixture:
    """Mix each question with gold and noisy passages of an index.

    questions: a file, or examples in memory. index: a loaded one, or its directory. settings:
    `MixSettings` to train with, `PoolSettings` to evaluate with. only: ids of questions whose
    examples are made alone, as they are among all the others. apart_from: examples of which nothing
    is drawn again: a question that stands there, or nearly, or whose gold passage does, is left out
    and another is drawn for it, where it names that passage. out: where the artifact is written
    (`examples.jsonl`, `ledger.jsonl`); None writes nothing.

    Questions for which no passage at all was found are left out and counted, and those of the file
    that cannot be asked or were seen (`questions_not_read`, by reason); `examples_short_of` says of
    each kind how many examples found fewer passages than were wanted. Raises BadInput for
    unreadable questions or settings, ArtifactError for a bad index.
    """
    settings = settings or MixSettings()
    named = examples_name(questions)
    unread: dict[str, int] = {}
    every = load_examples(questions, left_out=unread)
    others = [load_examples(source) for source in apart_from]
    seen = Seen(chain(*others)) if others else None
    asked = _drawn(every, settings.limit, seed, seen, unread)
    if not asked:
        raise BadInput(f"{named}: ‹apart_from› has seen all of its {len(every)} questions")
    wanted = _only(named, asked, only, every) if only else asked
    if out is None:
        return _mixed(_loaded(index), asked, wanted, settings, seed, named, unread, progress, seen)
    counts: dict[str, Any] = {}
    inputs = {"questions": examples_digest(questions, every)}
    for number, (source, held) in enumerate(zip(apart_from, others, strict=True), start=1):
        inputs[f"apart_from_{number}"] = examples_digest(source, held)
    manifest = Manifest(
        kind="examples",
        command="neurorit-rag mix",
        settings=asdict(settings) | ({"only": list(only)} if only else {}),
        seed=seed,
        inputs=inputs,
        made=counts,
    )
    with writing(Path(out), manifest, overwrite=overwrite) as folder:
        loaded = _loaded(index)
        inputs["index"] = loaded.digest  # whatever lies there by the end
        mixture = _mixed(loaded, asked, wanted, settings, seed, named, unread, progress, seen)
        write_examples(folder / EXAMPLES, mixture)
        with open(folder / LEDGER, "w", encoding="utf-8") as stream:
            for record in mixture.ledger:
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
        counts.update(mixture.counts)
    return mixture


def _drawn(
    every: Sequence[Example],
    limit: int,
    seed: int,
    seen: Seen | None,
    left_out: dict[str, int],
) -> list[Example]:
    """Of the questions so many as `limit` says (0: all), by the seed, but what was seen elsewhere.

    left_out: in which the seen ones that had been drawn are counted, as `seen`.
    """
    drawn = 0 < limit < len(every)
    found: list[Example] = []
    for one in sorted(every, key=lambda q: _digest(seed, q.id)) if drawn else every:
        if drawn and len(found) == limit:
            break
        if seen is not None and seen.leaks(one):
            left_out["seen"] = left_out.get("seen", 0) + 1
        else:
            found.append(one)
    return found


def _mixed(
    index: Index,
    asked: Sequence[Example],
    wanted: Sequence[Example],
    settings: MixSettings,
    seed: int,
    named: str,
    unread: dict[str, int],
    progress: Callable[[int, int], None] | None,
    seen: Seen | None = None,
) -> Mixture:
    kinds: Counter[str] = Counter()
    short: Counter[str] = Counter()
    counts = {"examples": 0, "answerable": 0, "left_out": 0, "false_negatives_rejected": 0}
    examples, ledger = [], []
    mixer = Mixer(index, asked, settings, seed)
    for done, (example, record) in enumerate(mixer.mix(wanted), start=1):
        # The gold passage of a question that names none is known now.
        if seen is not None and seen.leaks(example):
            unread["seen"] = unread.get("seen", 0) + 1
            continue
        ledger.append(record)
        short.update(record["short"].keys())
        counts["false_negatives_rejected"] += len(record["rejected"])
        if example.passages:
            examples.append(example)
            counts["examples"] += 1
            counts["answerable"] += example.has_evidence
            kinds.update(str(p.kind) for p in example.passages)
        else:
            counts["left_out"] += 1
        if progress is not None:
            progress(done, len(wanted))
    if not examples:
        raise BadInput(f"{named}: no question found a passage in {index.directory}")
    made: dict[str, Any] = {**counts, "passages": dict(sorted(kinds.items()))}
    if unread:
        made["questions_not_read"] = dict(sorted(unread.items()))
    if short:
        made["examples_short_of"] = dict(sorted(short.items()))
    return Mixture(examples, made, ledger)


def _loaded(index: Index | str | PathLike[str]) -> Index:
    return index if isinstance(index, Index) else Index.load(Path(index))


def _only(
    named: str, asked: Sequence[Example], only: Sequence[str], every: Sequence[Example]
) -> list[Example]:
    known = {question.id for question in asked}
    if missing := [identity for identity in only if identity not in known]:
        if any(question.id == missing[0] for question in every):
            raise BadInput(
                f"‹only={missing[0]}›: it is in {named}, but ‹limit› did not draw it, or "
                "‹apart_from› has seen it"
            )
        raise BadInput(f"‹only={missing[0]}›: it is not among the {len(asked)} of {named}")
    return [question for question in asked if question.id in only]


def _digest(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed}/{identity}".encode()).digest()
