"""Mixing as an artifact: questions and an index in, examples and their ledger out.

It reads and writes; what goes into an example is `neurorit.retrieval.noise.mixer`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from neurorit.core.artifact import Manifest, hash_inputs, writing
from neurorit.core.errors import BadInput
from neurorit.data.example_files import example_record, read_examples
from neurorit.data.examples import Example
from neurorit.retrieval.index.index import Index
from neurorit.retrieval.noise.mixer import Mixer, MixSettings

EXAMPLES = "examples.jsonl"
LEDGER = "ledger.jsonl"


def mix(
    questions: Path,
    index_dir: Path,
    out: Path,
    settings: MixSettings,
    seed: int = 0,
    *,
    only: Sequence[str] = (),
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write an examples artifact (`examples.jsonl`, `ledger.jsonl`); returns what was mixed in.

    Raises BadInput for unreadable questions or settings, ArtifactError for a bad index. Questions
    for which no passage at all was found are left out and counted; `examples_short_of` says of each
    kind how many examples found fewer passages than were wanted. only: ids of questions whose
    examples are made alone, as they are among all the others.
    """
    asked = list(read_examples(questions))
    if settings.limit and settings.limit < len(asked):
        asked = sorted(asked, key=lambda q: _digest(seed, q.id))[: settings.limit]
    wanted = _only(questions, asked, only) if only else asked
    made: dict[str, Any] = {}
    manifest = Manifest(
        kind="examples",
        command="neurorit-rag mix",
        settings=asdict(settings) | ({"only": list(only)} if only else {}),
        seed=seed,
        inputs=hash_inputs(questions=questions, index=index_dir),
        made=made,
    )
    kinds: Counter[str] = Counter()
    short: Counter[str] = Counter()
    counts = {"examples": 0, "answerable": 0, "left_out": 0, "false_negatives_rejected": 0}
    with writing(out, manifest, overwrite=overwrite) as folder:
        mixer = Mixer(Index.load(index_dir), asked, settings, seed)
        with (
            open(folder / EXAMPLES, "w", encoding="utf-8") as examples,
            open(folder / LEDGER, "w", encoding="utf-8") as ledger,
        ):
            for done, (example, record) in enumerate(mixer.mix(wanted), start=1):
                ledger.write(json.dumps(record, ensure_ascii=False) + "\n")
                short.update(record["short"].keys())
                counts["false_negatives_rejected"] += len(record["rejected"])
                if example.passages:
                    examples.write(json.dumps(example_record(example), ensure_ascii=False) + "\n")
                    counts["examples"] += 1
                    counts["answerable"] += example.has_evidence
                    kinds.update(str(p.kind) for p in example.passages)
                else:
                    counts["left_out"] += 1
                if progress is not None:
                    progress(done, len(wanted))
        if not counts["examples"]:
            raise BadInput(f"{questions}: no question found a passage in {index_dir}")
        made.update(counts, passages=dict(sorted(kinds.items())))
        if short:
            made["examples_short_of"] = dict(sorted(short.items()))
    return dict(made)


def _only(questions: Path, asked: Sequence[Example], only: Sequence[str]) -> list[Example]:
    known = {question.id for question in asked}
    if missing := [identity for identity in only if identity not in known]:
        raise BadInput(f"--only {missing[0]}: it is not among the {len(asked)} of {questions}")
    return [question for question in asked if question.id in only]


def _digest(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed}/{identity}".encode()).digest()
