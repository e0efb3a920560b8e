"""tune --verify: does vLLM answer from a checkpoint as Hugging Face does?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from neurorit.data.example_files import examples_file, read_examples
from neurorit.pipelines.progress import Reporter

BATCH = 16
ENOUGH = 0.99


def measure(
    model: Path, examples: Path, report: Reporter, *, prompts: int = 100, max_tokens: int = 32
) -> Mapping[str, Any]:
    """Greedy answers to the first `prompts` examples, by both; returns the share that is equal.

    Both run in the type that the checkpoint is stored in.
    """
    from neurorit.model.generation import ends_of
    from neurorit.model.load import load_model, release
    from neurorit.model.prompts import PromptTemplate, render_prompt
    from neurorit.model.shared_prefix import Prefix
    from neurorit.serving.backends.offline import OfflineEngine

    loaded, tokenizer = load_model(model, dtype="auto")
    template, ends = PromptTemplate.of_checkpoint(model), ends_of(loaded, tokenizer)
    asked = []
    for example in read_examples(examples_file(examples)):
        asked.append(render_prompt(tokenizer, template, example.question, example.passages))
        if len(asked) == prompts:
            break
    ours: list[list[int]] = []
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        ours += Prefix(loaded, part, apart=True).greedy(max_tokens, ends, keep=False)
        report("answers by Hugging Face", len(ours), len(asked))
    # vLLM is another process and takes nearly the whole GPU.
    del loaded
    release()
    with OfflineEngine(say=report.say) as engine:
        theirs = engine.generate(
            model,
            asked,
            max_tokens=max_tokens,
            stop_token_ids=ends,
            progress=report.named("answers by vLLM"),
        )
    equal = sum(
        _said(mine, ends) == _said(other.token_ids, ends)
        for mine, other in zip(ours, theirs, strict=True)
    )
    share = equal / len(asked)
    if share < ENOUGH:
        report.say(
            f"warning: vLLM's answers equal Hugging Face's on {share:.1%} of {len(asked)} prompts; "
            "below 99 % the served model is not the one that was tuned"
        )
    return {"prompts": len(asked), "equal": equal, "share": share}


def _said(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, ids))
