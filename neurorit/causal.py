"""The causal check of an atlas: what changes when its neurons are switched off, without training.

P_irrel is silenced, and as controls equally many neurons with the same layer profile: the strongest
of P_rel, random ones, and the most active. If the atlas means anything, silencing P_irrel changes
the following of irrelevant context more than silencing random neurons does.

Source: METHOD.md, "Controls that make the claim honest". It knows nothing of statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from neurorit.atlas import NeuronAtlas
from neurorit.checkpoints import checkpoint_dir
from neurorit.contexts import IRRELEVANT, Context, contexts
from neurorit.controls import activity, same_profile
from neurorit.models import feed_forward, load_model
from neurorit.probes import silencing
from neurorit.prompts import PromptTemplate, end_token_id, render_prompt
from neurorit.rows import Prefix
from retrieval.answers import held_answer
from retrieval.errors import BadInput
from retrieval.examples import examples_file

NOTHING, IRREL, REL, RANDOM, ACTIVE = "nothing", "P_irrel", "P_rel", "random", "most active"
SILENCED = (NOTHING, IRREL, REL, RANDOM, ACTIVE)


@dataclass(frozen=True)
class Outcome:
    """What one context became with one set silenced; rates are over the draws of the set.

    right: the answer holds an accepted one. misled: it stands in the noise passages and is not
    accepted (irrelevant contexts only). refused: nothing was said.
    """

    key: str
    side: str
    silenced: str
    right: float
    misled: float
    refused: float


def check(
    model_dir: Path,
    examples: Path,
    atlas: NeuronAtlas,
    *,
    samples: int = 200,
    draws: int = 3,
    longest: int = 24,
    batch_size: int = 16,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Answer `samples` contexts of each side with each set silenced.

    draws: random sets; their outcomes are averaged per context. longest: tokens of an answer.
    batch_size: prompts in one pass. dtype: auto is the type that the model is stored in.
    Raises BadInput for an atlas of another model or without P_irrel.
    """
    source = examples_file(Path(examples))
    model_dir = checkpoint_dir(model_dir)
    chosen = list(contexts(source, samples, 1, seed))
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
    outcomes = []
    for name, group in sets.items():
        rates = np.zeros((len(chosen), 3))
        for neurons in group:
            with silencing(blocks, neurons):
                for batch in batches:
                    texts = _answers(model, tokenizer, [prompts[i] for i in batch], longest)
                    rates[batch] += [
                        _judge(chosen[i], text) for i, text in zip(batch, texts, strict=True)
                    ]
                    done += 1
                    if progress is not None:
                        progress(done, total)
        rates /= len(group)
        outcomes += [
            Outcome(context.key, context.side, name, *(float(rate) for rate in row))
            for context, row in zip(chosen, rates, strict=True)
        ]
    return outcomes


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


def _answers(model: Any, tokenizer: Any, prompts: list[list[int]], longest: int) -> list[str]:
    """Greedy answers, an immediate end as an empty text."""
    end = end_token_id(tokenizer)
    found = Prefix(model, prompts).greedy([prompt[-1] for prompt in prompts], longest, end)
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in found]


def _judge(context: Context, text: str) -> tuple[bool, bool, bool]:
    line = text.splitlines()[0].strip() if text else ""
    right = bool(line) and held_answer(line, context.answers) is not None
    noise = " ".join(passage.text for passage in context.passages)
    misled = (
        context.side == IRRELEVANT
        and bool(line)
        and not right
        and held_answer(noise, [line]) is not None
    )
    return right, misled, not line
