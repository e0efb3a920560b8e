"""The products of adapters on a CPU, against a plain loop over tokens."""

from __future__ import annotations

import torch

from neurorit.serving.backends.cpu_lora import add_products, groups_of


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
