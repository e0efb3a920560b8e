"""Attribution of one context: which neurons made the model say this, because of these passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.data.examples import Example, Passage
from neurorit.mining.attributor import Miner
from neurorit.mining.contexts import RELEVANT, Context
from neurorit.mining.integrated_gradients import Attribution
from neurorit.mining.settings import MiningSettings
from neurorit.model.distributed import join
from neurorit.model.prompts import PromptTemplate
from neurorit.model.source import ModelSource


def attribute(
    model: Any,
    tokenizer: Any,
    question: str | Example,
    passages: Sequence[Passage] | None = None,
    answer: str | None = None,
    settings: MiningSettings | None = None,
    *,
    template: PromptTemplate | None = None,
) -> Attribution:
    """How much each neuron adds to an answer, with the passages against without them.

    model, tokenizer: as `mine` takes them. question: as text, or an example, whose passages are
    taken where none are given. answer: whose probability is attributed (None: what the model itself
    says). settings: `method`, `objective`, `steps`, `quadrature`, `prefill`, `rows`, `memory`
    and `answer_tokens` count, and of a folder `dtype` and `device`.

    Returns scores [layers, neurons] in units of the objective, the gain of every layer, and the
    completeness residual: how far the scores are from adding up to it. Raises BadInput where there
    is no passage: nothing would differ.
    """
    settings = settings or MiningSettings()
    if settings.pipeline > 1:
        raise BadInput("‹pipeline›: contexts are attributed by one process here; leave it at 1")
    join(settings.device)
    if isinstance(question, Example):
        passages = question.passages if passages is None else passages
        question = question.question
    if not passages:
        raise BadInput("passages: there are none, and with them is compared with without them")
    source = ModelSource.of(model, tokenizer, template)
    answers = () if answer is None else (answer,)
    context = Context("context", RELEVANT, question, tuple(passages), answers)
    with source.kept():
        miner = Miner.load(source, [context], settings)
        return miner.attributions([context.key], {})[0]
