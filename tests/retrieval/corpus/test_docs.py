"""The table of what is read, in the docs and in the reader, against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from neurorit.data.formats.record_files import RECORDS
from neurorit.retrieval.corpus import reader
from neurorit.retrieval.corpus.documents import SUFFIXES
from neurorit.retrieval.corpus.records import IDS, METAS, TEXTS, TITLES

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "using-your-own-data.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [DOCS, reader.__doc__ or ""], ids=["docs", "reader"])
def test_the_table_names_every_kind_of_file_that_is_read_and_no_other(text: str) -> None:
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `.")]
    named = {suffix for cell in cells for suffix in re.findall(r"`(\.\w+)`", cell)}
    assert named == {one for one in (*RECORDS, *SUFFIXES) if not one.endswith(".gz")}
    assert {f"{one}.gz" for one in named} >= {one for one in RECORDS if one.endswith(".gz")}


@pytest.mark.parametrize(
    ("field", "names"), [("id", IDS), ("title", TITLES), ("text", TEXTS), ("metadata", METAS)]
)
def test_the_table_of_fields_is_the_code_s(field: str, names: tuple[str, ...]) -> None:
    (row,) = re.findall(rf"^\| {field} \| (.*) \|$", DOCS, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", row)) == names
