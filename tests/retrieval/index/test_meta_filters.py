"""Filters on metadata of any JSON kind: what stands there is found by its spelling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from neurorit.retrieval.index.meta_filters import Fields, FieldsWriter, spelt, values_at

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.sampled_from(["true", "null", "4", "4.0", "2021", "1e3", "007"])
)
NAMES = st.text("ab", min_size=1, max_size=2)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def fields_of(*metas: Any) -> Fields:
    writer = FieldsWriter()
    writer.add([{"meta": meta} for meta in metas])
    return Fields(*writer.sorted())


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """(path, value) of all that is no list and no object: written apart from the code."""
    if isinstance(value, dict):
        return [x for k, v in value.items() for x in leaves(v, f"{path}.{k}" if path else k)]
    if isinstance(value, list):
        return [x for v in value for x in leaves(v, path)]
    return [(path, value)]


@settings(deadline=None)  # the first example imports numpy
@given(st.lists(st.dictionaries(NAMES, JSON, max_size=3), max_size=4))
def test_each_value_finds_the_passages_that_have_it(metas: list[dict[str, Any]]) -> None:
    fields = fields_of(*metas)
    for row, meta in enumerate(metas):
        for path, value in leaves(meta):
            assert row in fields.rows({path: spelt(value)})
            assert values_at(meta, path)
    for path, value in {(p, spelt(v)) for meta in metas for p, v in leaves(meta)}:
        for row in fields.rows({path: value}).tolist():
            there = [v for p, v in leaves(metas[row]) if p == path]
            assert any(
                value == v
                or (not isinstance(v, str) and _decoded(value) == v and _decoded(value) is not None)
                or (v is None and value == "null")
                for v in there
            )


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return None


def test_a_filter_is_spelt_as_json(tmp_path: Path) -> None:
    one = {"public": True, "year": 2021, "score": 4.0, "tags": ["clay", "fire"], "lang": None}
    other = {"public": False, "year": 2020, "score": 4.5, "tags": ["clay"], "lang": "en"}
    fields = fields_of(one | {"place": {"town": "Tolm"}}, other | {"place": {"town": "Karvel"}})
    for name, value, rows in (
        ("public", "true", [0]), ("public", "false", [1]), ("public", "True", []),
        ("year", "2021", [0]), ("score", "4", [0]), ("score", "4.0", [0]), ("score", "4.5", [1]),
        ("tags", "clay", [0, 1]), ("tags", "fire", [0]), ("place.town", "Tolm", [0]),
        ("lang", "null", [0]), ("lang", "en", [1]), ("place", "Tolm", []),
    ):  # fmt: skip
        assert fields.rows({name: value}).tolist() == rows, (name, value)
    assert fields.rows({"tags": "clay", "public": "true"}).tolist() == [0]
    writer = FieldsWriter()
    writer.add([{"meta": one}])
    writer.write(tmp_path)
    loaded = Fields.load(tmp_path)
    assert loaded.rows({"tags": "fire"}).tolist() == [0]
