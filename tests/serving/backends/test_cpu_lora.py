"""The products of adapters on a CPU, against a plain loop over tokens."""

from __future__ import annotations

import pytest
import torch

from neurorit.serving.backends.cpu_lora import add_adapters, add_products, groups_of, slots_in_use


def test_each_token_gets_its_own_adapter_and_the_bases_none() -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(9, 5), torch.randn(3, 1, 4, 5)
    for slots in ([-1, 0, 2, 2, -1, 1, 0, -1, 2], [1] * 9, [-1] * 9):
        y = torch.randn(9, 4)
        expected = y.clone()
        for row, slot in enumerate(slots):
            if slot >= 0:
                expected[row] += 0.5 * weights[slot, 0] @ x[row]
        add_products(y, x, weights, groups_of(torch.tensor(slots)), 0.5)
        torch.testing.assert_close(y, expected)


def test_padding_of_either_side_is_left_alone() -> None:
    x, weights = torch.ones(2, 3), torch.ones(1, 1, 4, 3)
    wide, narrow = torch.zeros(2, 6), torch.zeros(2, 2)
    groups = groups_of(torch.tensor([0, -1]))
    add_products(wide, x, weights, groups)
    add_products(narrow, x, weights, groups)
    assert wide.tolist() == [[3, 3, 3, 3, 0, 0], [0] * 6]
    assert narrow.tolist() == [[3, 3], [0, 0]]


# Short runs, as while answers are written, and long ones, as of prompts.
SHORT = [-1, 0, 2, 2, -1, 1, 0, -1, 2]
LONG = [0] * 40 + [-1] * 30 + [2] * 50 + [0] * 20
BOTH = [0, -1, 2, 0, *LONG, 2]


@pytest.mark.parametrize(
    ("slots", "counts"),
    [(SHORT, (0, 3)), (LONG, (3, 0)), (BOTH, (3, 2)), ([1] * 3, (1, 0)), ([-1] * 20, (0, 0))],
)
def test_both_factors_of_each_token_s_own_adapter_are_added(
    slots: list[int], counts: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    groups = groups_of(torch.tensor(slots))
    slices = sum(isinstance(rows, slice) for _, rows in groups)
    assert (slices, len(groups) - slices) == counts
    a, b = torch.randn(3, 1, 2, 5), torch.randn(3, 1, 4, 2)
    b[1] = 0
    x, y = torch.randn(len(slots), 5), torch.randn(len(slots), 6)
    expected = y.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[row, 1:5] += 0.5 * b[slot, 0] @ (a[slot, 0] @ x[row])
    add_adapters(y[:, 1:5], x, a, b, groups, 0.5)
    torch.testing.assert_close(y, expected)


def test_an_adapter_that_comes_or_goes_is_noticed() -> None:
    b = torch.zeros(3, 1, 4, 2)
    assert slots_in_use(b) == [False] * 3
    with torch.inference_mode():  # as vLLM does
        b[2, 0, :1].copy_(torch.ones(1, 2), non_blocking=True)
        assert slots_in_use(b) == [False, False, True]
        b[2] = 0
    assert slots_in_use(b) == [False] * 3
    assert slots_in_use(torch.ones(1, 1, 4, 2)) == [True]
