"""Mining's one pass against the layer-by-layer loop and Captum, in one run.

One sample, a Llama of random weights. The rivals compute the same integrated gradients: the loop
by one whole forward and backward pass per layer and step, Captum's IntegratedGradients by the
library's own batching over the steps of each layer. A plain forward-backward is that of the prompt
with frozen weights and the gradient taken down to the embeddings.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from harness.bench import Bench, interleaved, options, peak_above_now, peak_of, random_llama, table

from neurorit.mining.integrated_gradients import Query, Settings, attribute, attribute_by_loop
from neurorit.model.feed_forward import feed_forward

STEPS, HIDDEN, WIDTH, TOKENS, DEPTH, VOCABULARY = 20, 512, 1408, 512, 8, 8192
TARGET = 7


def build(depth: int, device: str) -> Any:
    """A Llama of random weights, frozen."""
    model = random_llama(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=depth,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=4096,
        initializer_range=0.05,
    )
    return model.to(device).eval().requires_grad_(False)


def sample(tokens: int) -> Query:
    """A prompt of so many tokens, and the question at its end without the context."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(10, VOCABULARY, (tokens,), generator=generator).tolist()
    return Query(ids, ids[-min(64, tokens // 2) :], (TARGET,))


def plain_pass(model: Any, query: Query) -> None:
    """Forward and backward of the prompt, down to the embeddings."""
    ids = torch.tensor([list(query.prompt_with)], device=model.device)
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits[0]
    torch.autograd.grad(logits.float().log_softmax(-1)[:, TARGET].sum(), embedded)


def by_captum(model: Any, query: Query, batch: int) -> torch.Tensor:
    """The scores [L, F] by Captum, a path per layer over the last position's neurons."""
    from captum.attr import IntegratedGradients

    blocks = feed_forward(model)
    ids = torch.tensor([list(query.prompt_with)], device=model.device)
    ends = []
    for prompt in (query.prompt_with, query.prompt_without):
        seen: list[torch.Tensor] = []
        hooks = [
            blocks.down(layer).register_forward_pre_hook(
                lambda _m, inputs, seen=seen: seen.append(inputs[0][0, -1])
            )
            for layer in range(blocks.depth)
        ]
        with torch.no_grad():
            model(input_ids=torch.tensor([list(prompt)], device=model.device), use_cache=False)
        for hook in hooks:
            hook.remove()
        ends.append(torch.stack(seen))
    scores = []
    for layer in range(blocks.depth):

        def forward(values: torch.Tensor, layer: int = layer) -> torch.Tensor:
            def patch(_module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
                return (torch.cat([inputs[0][:, :-1], values[:, None]], dim=1),)

            handle = blocks.down(layer).register_forward_pre_hook(patch)
            try:
                logits = model(
                    input_ids=ids.expand(len(values), -1), use_cache=False, logits_to_keep=1
                ).logits
            finally:
                handle.remove()
            return logits[:, -1].softmax(-1)[:, TARGET]

        found = IntegratedGradients(forward, multiply_by_inputs=True).attribute(
            ends[0][layer][None],
            baselines=ends[1][layer][None],
            n_steps=STEPS,
            method="riemann_middle",
            internal_batch_size=batch,
        )
        scores.append(found[0].float())
    return torch.stack(scores)


def rivals(bench: Bench, device: str) -> None:
    """One sample by the loop, by Captum and by the one pass."""
    model, query = build(DEPTH, device), sample(TOKENS)
    settings = Settings(steps=STEPS)
    found: dict[str, torch.Tensor] = {}

    def keep(name: str, scores: torch.Tensor) -> None:
        found[name] = scores.cpu()

    fast = {
        "one pass": lambda: keep("one pass", attribute(model, [query], settings)[0].scores),
        "plain forward-backward": lambda: plain_pass(model, query),
    }
    slow = {
        "loop": lambda: keep("loop", attribute_by_loop(model, query, steps=STEPS)),
        "captum": lambda: keep("captum", by_captum(model, query, 4)),
    }
    times = interleaved(fast, repeats=7)
    times |= interleaved(slow, repeats=1, warm=0)
    for name, value in times.items():
        bench.add(name, "seconds a sample", value, "s")
    largest = float(found["loop"].abs().max())
    for name in ("one pass", "captum"):
        difference = float((found[name] - found["loop"]).abs().max()) / largest
        bench.add(name, "largest difference to the loop, of the largest score", difference, "1")
        if name == "one pass":
            bench.ratios["max_relative_difference"] = difference
    bench.ratios["one_pass_vs_loop_speedup"] = times["loop"] / times["one pass"]
    bench.ratios["one_pass_vs_captum_speedup"] = times["captum"] / times["one pass"]


def costs(bench: Bench, device: str) -> None:
    """One sample's cost in plain forward-backward passes, by depth and prompt length."""
    rows = []
    for depth in (4, 8, 16):
        model = build(depth, device)
        for tokens in (128, 256, 512, 1024, 2048):
            query = sample(tokens)
            times = interleaved(
                {
                    "mining": lambda m=model, q=query: attribute(m, [q], Settings(steps=STEPS)),
                    "plain": lambda m=model, q=query: plain_pass(m, q),
                },
                repeats=5,
            )
            cost = times["mining"] / times["plain"]
            bench.add(f"depth {depth}, {tokens} tokens", "cost", cost, "plain passes")
            fits = depth * STEPS <= tokens
            rows.append([str(depth), str(tokens), "yes" if fits else "no", f"{cost:.2f}"])
    table(
        "Cost of one sample, in plain forward-backward passes of its prompt",
        ["layers", "tokens", "L*m <= tokens", "cost"],
        rows,
    )
    within = [float(row[3]) for row in rows if row[2] == "yes"]
    bench.ratios["passes_per_sample"] = max(within)


def memory(bench: Bench, device: str) -> None:
    """Peak memory above the loaded model, each in a process of its own."""
    peaks = {}
    for name in ("mining", "plain"):
        peaks[name] = peak_of(str(Path(__file__)), "--peak", name, "--device", device)
        bench.add(name, "peak memory above the model", peaks[name] / 2**20, "MiB")
    bench.ratios["peak_memory_vs_plain_backward"] = peaks["mining"] / peaks["plain"]


def main() -> None:
    """Run it all, or one measurement of peak memory."""
    parser = options(__doc__ or "")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak", choices=("mining", "plain"), help="measure one peak and end")
    chosen = parser.parse_args()
    if chosen.peak:
        model, query = build(DEPTH, chosen.device), sample(TOKENS)
        short = sample(16)
        works = {
            "mining": lambda q: attribute(model, [q], Settings(steps=STEPS)),
            "plain": lambda q: plain_pass(model, q),
        }
        works[chosen.peak](short)  # libraries take their own memory on first use
        print(peak_above_now(lambda: works[chosen.peak](query)))
        return
    settings = {
        "layers": DEPTH, "hidden": HIDDEN, "feed_forward": WIDTH, "vocabulary": VOCABULARY,
        "tokens": TOKENS, "steps": STEPS, "dtype": "float32", "device": chosen.device,
    }  # fmt: skip
    bench = Bench("mining", settings)
    rivals(bench, chosen.device)
    memory(bench, chosen.device)
    costs(bench, chosen.device)
    bench.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
