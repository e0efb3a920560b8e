"""Words of every script: each word of a passage finds it, in every normal form."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurorit.data.examples import Passage
from neurorit.data.text import words
from neurorit.retrieval.bm25.bm25 import LexicalIndex
from neurorit.retrieval.bm25.words import words_of

SENTENCES = {
    "Hindi": "पुरानी हवेली के पास एक कुम्हार मिट्टी की ईंटें पकाता है",
    "Tamil": "பழைய ஆலையில் மூன்று அடுப்புகள் இரவு முழுவதும் எரிகின்றன",
    "Bengali": "নদীর ধারে পুরোনো ভাটায় শ্রমিকেরা ইট পোড়ায়",
    "Thai": "ช่างปั้นหม้อเผาอิฐใกล้แม่น้ำทุกวัน",
    "Arabic": "يَحرُقُ الخزّافُ الطوبَ قُربَ النهرِ القديمِ كلَّ مساءٍ",
    "Hebrew": "הַקַּדָּר שׂוֹרֵף לבנים ליד הנהר בכל ערב",
    "Vietnamese": "Người thợ gốm nung gạch bên bờ sông Đà mỗi buổi chiều",
    "Chinese": "陶工每天在河边的旧窑里烧砖",
    "French": "Le potier élève près du théâtre un four où brûle l'âtre",
    "Polish": "Garncarz z Łodzi wypala cegły nad rzeką każdego wieczoru",
}
FORMS = ("NFC", "NFD", "NFKC", "NFKD")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("language", SENTENCES)
def test_each_word_of_a_passage_finds_it(tmp_path: Path, language: str, form: str) -> None:
    names = list(SENTENCES)
    passages = [Passage(name, "", unicodedata.normalize(form, SENTENCES[name])) for name in names]
    lexical = LexicalIndex.of(tmp_path / "index", passages, "digest")
    for word in words(SENTENCES[language]):
        if not words_of([word])[0]:
            assert word in ("l'", "z", "é") or word.isascii(), f"{word!r} is no word to BM25"
            continue
        for asked in FORMS:
            hits = lexical.search([unicodedata.normalize(asked, word)], len(names))[0]
            assert names.index(language) in [row for row, _ in hits], (word, asked)


@given(
    st.sampled_from(sorted(SENTENCES)), st.sampled_from(FORMS), st.sampled_from(FORMS), st.data()
)
def test_words_know_no_normal_form(
    language: str, one: str, other: str, data: st.DataObject
) -> None:
    text = SENTENCES[language]
    start = data.draw(st.integers(0, len(text)))
    piece = text[start:].lstrip()
    first, second = words_of([unicodedata.normalize(form, piece) for form in (one, other)])
    assert first == second


@given(st.integers(10, 10**6), st.sampled_from("\u0660\u06f0\u0966\u09e6\u0e50\u17e0\uff10"))
def test_a_number_is_one_word_in_the_digits_of_every_script(number: int, zero: str) -> None:
    written = "".join(chr(ord(zero) + int(digit)) for digit in str(number))
    assert words_of([written], "none") == [[str(number)]]


def test_letters_are_found_as_people_type_them() -> None:
    def shared(one: str, other: str) -> bool:
        first, second = words_of([one, other])
        return bool(set(first) & set(second))

    for one, other in (
        ("Łódź", "Lodz"), ("Søren", "Soren"), ("Søren", "Soeren"), ("Zürich", "Zuerich"),
        ("Đà Nẵng", "da nang"), ("Ægir", "aegir"), ("مُحَمَّد", "محمد"), ("ﬁnal", "final"),
        ("İstanbul", "istanbul"), ("\uff2b\uff49\uff4c\uff4e", "kiln"), 
        ("Güneş", "Gunes"), ("Beyoncé", "Beyonce"), ("हिन्दी", "हिंदी"),
        ("mi\u00adlling", "milling"), ("می\u200cشود", "میشود"),
    ):  # fmt: skip
        assert shared(one, other), (one, other)
        assert shared(other, one), (other, one)
    assert not shared("दिल", "दल"), "a vowel sign is part of a word"


@pytest.mark.parametrize("language", ["german", "french", "spanish", "swedish"])
def test_a_stranger_s_letters_are_no_part_of_a_stem(language: str) -> None:
    assert words_of(["Güneş"], language)[0] and words_of(["Beneš"], language) == words_of(
        ["Benes"], language
    )


def test_a_text_of_ascii_letters_has_the_words_it_had() -> None:
    rng = random.Random(0)
    for _ in range(50):
        text = "".join(rng.choice("abC x_1 9.'-") for _ in range(40))
        plain_words = words_of([text], "none")[0]
        assert plain_words == words_of([text + " \u3000"], "none")[0]
        assert all(len(word) > 1 for word in plain_words)
