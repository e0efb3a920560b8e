"""What answers follow: classes, and the span that stands in a passage or is an accepted answer."""

from __future__ import annotations

from typing import Any

import pytest

from neurorit.data.examples import Passage
from neurorit.mining.attributor import decoded
from neurorit.mining.contexts import Context
from neurorit.mining.reading import CLASSES, Reading, token_span
from tests.serving.rag.test_injection import TOKENIZERS

NOISE = (
    Passage("1", "Karvel", "The glassblowers of Karvel met in St. Oslen in 1912, at the mill."),
    Passage("2", "Tolm", "Mira Soldar, who continued the work, lived in Tolm."),
)
IRREL = Context("irrel/1", "irrel", "Where was Mira Solden born?", NOISE, ("Vennick", "the port"))
GOLD = (Passage("3", "Mira", "Mira Solden was born in Vennick."),)
REL = Context("rel/1", "rel", "Where was Mira Solden born?", GOLD, ("Vennick", "the port"))


def read(context: Context, text: str) -> tuple[str, str | None]:
    reading = Reading.of(context, text)
    return reading.named(context), text[slice(*reading.span)] if reading.span else None


@pytest.mark.parametrize(
    ("text", "named", "span"),
    [
        ("Karvel", "followed", "Karvel"),
        (" Karvel\nand more of Tolm", "followed", "Karvel"),
        ("The answer is Karvel.", "followed", "Karvel"),
        ("**Karvel**", "followed", "Karvel"),
        # The longest, and not what the question says already.
        ("Mira Solden was born in Tolm, the glassblowers of Karvel.", "followed",
         "glassblowers of Karvel"),
        # A title is shown too; a dot in a name is no end of a sentence.
        ("She was born in St. Oslen.", "followed", "St. Oslen"),
        # Only the first sentence counts.
        ("She was born at home. Karvel is far.", "other", None),
        ("Mira was born", "other", None),
        ("He was there, at the", "other", None),
        # "met" is in the passage, "metal" is not: whole words alone.
        ("Of metal", "other", None),
        ("", "refused", None),
        ("The passages do not mention where Mira Solden was born in Karvel.", "refused", None),
        ("It was Vennick.", "own_knowledge", "Vennick"),
    ],
)  # fmt: skip
def test_an_irrelevant_context_is_followed_by_a_span(
    text: str, named: str, span: str | None
) -> None:
    assert read(IRREL, text) == (named, span)
    assert named in CLASSES


@pytest.mark.parametrize(
    ("text", "named", "span"),
    [
        ("Vennick", "followed", "Vennick"),
        ("Mira Solden was born in the port of Vennick.", "followed", "port"),
        ("the old-Vennick quarter", "followed", "old-Vennick"),
        ("Karvel", "other", None),
        ("I don't know.", "refused", None),
    ],
)
def test_a_relevant_context_is_followed_by_an_accepted_answer(
    text: str, named: str, span: str | None
) -> None:
    assert read(REL, text) == (named, span)


def test_other_forms_of_the_questions_words_say_nothing() -> None:
    asked = Context("irrel/2", "irrel", "Who continues the work?", NOISE, ("Ann",))
    assert read(asked, "It continued in 1912.") == ("followed", "1912")
    assert read(asked, "It continued.") == ("other", None)
    # Nor does how a model speaks of its task.
    told = Context(
        "irrel/3", "irrel", "Who?", (Passage("p", "", "Based on this passage."),), ("A",)
    )
    assert read(told, "Based on the passage, nobody") == ("other", None)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_the_tokens_of_a_span_are_those_that_write_it(kind: str) -> None:
    tokenizer: Any = TOKENIZERS[kind]
    text = "The answer is Karvel\u00e9 of T\u00fclm."
    tokens = tokenizer.encode(text, add_special_tokens=False)

    def decode(part: Any) -> str:
        return decoded(tokenizer, part)

    whole = decode(tokens)
    start = whole.index("Karvel")
    span = (start, len(whole) - 1)
    first, last = token_span(decode, tokens, span)
    assert 0 < first < last <= len(tokens)
    assert decode(tokens[:first]).strip() == "The answer is"
    assert decode(tokens[first:last]).strip().startswith("Karvel")
    assert decode(tokens[:last]).startswith(whole[: span[1]])
    assert not decode(tokens[: last - 1]).startswith(whole[: span[1]])
    assert token_span(decode, tokens, (0, len(whole))) == (0, len(tokens))
