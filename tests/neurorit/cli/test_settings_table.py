"""docs/settings.md is what the settings say, and every setting says something."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurorit.cli import settings_table
from neurorit.core.settings import settings_of

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def test_the_page_is_what_make_docs_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_table.table(), "run `make docs`"


@pytest.mark.parametrize("kind", [kind for _, kind, _, _ in settings_table._TABLES])
def test_every_setting_is_documented(kind: type) -> None:
    for name, setting in settings_of(kind).items():
        assert setting.doc.endswith("."), name


def test_options_are_those_of_the_commands() -> None:
    page = settings_table.table()
    assert "| `served_name` | `--name` |" in page
    assert "| `target` | `--target-recall` |" in page
    assert "| `k` | `--top-k` | `5` |" in page
