"""The causal check of an atlas: what changes when its neurons are switched off, without training.

Each of its sets is silenced, and all of them together, or put back to what they are without the
context, and beside each random neurons, equally many in the same layers; as controls also the
strongest of P_rel and the most active, as many as P_irrel has. If the atlas means anything,
silencing a set changes the following of irrelevant context more than silencing random neurons does.
An answer changes only when another overtakes it, so its probability is measured too: that is what
was attributed.

Source: docs/method.md, Phase 1, `atlas verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from neurorit.core.errors import BadInput
from neurorit.data.example_files import load_examples
from neurorit.mining.atlas import SETS, NeuronAtlas
from neurorit.mining.attributor import bare_prompt, decoded
from neurorit.mining.contexts import Context, contexts
from neurorit.mining.controls import activity, same_profile
from neurorit.mining.reading import Reading, token_span
from neurorit.mining.settings import SITES
from neurorit.model.checkpoint import checkpoint_dir
from neurorit.model.feed_forward import Site
from neurorit.model.generation import check_context, ends_of
from neurorit.model.hooks import holding, recording, silencing
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, render_prompt
from neurorit.model.shared_prefix import Prefix

NOTHING, IRREL, REL, SHARED = "nothing", "P_irrel", "P_rel", "P_shared"
CHOSEN = "all chosen"  # the three sets together
RANDOM, ACTIVE = "random", "most active"
PATCHES = ("zero", "no-context")


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


def random_as(name: str) -> str:
    """What the random neurons beside a set are called; those beside P_irrel are plain `random`."""
    return RANDOM if name == IRREL else f"{RANDOM}, as {name}"


@dataclass(frozen=True)
class Check:
    """How a causal check is made.

    samples: contexts of each side. noise_passages, layout: as when the atlas was mined. patch:
    "zero" holds neurons at zero everywhere; "no-context" puts them, where the answer begins, to
    what they are without the context, which is what was attributed. draws: random sets; their
    outcomes are averaged per context. longest: tokens of an answer. batch_size: prompts in one
    pass. dtype: auto is the type that the model is stored in.
    """

    samples: int = 200
    noise_passages: int = 1
    layout: str = "apart"
    patch: str = "zero"
    draws: int = 3
    longest: int = 24
    batch_size: int = 16
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"


def check(
    model_dir: Path,
    examples: Path,
    atlas: NeuronAtlas,
    how: Check,
    *,
    listed: Mapping[str, np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """Answer contexts of both sides with each set silenced, nothing first.

    listed: name -> neurons [n, 2] of other sets to silence. Raises BadInput for an atlas of another
    model or without neurons, and for a prompt that with its answer is longer than the model takes.
    """
    if how.patch not in PATCHES:
        raise BadInput(f"patch {how.patch!r}: choose one of {', '.join(PATCHES)}")
    model_dir = checkpoint_dir(model_dir)
    pool = load_examples(examples)
    chosen = list(
        contexts(pool, how.samples, how.noise_passages, how.seed, str(examples), how.layout)
    )
    model, tokenizer = load_model(model_dir, dtype=how.dtype, device=how.device)
    blocks: Site = SITES.get(atlas.site)(model)
    atlas.check_shape(blocks.depth, blocks.width, site=atlas.site)
    if not any(len(getattr(atlas, name)) for name in SETS):
        raise BadInput("the atlas has no neuron: nothing to silence; mine with a larger `share`")
    template = PromptTemplate.of_checkpoint(model_dir)
    prompts = [render_prompt(tokenizer, template, c.question, c.passages) for c in chosen]
    check_context(model, prompts, how.longest)
    asked = _Asked(
        model,
        tokenizer,
        blocks,
        how,
        chosen,
        prompts,
        [bare_prompt(tokenizer, template, c.question, how.layout) for c in chosen],
    )
    active = activity(model, asked.prompts, how.batch_size, blocks)
    sets = _sets(atlas, active, how, listed or {})
    total, done = len(asked.batches) * sum(len(group) for group in sets.values()), 0
    outcomes: list[Outcome] = []
    first: list[_Answer] = []  # what is answered with nothing silenced, which comes first
    for name, group in sets.items():
        rates = np.zeros((len(chosen), 4))
        for neurons in group:
            answers: list[_Answer] = []
            for batch in asked.batches:
                answers += asked.answer(batch, neurons, [first[i] for i in batch] if first else [])
                done += 1
                if progress is not None:
                    progress(done, total)
            first = first or answers
            rates += [
                [one.reading.right, one.reading.misled, one.reading.refused, one.probability]
                for one in answers
            ]
        rates /= len(group)
        for context, own, row in zip(chosen, first, rates.tolist(), strict=True):
            right, misled, refused, probability = row
            followed = own.reading.follows(context)
            outcomes.append(
                Outcome(
                    context.key, context.side, name, right, misled, refused, probability, followed
                )
            )
    return outcomes


@dataclass(frozen=True)
class _Answer:
    """An answer as it reads, the model's own words before what it follows, the token after them
    (the answer's first, where it follows nothing), and how likely that token was."""

    reading: Reading
    own: tuple[int, ...]
    token: int
    probability: float


@dataclass(frozen=True)
class _Asked:
    """A model and the contexts that it answers, with their prompts and those without passages."""

    model: Any
    tokenizer: Any
    blocks: Site
    how: Check
    contexts: Sequence[Context]
    prompts: Sequence[list[int]]
    bare: Sequence[list[int]]

    @property
    def batches(self) -> list[range]:
        """Contexts that go through in one pass."""
        size, count = self.how.batch_size, len(self.contexts)
        return [range(i, min(i + size, count)) for i in range(0, count, size)]

    def answer(
        self, batch: Sequence[int], neurons: np.ndarray, first: Sequence[_Answer]
    ) -> list[_Answer]:
        """Greedy answers with neurons silenced, an immediate end as an empty text.

        first: the answers with nothing silenced; each one's token is what the probability is of.
        """
        prompts = [self.prompts[i] for i in batch]
        owns = [list(one.own) for one in first]
        longer = [[*prompt, *own] for prompt, own in zip(prompts, owns, strict=False)]
        ends, blocks = ends_of(self.model, self.tokenizer), self.blocks
        if first and self.how.patch == "no-context":
            bare = [[*self.bare[i], *own] for i, own in zip(batch, owns, strict=True)]
            with self._put_back(blocks, bare, neurons):
                prefix = Prefix(self.model, longer)
            likely = prefix.last_logits
            rest = prefix.greedy(self.how.longest, ends, keep=False)
            written = [[*own, *ids] for own, ids in zip(owns, rest, strict=True)]
        else:
            with silencing(blocks, neurons):
                prefix = Prefix(self.model, prompts, apart=self._apart)
                likely = prefix.last_logits
                written = prefix.greedy(self.how.longest, ends, keep=False)
                if any(owns):
                    likely = Prefix(self.model, longer, apart=self._apart).last_logits
        likely = likely.float().softmax(-1)
        answers = []
        for row, (index, ids) in enumerate(zip(batch, written, strict=True)):
            reading = Reading.of(self.contexts[index], decoded(self.tokenizer, ids))
            if first:
                own, token = first[row].own, first[row].token
                probability = float(likely[row, token])
            else:
                own, token = self._followed(ids, reading)
                probability = 0.0 if own else float(likely[row, token])
            answers.append(_Answer(reading, own, token, probability))
        return answers if first else self._at_spans(prompts, answers)

    @property
    def _apart(self) -> bool:
        """What is put back tells prompts apart, and is compared with what is read likewise."""
        return self.how.patch == "zero"

    def _followed(self, ids: Sequence[int], reading: Reading) -> tuple[tuple[int, ...], int]:
        """The answer's own words, and the first token of what it follows."""
        if reading.span is None:
            return (), ids[0]
        place, _ = token_span(lambda part: decoded(self.tokenizer, part), ids, reading.span)
        return tuple(ids[:place]), ids[place]

    def _at_spans(self, prompts: Sequence[list[int]], answers: Sequence[_Answer]) -> list[_Answer]:
        """The answers with the probability of what stands behind words of their own."""
        if not any(one.own for one in answers):
            return list(answers)
        longer = [[*prompt, *one.own] for prompt, one in zip(prompts, answers, strict=True)]
        likely = Prefix(self.model, longer, apart=self._apart).last_logits.float().softmax(-1)
        return [
            replace(one, probability=float(likely[row, one.token]))
            for row, one in enumerate(answers)
        ]

    @contextmanager
    def _put_back(
        self, blocks: Site, bare: Sequence[list[int]], neurons: np.ndarray
    ) -> Iterator[None]:
        """Hold neurons, at the last position, at their values after the prompts without context."""
        with recording(blocks, last=1) as seen:
            Prefix(self.model, bare, apart=True)
        values = torch.stack([seen[layer] for layer in range(blocks.depth)], dim=1)
        with holding(blocks, values, neurons):
            yield


def _sets(
    atlas: NeuronAtlas, active: np.ndarray, how: Check, listed: Mapping[str, np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """What is silenced, by name; random neurons several times."""
    nobody = np.empty((0, 2), np.int32)
    depth = atlas.scores_rel.shape[0]
    every = np.concatenate([getattr(atlas, name) for name in SETS])
    # What the strongest of P_rel and the most active are as many as.
    irrel = atlas.irrel if len(atlas.irrel) else every
    strongest = np.lexsort(
        (
            -atlas.scores_rel[atlas.rel[:, 0], atlas.rel[:, 1]],
            -atlas.counts_rel[atlas.rel[:, 0], atlas.rel[:, 1]],
        )
    )
    chosen = {IRREL: atlas.irrel, REL: atlas.rel[np.sort(strongest[: len(irrel)])]}
    chosen[SHARED] = atlas.shared
    chosen = {name: one for name, one in chosen.items() if len(one)}
    chosen.update(listed)
    chosen[CHOSEN] = every
    rng = np.random.default_rng(how.seed)
    drawn = {
        random_as(name): [
            same_profile(np.bincount(one[:, 0], minlength=depth), rng.random(active.shape), one)
            for _ in range(how.draws)
        ]
        for name, one in chosen.items()
        if name != REL  # as many as P_irrel, so that its random ones tell enough
    }
    profile = np.bincount(irrel[:, 0], minlength=depth)
    return {
        NOTHING: [nobody],
        **{name: [one] for name, one in chosen.items()},
        **drawn,
        ACTIVE: [same_profile(profile, active, nobody)],
    }
