"""Terms of the loss, against what they say they are."""

from __future__ import annotations

import torch
from torch.nn import functional

from neurorit.tuning.settings import LOSSES, TuneSettings
from neurorit.tuning.tuned_model import Forward, cross_entropy, cross_entropy_by_sample


def forward() -> Forward:
    logits = torch.randn(2, 4, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, -100, -100, 7], [1, 2, 3, 4]])  # a refusal and an answer
    nothing: dict[str, torch.Tensor] = {}
    return Forward(None, nothing, logits, labels, torch.tensor([False, True]))  # type: ignore[arg-type]


def test_a_sample_weighs_as_much_as_another_however_long() -> None:
    given = forward()
    tokens = given.labels.ne(-100).sum()
    refusal = functional.cross_entropy(given.logits[0, 3:], given.labels[0, 3:])
    answer = functional.cross_entropy(given.logits[1], given.labels[1])
    by_sample = cross_entropy_by_sample(given) / tokens
    torch.testing.assert_close(by_sample, (refusal + answer) / 2)
    by_token = cross_entropy(given) / tokens
    torch.testing.assert_close(by_token, (refusal + 4 * answer) / 5)
    assert not torch.isclose(by_sample, by_token)


def test_settings_name_it() -> None:
    settings = TuneSettings(losses={"cross-entropy-by-sample": 1.0})
    assert [LOSSES.get(name) for name in settings.losses] == [cross_entropy_by_sample]
