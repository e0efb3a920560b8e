"""Cheaper attributions against the exact one, and against really patching every neuron.

The lab's model reads questions of another world with their gold passage, or with another person's.
Real patching puts one neuron at a time to its value without the context, at the last position, and
takes what F loses; an attribution estimates exactly that. Correlations are Spearman's over the
neurons of a context, averaged over contexts. The ratios of mining's own benchmark stand beside.

With --precisions the exact attribution is computed in each of the settings' `activations` instead,
by this or another model: how far scores are from adding up, and from those in float32. With
--quadratures by each rule for the path and several numbers of steps: the same, against 32 steps of
Gauss and Legendre, over contexts that mining would count.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.bench import Bench, interleaved, options, table
from mining import DEPTH, HIDDEN, STEPS, TOKENS, rivals
from scipy.stats import spearmanr

from neurorit.lab import base_model_dir
from neurorit.lab.unseen import other_questions
from neurorit.mining.integrated_gradients import Attribution, Query, Settings, attribute
from neurorit.mining.settings import MiningSettings
from neurorit.model.feed_forward import feed_forward
from neurorit.model.float32 import BFLOAT16, FLOAT32, TF32, float32_activations
from neurorit.model.hooks import recording
from neurorit.model.load import load_model
from neurorit.model.prompts import PromptTemplate, render_prompt
from neurorit.model.shared_prefix import Prefix

METHODS = ("integrated-gradients", "relevance", "gradient-activation", "activation")
PREFILL = "float32, prompts prefilled in bfloat16"
_AT_ONCE = 64  # neurons patched in one pass
_TOP = 20
RULES = (
    *(("midpoint", steps) for steps in (20, 10, 5)),
    *(("gauss-legendre", steps) for steps in (8, 6, 5, 4, 3)),
)


def queries(tokenizer: Any, template: PromptTemplate, count: int) -> list[Query]:
    """As many contexts with the gold passage as with another's; the target is the model's own."""
    examples = other_questions(count // 2)
    found = []
    for place, example in enumerate(examples):
        other = examples[(place + 1) % len(examples)]
        bare = render_prompt(tokenizer, template, example.question, ())
        for passages in (example.passages, other.passages):
            prompt = render_prompt(tokenizer, template, example.question, passages)
            found.append(Query(prompt, bare))
    return found


@torch.no_grad()
def patched(model: Any, query: Query, target: int) -> np.ndarray:
    """What the target's probability loses [L, F] when one neuron is as without the context."""
    blocks = feed_forward(model)
    without = []
    for prompt in (query.prompt_without, query.prompt_with):
        with recording(blocks, last=1) as seen:
            last = Prefix(model, [prompt]).last_logits
        without.append(torch.stack([seen[layer][0, 0] for layer in range(blocks.depth)]))
    plain = float(last[0].float().softmax(-1)[target])
    prompts = [query.prompt_with] * _AT_ONCE
    lost = np.zeros((blocks.depth, blocks.width))
    for layer in range(blocks.depth):
        for first in range(0, blocks.width, _AT_ONCE):
            chosen = torch.arange(first, min(first + _AT_ONCE, blocks.width))

            def put(_module: Any, inputs: Any, chosen: Any = chosen, layer: int = layer) -> Any:
                hidden = inputs[0].clone()
                rows = torch.arange(len(chosen))
                hidden[rows, -1, chosen] = without[0][layer, chosen]
                return (hidden,)

            handle = blocks.down(layer).register_forward_pre_hook(put)
            try:
                logits = Prefix(model, prompts[: len(chosen)]).last_logits
            finally:
                handle.remove()
            probability = logits.float().softmax(-1)[:, target]
            lost[layer, chosen] = plain - probability.numpy()
    return lost


def correlation(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """Spearman's over the neurons of each context, averaged."""
    each = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)]
    return float(np.mean(each))


def largest(one: Sequence[np.ndarray], other: Sequence[np.ndarray], share: float = 0.01) -> float:
    """How many of each context's largest neurons of one are among the largest of the other."""
    found = []
    for a, b in zip(one, other, strict=True):
        count = max(1, round(share * a.size))
        tops = [set(np.argsort(-scores.ravel())[:count].tolist()) for scores in (a, b)]
        found.append(len(tops[0] & tops[1]) / count)
    return float(np.mean(found))


def compare(bench: Bench, contexts: int, patched_contexts: int) -> None:
    """Every method on the same contexts: its time, and how it ranks neurons."""
    place = base_model_dir()
    model, tokenizer = load_model(place, device="cpu")
    model.requires_grad_(False)
    asked = queries(tokenizer, PromptTemplate.of_checkpoint(place), contexts)
    scores: dict[str, list[np.ndarray]] = {}
    targets: list[int] = []

    def work(method: str) -> None:
        found = attribute(model, asked, Settings(method=method, steps=STEPS, rows=4096))
        scores[method] = [one.scores.numpy() for one in found]
        targets[:] = [one.target[0] for one in found]

    times = interleaved({name: lambda m=name: work(m) for name in METHODS}, repeats=3)
    few = list(range(patched_contexts))
    real = [patched(model, asked[i], targets[i]) for i in few]
    exact = scores["integrated-gradients"]
    rows: list[list[str]] = []
    by: dict[str, dict[str, float]] = {}
    for name in METHODS:
        some = [scores[name][i] for i in few]
        figures = {
            "seconds": times[name],
            "spearman to the exact": correlation(scores[name], exact),
            "spearman to patching": correlation(some, real),
            "largest 1 % shared with patching": largest(some, real),
        }
        for metric, value in figures.items():
            bench.add(name, metric, value, "s" if metric == "seconds" else "1")
        rows.append([name, *(f"{value:.3f}" for value in figures.values())])
        by[name] = figures
    table(
        f"{contexts} contexts, {patched_contexts} of them patched",
        ["method", "seconds", "to the exact", "to patching", "largest 1 %"],
        rows,
    )
    bench.ratios["relp_vs_exact_speedup"] = times["integrated-gradients"] / times["relevance"]
    bench.ratios["relp_spearman"] = by["relevance"]["spearman to the exact"]
    for name, method in (
        ("patching_spearman", "relevance"),
        ("exact_patching_spearman", "integrated-gradients"),
        ("gradient_patching_spearman", "gradient-activation"),
    ):
        bench.ratios[name] = by[method]["spearman to patching"]


def precisions(bench: Bench, place: Path, contexts: int, dtype: str) -> None:
    """The exact attribution with products of inputs of each precision."""
    model, tokenizer = load_model(place, device="cpu", dtype=dtype)
    model.requires_grad_(False)
    asked = queries(tokenizer, PromptTemplate.of_checkpoint(place), contexts)
    found: dict[str, list[Attribution]] = {}
    rows = []
    low = copy.deepcopy(model).bfloat16()
    for name in (FLOAT32, TF32, BFLOAT16, PREFILL, "as-weights"):
        by = low if name == "as-weights" else model
        computing = FLOAT32 if name == PREFILL else name
        found[name] = []
        for place_of, query in enumerate(asked):
            # What float32 says is what all are of.
            target = found[FLOAT32][place_of].target if name != FLOAT32 else None
            given, prefixes = replace(query, target=target), None
            if name == PREFILL:
                both = (Prefix(low, [ids]) for ids in (query.prompt_with, query.prompt_without))
                shown, bare = (prefix.raised(model, torch.float32) for prefix in both)
                prefixes = shown, bare
            with float32_activations(by, computing) if by is model else nullcontext():
                found[name] += attribute(by, [given], Settings(steps=STEPS, rows=256), prefixes)
        figures = _against(found[name], found[FLOAT32])
        for metric, value in figures.items():
            bench.add(name, metric, value, "1")
        rows.append([name, *(f"{value:.4f}" for value in figures.values())])
    heads = ["activations", "median residual", "largest", "top 20", "Spearman"]
    table(f"{len(asked)} contexts, weights as {dtype}, against float32", heads, rows)


def quadratures(bench: Bench, place: Path, contexts: int) -> None:
    """The exact attribution by each rule that sums the path."""
    model, tokenizer = load_model(place, device="cpu")
    model.requires_grad_(False)
    asked = queries(tokenizer, PromptTemplate.of_checkpoint(place), contexts)
    exact: list[Attribution] = []
    rows = []
    for rule, steps in (("gauss-legendre", 32), *RULES):
        started = time.perf_counter()
        found = []
        for query in asked:
            how = Settings(steps=steps, quadrature=rule, rows=512)
            with float32_activations(model, FLOAT32):
                found += attribute(model, [query], how)
        seconds = (time.perf_counter() - started) / len(asked)
        exact = exact or found
        least = MiningSettings().least_gain
        counted = [
            place_of
            for place_of, one in enumerate(exact)
            if min(one.context_gain, one.neuron_gain) >= least
        ]
        figures = {
            "contexts": float(len(counted)),
            "seconds a context": seconds,
            **_against([found[i] for i in counted], [exact[i] for i in counted]),
        }
        name = f"{rule}, {steps}"
        for metric, value in figures.items():
            bench.add(name, metric, value, "s" if metric.startswith("seconds") else "1")
        rows.append([name, *(f"{value:.5f}" for value in figures.values())])
    heads = ["rule, steps", "contexts", "seconds", "median residual", "largest", "top 20"]
    table("against the first", [*heads, "Spearman"], rows)


def _against(found: Sequence[Attribution], exact: Sequence[Attribution]) -> dict[str, float]:
    """How far scores are from adding up, and from the exact ones of the same contexts."""
    scores, wanted = ([one.scores.numpy() for one in some] for some in (found, exact))
    residuals = [one.residual for one in found]
    shared = [
        len(np.intersect1d(*(np.argsort(-s.ravel())[:_TOP] for s in pair))) / _TOP
        for pair in zip(scores, wanted, strict=True)
    ]
    return {
        "median residual": float(np.median(residuals)),
        "largest residual": max(residuals),
        "top-20 agreement": float(np.mean(shared)),
        "spearman": correlation(scores, wanted),
    }


def main() -> None:
    """Run it, and mining's rivals unless they are left out."""
    parser = options(__doc__ or "")
    parser.add_argument("--precisions", action="store_true", help="compare these alone")
    parser.add_argument("--quadratures", action="store_true", help="compare these alone")
    parser.add_argument("--model", type=Path, help="for these two (default: the lab's)")
    parser.add_argument("--dtype", default="auto", help="of the weights, for --precisions")
    parser.add_argument("--contexts", type=int, default=16)
    parser.add_argument("--patched", type=int, default=8)
    parser.add_argument("--without-mining", action="store_true", help="leave mining's ratios out")
    chosen = parser.parse_args()
    place = chosen.model or base_model_dir()
    settings = {"model": str(place), "contexts": chosen.contexts}
    if chosen.precisions:
        bench = Bench("attribution-precisions", {**settings, "steps": STEPS})
        precisions(bench, place, chosen.contexts, chosen.dtype)
        bench.finish(chosen.json)
        return
    if chosen.quadratures:
        bench = Bench("attribution-quadratures", settings)
        quadratures(bench, place, chosen.contexts)
        bench.finish(chosen.json)
        return
    settings = {
        "model": "lab", "contexts": chosen.contexts, "patched": chosen.patched, "steps": STEPS,
        "mining": {"layers": DEPTH, "hidden": HIDDEN, "tokens": TOKENS},
    }  # fmt: skip
    bench = Bench("attribution", settings)
    compare(bench, chosen.contexts, chosen.patched)
    if not chosen.without_mining:
        rivals(bench, "cpu")
    bench.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
