"""What the demonstration on a real model reads: a corpus, questions to tune on, test questions.

They come from a folder of the user's (what `data fetch` writes, or his own), or are the embedded
world's English. Of a folder, passages of the wanted length are taken, and the questions about them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.data.example_files import read_examples, write_examples
from neurorit.data.examples import Example
from neurorit.pipelines.demo.settings import DemoSettings
from neurorit.retrieval.corpus.reader import read_corpus

CORPUS, TRAIN = "corpus.jsonl", "questions-train.jsonl"
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".tsv", ".parquet")
_TESTED = ("test", "dev", "valid")
_READ = (
    "it holds corpus.jsonl and questions.jsonl, as `neurorit-rag data fetch` writes them, or files "
    "of questions with `train` and with `test` or `dev` in their names"
)


@dataclass(frozen=True)
class Sources:
    """The files of a user's folder. tests: name of a set -> its file; {}: `train` is parted."""

    corpus: Path
    train: Path
    tests: Mapping[str, Path]


def find_sources(folder: Path) -> Sources:
    """The corpus and the questions in a folder; raises BadInput where it is not clear."""
    if not folder.is_dir():
        raise BadInput(f"‹data={folder}›: no such folder; {_READ}")
    files = {name: path for path in sorted(folder.iterdir()) if (name := _stem(path)) is not None}
    corpus = files.pop("corpus", None)
    tests = {name: path for name, path in files.items() if any(t in name for t in _TESTED)}
    train = [path for name, path in files.items() if "train" in name and name not in tests]
    if not train and not tests and "questions" in files:
        train = [files["questions"]]
    if corpus is None or len(train) != 1 or (not tests and "train" in train[0].name):
        found = ", ".join(path.name for path in files.values()) or "no questions"
        missing = "no corpus" if corpus is None else found
        raise BadInput(f"‹data={folder}›: there is {missing}; {_READ}")
    return Sources(corpus, train[0], tests)


def lay_out(
    sources: Sources,
    out: Path,
    settings: DemoSettings,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the corpus, the questions to tune on and those of each test set into `out`.

    Left out are passages of other lengths than the settings want, questions with a gold passage
    among these, and questions of training that have a gold passage in common with a test. Returns
    how many were taken and left out.
    """
    out.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"passages": 0, "passages_of_other_length": 0}
    known: dict[str, bool] = {}
    with open(out / CORPUS, "w", encoding="utf-8") as stream:
        for passage in read_corpus(sources.corpus):
            words = len(passage.text.split())
            taken = words >= settings.least_words and words <= (settings.most_words or words)
            known[passage.id] = taken
            told["passages" if taken else "passages_of_other_length"] += 1
            if progress is not None and len(known) % 1000 == 0:
                progress("passages read", len(known), 0)
            if taken:
                record: dict[str, Any] = {
                    "id": passage.id,
                    "title": passage.title,
                    "text": passage.text,
                }
                if passage.meta:
                    record["meta"] = dict(passage.meta)
                stream.write(json.dumps(record, ensure_ascii=False) + "\n")
    tests = dict(sources.tests)
    parted = not tests
    if parted:
        tests = {"test": sources.train}
    tested: set[str] = set()
    for name, path in tests.items():
        chosen = [
            example
            for example in _about(path, known)
            if not parted or _drawn(example, settings.test_share)
        ]
        tested.update(gold for example in chosen for gold in _golds(example))
        told[name] = _written(out / f"{name}.jsonl", chosen, path)
    train = (
        example
        for example in _about(sources.train, known)
        if tested.isdisjoint(_golds(example))
        and not (parted and _drawn(example, settings.test_share))
    )
    told["train"] = _written(out / TRAIN, train, sources.train)
    told["tests"] = list(tests)
    return told


def _written(path: Path, examples: Any, source: Path) -> int:
    count = write_examples(path, examples)
    if not count:
        raise BadInput(
            f"{source}: no question is about a passage that was taken; widen `least_words` and "
            "`most_words` in the recipe's section `demo`, or give more questions"
        )
    return count


def _about(path: Path, known: Mapping[str, bool]) -> Iterator[Example]:
    """The questions whose gold passages were taken, or that name none."""
    for example in read_examples(path):
        golds = _golds(example)
        for gold in golds:
            if gold not in known:
                raise BadInput(
                    f"{path}: question {example.id!r}: its gold passage {gold} is not in the corpus"
                )
        if all(known[gold] for gold in golds):
            yield example


def _golds(example: Example) -> list[str]:
    return [str(gold) for gold in example.meta.get("gold", ())]


def _drawn(example: Example, share: float) -> bool:
    """Whether a question is of the test: by its gold passage, so that no passage is in both."""
    key = "\0".join(sorted(_golds(example))) or example.id
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64


def _stem(path: Path) -> str | None:
    for suffix in _SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)].lower()
    return None
