"""What an answer makes of its context: whether it follows it, and which of its words do.

A model says "The answer is X." What it follows is X alone, and its own words stand before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from neurorit.data.answers import answer_words, held_answer
from neurorit.data.refusals import refusal_of
from neurorit.data.text import STOP_WORDS, sentence_spans, word_spans
from neurorit.mining.contexts import IRRELEVANT, RELEVANT, Context

FOLLOWED, REFUSED, OWN, OTHER = "followed", "refused", "own_knowledge", "other"
CLASSES = (FOLLOWED, REFUSED, OWN, OTHER)
# How models speak of the task; none of it is what a passage says.
_MANNER = frozenset(
    ("according", "answer", "based", "context", "information", "passage", "passages", "question")
)
_ENDING = 3  # letters by which forms of one word differ: continues, continued
# What may stand around an answer and is no part of it.
_AROUND = " \t.,;:!?*_`'\"\u2018\u2019\u201c\u201d\u00ab\u00bb()[]{}<>"


@dataclass(frozen=True)
class Reading:
    """An answer's first line, read against its context.

    right: it holds an accepted answer; misled: it is not right, refuses nothing and says what
    stands in a passage (irrelevant contexts only); refused: it is empty or says that there is no
    answer. span: first and last character (exclusive), in the answer's text, of what is followed.
    """

    right: bool
    misled: bool
    refused: bool
    span: tuple[int, int] | None = None

    @classmethod
    def of(cls, context: Context, text: str) -> Reading:
        """Read the answer `text`; an immediate end is an empty one."""
        line = text.strip().splitlines()[0].strip() if text.strip() else ""
        right = bool(line) and held_answer(line, context.answers) is not None
        refused = not right and bool(refusal_of(line))
        span = None
        if right:
            span = _shortest(line, lambda part: held_answer(part, context.answers) is not None)
        elif context.side == IRRELEVANT and not refused:
            span = _followed(line, context)
        misled = context.side == IRRELEVANT and not right and span is not None
        if span is not None:
            start = text.index(line)
            span = (start + span[0], start + span[1])
        return cls(right, misled, refused, span)

    def follows(self, context: Context) -> bool:
        """Whether the answer is taken from the context's passages."""
        return self.right if context.side == RELEVANT else self.misled

    def named(self, context: Context) -> str:
        """One of CLASSES; own knowledge is a right answer that no passage holds."""
        if self.follows(context):
            return FOLLOWED
        return REFUSED if self.refused else OWN if self.right else OTHER


def _followed(line: str, context: Context) -> tuple[int, int] | None:
    """The longest span of the first sentence that stands in a passage.

    It begins and ends with words that neither the question holds nor any text; it may run over
    what looks like the sentence's end ("St. Louis").
    """
    texts = [f"{p.title}\n{p.text}" for p in context.passages]
    asked = answer_words(context.question)
    spans = word_spans(line)
    new = [any(_new(word, asked) for word in answer_words(line[slice(*span)])) for span in spans]
    sentence = sentence_spans(line)[0][1] if line else 0
    best: tuple[int, int] | None = None
    for first, (start, _) in enumerate(spans):
        if start >= sentence:
            break
        if not new[first]:
            continue
        for last in range(len(spans) - 1, first - 1, -1):
            part = _bare(line, start, spans[last][1])
            if best is not None and part[1] - part[0] <= best[1] - best[0]:
                break
            if new[last] and any(held_answer(text, [line[slice(*part)]]) for text in texts):
                best = part
                break
    return best


def _new(word: str, asked: Sequence[str]) -> bool:
    """Whether a word carries something, and in no form stands in the question."""
    if word in STOP_WORDS or word in _MANNER:
        return False
    for other in asked:
        alike = len(
            list(takewhile(lambda pair: pair[0] == pair[1], zip(word, other, strict=False)))
        )
        ending = max(len(word), len(other)) - alike
        if word == other or (alike > _ENDING >= ending):
            return False
    return True


def _shortest(line: str, holds: Callable[[str], bool]) -> tuple[int, int] | None:
    """The shortest run of whole words of which `holds` is true; of equal ones the first."""
    spans = word_spans(line)
    for count in range(1, len(spans) + 1):
        for first in range(len(spans) - count + 1):
            start, end = spans[first][0], spans[first + count - 1][1]
            if holds(line[start:end]):
                return _bare(line, start, end)
    return None


def _bare(line: str, start: int, end: int) -> tuple[int, int]:
    """The span without the marks around it."""
    part = line[start:end]
    bare = part.strip(_AROUND)
    if not bare:
        return start, end
    start += len(part) - len(part.lstrip(_AROUND))
    return start, start + len(bare)


def token_span(
    decode: Callable[[Sequence[int]], str], tokens: Sequence[int], span: tuple[int, int]
) -> tuple[int, int]:
    """First and last (exclusive) of the tokens that write characters `span` of the whole text.

    A token that begins before the span, with a space, belongs to it.
    """
    text = decode(tokens)
    heads = [decode(tokens[:count]) for count in range(len(tokens) + 1)]
    before = max(len(h) for h in heads if len(h) <= span[0] and text.startswith(h))
    # A token that writes nothing, as SentencePiece's first space, belongs to what comes.
    first = next(i for i, h in enumerate(heads) if len(h) == before and text.startswith(h))
    last = next(
        (i for i, head in enumerate(heads) if i > first and head.startswith(text[: span[1]])),
        len(tokens),
    )
    return first, last
