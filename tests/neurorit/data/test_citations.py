"""What counts as a citation of a passage."""

from __future__ import annotations

import pytest

from neurorit.data.citations import cited, without_citations


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("Rome [2].", [2]),
        ("Rome.[2]", [2]),
        ("[3][1]", [3, 1]),
        ("Rome [2] [1, 9] [2]", [2, 1]),
        ("[ 1 ,3 ]", [1, 3]),
        ("in 1912 (of [3])", [3]),
        ("\u6771\u4eac[2]\u3002", [2]),
        ("\uc11c\uc6b8[1]", [1]),
        ("Rome [7]", []),
        ("[0] [12] [99999999]", []),
        ("the list a[1]", []),
        ("x_[1] b2[1] \u00e9[1]", []),
        ("a[1][2]", []),
        ("[a] [1;2] [] [1", []),
        ("[" + "1" * 5000 + "]", []),
    ],
)
def test_numbers_of_passages_that_there_are(answer: str, numbers: list[int]) -> None:
    assert cited(answer, 4) == numbers


def test_the_answer_without_them() -> None:
    assert without_citations("Rome [2][1, 9], a[1] is [7].").split() == [
        *("Rome", ","),
        *("a[1]", "is", "."),
    ]
