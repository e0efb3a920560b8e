"""The causal check of an atlas: what changes when its neurons are switched off, without training.

P_irrel is silenced, and as controls equally many neurons with the same layer profile: the strongest
of P_rel, random ones, and the most active. If the atlas means anything, silencing P_irrel changes
the following of irrelevant context more than silencing random neurons does. An answer changes only
when another overtakes it, so its probability is measured too: that is what was attributed.

Source: docs/method.md, "Controls that make the claim honest".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.core.errors import BadInput
from neurorit.data.example_files import load_examples
from neurorit.mining.atlas import NeuronAtlas
from neurorit.mining.contexts import Reading, contexts
from neurorit.mining.controls import activity, same_profile
from neurorit.model.checkpoint import checkpoint_dir
from neurorit.model.feed_forward import feed_forward
from neurorit.model.hooks import silencing
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt
from neurorit.model.shared_prefix import Prefix

NOTHING, IRREL, REL, RANDOM, ACTIVE = "nothing", "P_irrel", "P_rel", "random", "most active"
SILENCED = (NOTHING, IRREL, REL, RANDOM, ACTIVE)


@dataclass(frozen=True)
class Outcome:
    """What one context became with one set silenced; rates are over the draws of the set.

    right, misled, refused: see contexts.Reading. probability: of the first token of what the model
    answers with nothing silenced; followed: whether that answer follows the context, so that its
    probability says how strongly.
    """

    key: str
    side: str
    silenced: str
    right: float
    misled: float
    refused: float
    probability: float
    followed: bool


def check(
    model_dir: Path,
    examples: Path,
    atlas: NeuronAtlas,
    *,
    samples: int = 200,
    noise_passages: int = 1,
    draws: int = 3,
    longest: int = 24,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Answer `samples` contexts of each side with each set silenced.

    noise_passages: in an irrelevant context, as when the atlas was mined. draws: random sets;
    their outcomes are averaged per context. longest: tokens of an answer. batch_size: prompts in
    one pass. dtype: auto is the type that the model is stored in.
    Raises BadInput for an atlas of another model or without P_irrel.
    """
    model_dir = checkpoint_dir(model_dir)
    pool = load_examples(examples)
    chosen = list(contexts(pool, samples, noise_passages, seed, str(examples)))
    model, tokenizer = load_model(model_dir, dtype=dtype, device=device)
    blocks = feed_forward(model)
    atlas.check_shape(blocks.depth, blocks.width)
    if not len(atlas.irrel):
        raise BadInput("the atlas has no P_irrel: nothing to silence; mine with a larger `share`")
    template = PromptTemplate.of_checkpoint(model_dir)
    prompts = [render_prompt(tokenizer, template, c.question, c.passages) for c in chosen]
    starts = range(0, len(prompts), batch_size)
    batches = [range(i, min(i + batch_size, len(prompts))) for i in starts]
    active = activity(model, prompts, batch_size)
    sets = _sets(atlas, active, draws, seed)
    total, done = len(batches) * sum(len(group) for group in sets.values()), 0
    outcomes: list[Outcome] = []
    first: list[_Said] = []  # what is said with nothing silenced, which comes first
    for name, group in sets.items():
        rates = np.zeros((len(chosen), 4))
        for neurons in group:
            said: list[_Said] = []
            with silencing(blocks, neurons):
                for batch in batches:
                    firsts = [first[i].token for i in batch] if first else None
                    part = [prompts[i] for i in batch]
                    said += _say(model, tokenizer, part, firsts, longest)
                    done += 1
                    if progress is not None:
                        progress(done, total)
            first = first or said
            rates += [
                [*vars(Reading.of(context, one.text)).values(), one.probability]
                for context, one in zip(chosen, said, strict=True)
            ]
        rates /= len(group)
        for context, own, row in zip(chosen, first, rates.tolist(), strict=True):
            right, misled, refused, probability = row
            followed = Reading.of(context, own.text).follows(context)
            outcomes.append(
                Outcome(
                    context.key, context.side, name, right, misled, refused, probability, followed
                )
            )
    return outcomes


@dataclass(frozen=True)
class _Said:
    """An answer, and the probability of `token` at its beginning."""

    text: str
    token: int
    probability: float


def _sets(
    atlas: NeuronAtlas, active: np.ndarray, draws: int, seed: int
) -> dict[str, list[np.ndarray]]:
    """What is silenced, by name; random neurons several times."""
    irrel, nobody = atlas.irrel, np.empty((0, 2), np.int32)
    depth = atlas.scores_rel.shape[0]
    profile = np.bincount(irrel[:, 0], minlength=depth)
    strongest = np.lexsort(
        (
            -atlas.scores_rel[atlas.rel[:, 0], atlas.rel[:, 1]],
            -atlas.counts_rel[atlas.rel[:, 0], atlas.rel[:, 1]],
        )
    )
    rng = np.random.default_rng(seed)
    return {
        NOTHING: [nobody],
        IRREL: [irrel],
        REL: [atlas.rel[np.sort(strongest[: len(irrel)])]],
        RANDOM: [same_profile(profile, rng.random(active.shape), irrel) for _ in range(draws)],
        ACTIVE: [same_profile(profile, active, nobody)],
    }


def _say(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    tokens: list[int] | None,
    longest: int,
) -> list[_Said]:
    """Greedy answers, an immediate end as an empty text, and the probability of `tokens` there.

    tokens: None takes each answer's own first.
    """
    end = end_token_id(tokenizer)
    prefix = Prefix(model, prompts)
    found = prefix.greedy([prompt[-1] for prompt in prompts], longest, end)
    if tokens is None:
        tokens = [ids[0] for ids in found]
    likely = prefix.last_logits.float().softmax(-1)
    return [
        _Said(
            tokenizer.decode(ids, skip_special_tokens=True).strip(),
            token,
            float(likely[row, token]),
        )
        for row, (ids, token) in enumerate(zip(found, tokens, strict=True))
    ]
