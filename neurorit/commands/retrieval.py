"""index, mix and published data: passages and questions in, examples out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neurorit.commands.progress import reporting
from neurorit.commands.recipe import Recipe, parse_assignments
from retrieval.errors import BadInput


def index(
    corpus: Path, out: Path, encoder: str, batch_size: int, overwrite: bool
) -> Mapping[str, Any]:
    """Build an index; returns where it is and what it holds."""
    from retrieval.index import build_index

    with reporting() as report:
        summary = build_index(
            corpus,
            out,
            encoder=encoder,
            batch_size=batch_size,
            overwrite=overwrite,
            progress=report.named("passages encoded"),
        )
    return {"index": str(out), **summary}


def mix(
    questions: Path,
    index_dir: Path,
    out: Path,
    recipe: Path | None,
    assignments: Iterable[str] | None,
    purpose: str,
    seed: int,
    overwrite: bool,
) -> Mapping[str, Any]:
    """Mix examples to train on or to evaluate with; returns where they are and what is in them."""
    from retrieval.noise import MixSettings, PoolSettings
    from retrieval.noise import mix as mix_examples

    if purpose not in ("train", "eval"):
        raise BadInput(f"--for {purpose}: it is train or eval")
    kind, section = (MixSettings, "mix") if purpose == "train" else (PoolSettings, "mix-eval")
    settings = Recipe(recipe).settings(kind, section, parse_assignments(assignments or ()))
    with reporting() as report:
        summary = mix_examples(
            questions,
            index_dir,
            out,
            settings,
            seed,
            overwrite=overwrite,
            progress=report.named("questions mixed"),
        )
    return {"examples": str(out), **summary}


def hotpotqa(
    out: Path, source: str, split: str, limit: int | None, overwrite: bool
) -> Mapping[str, Any]:
    """Write HotpotQA as a corpus and questions."""
    from retrieval.hotpotqa import write_hotpotqa

    with reporting() as report:
        made = write_hotpotqa(
            out,
            source,
            split=split,
            limit=limit,
            overwrite=overwrite,
            progress=report.named("rows read"),
        )
    return {
        "corpus": str(out / "corpus.jsonl"),
        "questions_file": str(out / "questions.jsonl"),
        **made,
    }
