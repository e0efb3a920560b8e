"""YAML bombs: small texts that stand for much, or go deep, end in a line."""

from __future__ import annotations

import pytest

from neurorit.core.yaml_text import load_yaml

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
)


def test_aliases_and_merges_of_a_reasonable_number_are_read() -> None:
    text = "base: &base {rate: 0.1, seeds: [1, 2]}\nmine: {<<: *base, rate: 0.2}\nagain: *base\n"
    made = load_yaml(text)
    assert made["mine"] == {"rate": 0.2, "seeds": [1, 2]}
    assert made["again"] == made["base"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "more than 100000 values"),
        (MERGES, "more than 100000 values"),
        ("- &a [*a]", "within what it repeats"),
        ("&a {b: &c [*a]}", "within what it repeats"),
        ("[" * 100_000, "nested deeper than 50"),
        ("a: " + "{a: " * 1_000, "nested deeper than 50"),
        ("a: " + "9" * 5_000, "digits"),
        ("a: 2020-13-45", "month"),
        ("a: [b", "expected ',' or ']'"),
        ("a: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
@pytest.mark.timeout(20)
def test_what_stands_for_too_much_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        load_yaml(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
