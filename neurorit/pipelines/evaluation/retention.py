"""Retention as a part of an evaluation: its settings, its models, and its place in the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from neurorit.core.endpoint.reply_cache import Cache
from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Count, Settings, Within
from neurorit.data.example_files import load_examples
from neurorit.data.plain_text import Text, read_texts
from neurorit.eval.metrics.settings import BASE
from neurorit.eval.report.frontier import frontier
from neurorit.eval.retention.harness_tasks import HarnessTasks
from neurorit.eval.retention.instructions import make_instructions
from neurorit.eval.retention.measure import Suite, measure_retention
from neurorit.eval.run.systems import System
from neurorit.lab import LAB, base_model_dir
from neurorit.lab.unseen import other_questions, plain_documents
from neurorit.model.load import load_model, load_tokenizer, release
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource


@dataclass(frozen=True)
class RetentionSettings(Settings):
    """What retention is measured on; none of it may have been tuned on."""

    text: str = ""
    """JSONL with a `text` (and a `prefix` that does not count) a line, paragraphs, or lab."""
    examples: str = ""
    """Examples of another domain, asked closed-book and with their gold passages, or lab."""
    instructions: Count = 96
    """How many instructions to follow."""
    limit: Annotated[int, Within(2)] = 200
    """Texts and examples at most."""
    base: str = ""
    """The system to compare with; empty: `base`, or the first one."""
    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, each a part."""
    lm_eval_folder: str = ""
    """Folder of tasks of your own (the harness's --include_path)."""
    lm_eval_limit: AtLeastOne | None = None
    """So many questions of each task, the first ones."""
    lm_eval_chat: bool = False
    """Ask them through the chat template."""

    def suite(self, root: Path = Path(), seed: int = 0) -> Suite:
        """The texts, examples and instructions; paths start at `root`. Raises BadInput."""
        texts: Sequence[Text] = ()
        if self.text == LAB:
            documents = plain_documents(load_tokenizer(base_model_dir()), self.limit, seed)
            texts = [Text(*document) for document in documents]
        elif self.text:
            texts = read_texts(root / self.text)[: self.limit]
        if self.examples == LAB:
            examples = other_questions(self.limit, seed)
        else:
            examples = load_examples(root / self.examples) if self.examples else []
        chosen = make_instructions(self.instructions, seed) if self.instructions else []
        folder = root / self.lm_eval_folder if self.lm_eval_folder else None
        if folder is not None and not folder.is_dir():
            raise BadInput(f"‹lm_eval_folder={folder}›: no such folder")
        tasks = HarnessTasks(self.lm_eval, folder, self.lm_eval_limit, self.lm_eval_chat)
        harness = tasks if self.lm_eval else None
        return Suite(texts, examples[: self.limit], chosen, harness)


def add_retention(
    report: dict[str, Any],
    systems: Sequence[System],
    loaded: Mapping[str, ModelSource],
    suite: Suite,
    cache: Path,
    *,
    base: str = "",
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Measure the checkpoints among the systems, and put `retention` and `frontier` into a report.

    loaded: those in memory, by name. Servers give no probabilities of a text and are left out.
    Raises BadInput where the base is no checkpoint.
    """
    places = {s.name: s for s in systems if s.kind == "checkpoint"}
    reference = base or (BASE if BASE in places else next(iter(places), ""))
    if reference not in places:
        known = ", ".join(places) or "none"
        raise BadInput(
            f"retention: its base {reference or BASE!r} is no checkpoint of this run ({known})"
        )

    def load(name: str) -> tuple[Any, Any]:
        if name in loaded:
            return loaded[name].load()
        release()
        model, tokenizer = load_model(places[name].place, dtype="auto")
        return model.eval(), tokenizer

    prints = {name: system.fingerprint() for name, system in places.items()}
    template = PromptTemplate.of_checkpoint(places[reference].place)
    with Cache(cache) as store:
        found = measure_retention(
            prints, reference, suite, load, store, template=template, seed=seed, progress=progress
        )
    release()
    found["left_out"] = [s.name for s in systems if s.name not in places]
    report["retention"] = found
    report["frontier"] = frontier(report["robustness"], found)
