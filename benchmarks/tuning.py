"""A tuning step of neuro-rit against full fine-tuning and peft's LoRA: time and memory, one run.

A Llama of random weights of about 100 million parameters with 16 layers. neuro-rit trains 5 % of
the neurons for each side, drawn at random over all layers, and the blocks of three layers. A step
is forward, backward, clipping and AdamW on the same batch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from harness.bench import Bench, interleaved, options, random_llama

from neurorit.tuning.neuron_adapter import Group, NeuronAdapters
from neurorit.tuning.rivals.full import FullTuning
from neurorit.tuning.rivals.low_rank import LoraTuning

HIDDEN, WIDTH, DEPTH, VOCABULARY, BATCH, TOKENS, RESPONSE = 640, 1792, 16, 32_000, 8, 192, 8
SHARE, DENSE, RANK = 0.05, (4, 9, 14), 16


def build(device: str) -> Any:
    """A Llama of random weights."""
    return random_llama(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=10,
        num_key_value_heads=10,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    ).to(device)


def groups() -> dict[str, Group]:
    """Random sets of the sizes that mining makes: P_rel, P_irrel and what both share."""
    rng = np.random.default_rng(0)
    size = DEPTH * WIDTH
    count = round(SHARE * size)
    drawn = rng.permutation(size)[: round(1.6 * count)]
    pairs = np.stack([drawn // WIDTH, drawn % WIDTH], axis=1)
    part = round(0.6 * count)
    return {
        "rel": Group(pairs[:part], from_noise=False),
        "irrel": Group(pairs[part : 2 * part], from_evidence=False),
        "shared": Group(pairs[2 * part :]),
    }


class Method:
    """One way to train, ready to take steps."""

    def __init__(self, install: Callable[[Any], Any], device: str) -> None:
        self.model = build(device).train()
        self.trainable = install(self.model)
        if isinstance(self.trainable, NeuronAdapters):
            named = self.trainable.deltas() + self.trainable.dense()
        else:
            named = self.trainable.trained()
        self.parameters = [parameter for _, parameter in named]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0)
        generator = torch.Generator().manual_seed(1)
        self.ids = torch.randint(0, VOCABULARY, (BATCH, TOKENS), generator=generator).to(device)
        self.evidence = torch.arange(BATCH, device=device) % 4 != 0
        self.bytes = 0

    def step(self) -> None:
        """One optimizer step."""
        self.trainable.samples(self.evidence)
        logits = self.model(
            input_ids=self.ids, use_cache=False, logits_to_keep=RESPONSE + 1
        ).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), self.ids[:, -RESPONSE:].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        held = [p.grad for p in self.parameters if p.grad is not None]
        held += [v for s in self.optimizer.state.values() for v in s.values() if v.dim()]
        self.bytes = sum(tensor.nbytes for tensor in held)
        self.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Take turns, step by step."""
    parser = options(__doc__ or "")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    methods = {
        "neuro-rit": Method(lambda m: NeuronAdapters(m, groups(), DENSE), chosen.device),
        "sft": Method(FullTuning, chosen.device),
        "lora": Method(lambda m: LoraTuning(m, RANK, 2 * RANK), chosen.device),
    }
    size = sum(parameter.numel() for parameter in methods["sft"].model.parameters())
    settings = {
        "parameters": size, "layers": DEPTH, "hidden": HIDDEN, "feed_forward": WIDTH,
        "batch": BATCH, "tokens": TOKENS, "share": SHARE, "dense_layers": DENSE,
        "lora_rank": RANK, "dtype": "float32", "device": chosen.device,
    }  # fmt: skip
    bench = Bench("tuning", settings)
    times = interleaved({n: m.step for n, m in methods.items()}, repeats=chosen.steps)
    for name, method in methods.items():
        trained = sum(parameter.numel() for parameter in method.parameters)
        bench.add(name, "seconds a step", times[name], "s")
        bench.add(name, "trained parameters", trained, "1")
        bench.add(name, "gradients and optimizer state", method.bytes / 2**20, "MiB")
    bench.ratios = {
        "step_time_vs_sft": times["neuro-rit"] / times["sft"],
        "step_time_vs_lora": times["neuro-rit"] / times["lora"],
        "state_bytes_vs_sft": methods["neuro-rit"].bytes / methods["sft"].bytes,
    }
    bench.finish(chosen.json)


if __name__ == "__main__":
    sys.exit(main())
