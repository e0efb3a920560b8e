"""One vLLM with a base and three neuron adapters, against vLLM with the base alone, in one run.

Whether each adapter answers as its merged checkpoint does while all are asked in one batch, what
the adapters cost in memory and in throughput, and what happens when they are added and removed
under load. The adapters are random: so many neurons a layer, moved by so much. Run it alone on the
machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness.bench import Bench, options

from neurorit.core.artifact import Manifest
from neurorit.lab import base_model_dir
from neurorit.lab.world import write_world
from neurorit.model.checkpoint import weights_digest
from neurorit.model.feed_forward import feed_forward
from neurorit.model.load import load_model, load_tokenizer
from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt
from neurorit.pipelines.method import merge
from neurorit.retrieval.corpus.reader import read_corpus
from neurorit.serving.backends.backend import System
from neurorit.serving.backends.openai_client import Sampling
from neurorit.tuning.adapter_file import save_adapter

TOP_K = 5
BATCH = 25
UNCACHED = "--no-enable-prefix-caching"
BASE = ""


def main() -> None:
    """Measure and print."""
    parser = options(__doc__ or "")
    parser.add_argument("--prompts", type=int, default=300, help="of each adapter")
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--neurons", type=int, default=32, help="of a layer that an adapter moves")
    parser.add_argument("--moved", type=float, default=4.0, help="in standard deviations")
    parser.add_argument("--turns", type=int, default=6, help="of throughput, of either engine")
    parser.add_argument("--requests", type=int, default=96, help="of one turn")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--changes", type=int, default=50, help="adapters added and removed")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument(
        "--work", type=Path, help="a folder that keeps adapters and what is expected of them"
    )
    parser.add_argument("--prepare", action="store_true", help="make only what --work keeps")
    given = parser.parse_args()
    unsaid = ("json", "work", "prepare")
    bench = Bench(
        "adapters", {key: value for key, value in vars(given).items() if key not in unsaid}
    )
    with tempfile.TemporaryDirectory() as folder:
        prepared = _prepared(given, given.work or Path(folder))
        if not given.prepare:
            _measure(bench, given, given.work or Path(folder), prepared)
            bench.finish(given.json)


def _prepared(given: Any, folder: Path) -> dict[str, Any]:
    """Prompts, and the answers of each merged checkpoint; the adapters lie in the folder."""
    asked = [given.prompts, given.adapters, given.neurons, given.moved, given.max_tokens]
    kept = folder / "prepared.json"
    if kept.is_file() and (found := json.loads(kept.read_text()))["asked"] == asked:
        return dict(found)
    for former in ("neurons", "merged", "lora"):
        shutil.rmtree(folder / former, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    model = base_model_dir()
    prompts = _prompts(folder, model, given.prompts)
    names = [f"adapter-{number}" for number in range(given.adapters)]
    for seed, name in enumerate(names):
        _neuron_adapter(model, folder / "neurons" / name, given, seed)
        for form, as_lora in (("merged", False), ("lora", True)):
            merge(model, folder / "neurons" / name, folder / form / name, as_lora=as_lora)
    end = [end_token_id(load_tokenizer(model))]
    expected: dict[str, list[str]] = {}
    for name in (BASE, *names):
        directory = folder / "merged" / name if name else model
        expected[name] = _answers(directory, prompts, given.max_tokens, end[0])
    made = {"asked": asked, "prompts": prompts, "expected": expected, "end": end}
    kept.write_text(json.dumps(made))
    return made


def _measure(bench: Bench, given: Any, folder: Path, prepared: Mapping[str, Any]) -> None:
    expected = prepared["expected"]
    for name in expected:
        differ = [a != b for a, b in zip(expected[name], expected[BASE], strict=True)]
        if name != BASE:
            bench.add(name, "answers_unlike_the_bases", statistics.mean(differ), "share")
    served = (base_model_dir(), prepared["prompts"], expected, prepared["end"])
    asyncio.run(_served(bench, given, folder, *served))


async def _served(
    bench: Bench,
    given: Any,
    folder: Path,
    model: Path,
    prompts: Sequence[list[int]],
    expected: Mapping[str, Sequence[str]],
    end: Sequence[int],
) -> None:
    named = [f"{name}={folder / 'lora' / name}" for name in expected if name != BASE]
    alone = System(model, vllm_args=[UNCACHED], log=folder / "alone.log")
    many = System(model, vllm_args=[UNCACHED], log=folder / "many.log", adapters=named)
    assert many.adapters is not None
    loras = {name: many.adapters[name].served for name in many.adapters.names} | {BASE: ""}
    bench.add("many", "rank", many.adapters.rank, "neurons")

    async def ask(system: System, name: str, number: int) -> str:
        sampling = Sampling(max_tokens=given.max_tokens, adapter=loras[name])
        stream = system.generator.stream(
            prompts[number % len(prompts)], sampling, stop_token_ids=end, whole=True
        )
        return "".join([piece.text async for piece in stream]).strip()

    async def together(system: System, jobs: Sequence[tuple[str, int]]) -> list[str]:
        turns = asyncio.Semaphore(given.concurrency)

        async def one(name: str, number: int) -> str:
            async with turns:
                return await ask(system, name, number)

        return await asyncio.gather(*(one(name, number) for name, number in jobs))

    try:
        for system in (alone, many):
            await system.start(lambda phase: None)
        # Neighbours in a batch are of different models.
        jobs = [(name, number) for number in range(len(prompts)) for name in expected]
        answers = await together(many, jobs)
        for name in expected:
            same = [
                answer == expected[asked][number]
                for (asked, number), answer in zip(jobs, answers, strict=True)
                if asked == name
            ]
            bench.add(name or "base", "answers_as_merged", statistics.mean(same), "share")
        await together(alone, [(BASE, number) for number in range(len(jobs))])
        memory = {system: _memory(system) for system in (alone, many)}
        for label, system in (("alone", alone), ("many", many)):
            bench.add(label, "memory", memory[system] / 2**20, "MiB")
        bench.ratios["memory_vs_base"] = memory[many] / memory[alone]
        spread = [(name, number) for number in range(given.requests) for name in expected]
        rates: dict[str, list[float]] = {"alone": [], "many": [], "many_base_only": []}
        for turn in range(given.turns + 1):
            for label, system, only in (
                ("alone", alone, True),
                ("many", many, False),
                ("many_base_only", many, True),
            ):
                asked = [(BASE if only else name, n) for name, n in spread[: given.requests]]
                started = time.perf_counter()
                await together(system, asked)
                if turn:  # the first one warms up
                    rates[label].append(given.requests / (time.perf_counter() - started))
        for label, found in rates.items():
            bench.add(label, "throughput", statistics.median(found), "requests/s")
        for ratio, label in (
            ("throughput_vs_base", "many"),
            ("base_throughput_beside_adapters", "many_base_only"),
        ):
            pairs = zip(rates[label], rates["alone"], strict=True)
            bench.ratios[ratio] = statistics.median([ours / base for ours, base in pairs])
        await _changes(bench, given, folder, many, together)
    finally:
        for system in (alone, many):
            system.stop()
            await system.aclose()


async def _changes(bench: Bench, given: Any, folder: Path, many: System, together: Any) -> None:
    """Add and remove adapters while the base and another adapter are asked."""
    assert many.adapters is not None
    kept, *others = many.adapters.names
    before = _memory(many)
    done = asyncio.Event()
    asked = 0

    async def keep_asking() -> None:
        nonlocal asked
        while not done.is_set():
            await together(many, [(name, asked + i) for i in range(8) for name in (BASE, kept)])
            asked += 16

    asking = asyncio.create_task(keep_asking())
    started = time.perf_counter()
    for number in range(given.changes):
        name = others[number % len(others)]
        await many.adapters.remove(name)
        await many.adapters.add(name, folder / "lora" / name)
    seconds = time.perf_counter() - started
    done.set()
    await asking  # raises where any request failed
    bench.add("changes", "each", 1000 * seconds / given.changes, "ms")
    bench.add("changes", "requests_meanwhile", asked, "requests")
    bench.add("changes", "memory_growth", (_memory(many) - before) / 2**20, "MiB")
    bench.ratios["memory_after_changes"] = _memory(many) / before


def _neuron_adapter(model: Path, out: Path, given: Any, seed: int) -> None:
    loaded, _ = load_model(model, dtype="auto", device="cpu")
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    blocks = feed_forward(loaded)
    neurons = np.concatenate(
        [
            [[layer, n] for n in sorted(rng.choice(_width(blocks, layer), given.neurons, False))]
            for layer in range(blocks.depth)
        ]
    )
    for layer, neuron in neurons.tolist():
        rows = [blocks.up(layer).weight.data[neuron], blocks.down(layer).weight.data[:, neuron]]
        for row in rows:
            row += given.moved * row.std() * torch.randn_like(row)
    manifest = Manifest("adapter", "benchmarks", inputs={"model": weights_digest(model)})
    save_adapter(loaded, neurons, [], out, manifest)


@torch.inference_mode()
def _answers(model: Path, prompts: Sequence[list[int]], most: int, end: int) -> list[str]:
    """Greedy answers of a checkpoint, computed without vLLM; prompts of like lengths together."""
    loaded, tokenizer = load_model(model, dtype="auto", device="cpu")
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        width = max(len(prompts[number]) for number in chosen)
        ids = torch.full((len(chosen), width), end)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(chosen):
            ids[row, width - len(prompts[number]) :] = torch.tensor(prompts[number])
            mask[row, width - len(prompts[number]) :] = 1
        made = loaded.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )[:, width:]
        for row, number in enumerate(chosen):
            answers[number] = tokenizer.decode(made[row], skip_special_tokens=True).strip()
    return answers


def _width(blocks: Any, layer: int) -> int:
    return int(blocks.down(layer).in_features)


def _prompts(folder: Path, model: Path, count: int) -> list[list[int]]:
    write_world(folder / "world", 0, test=count)
    lines = (folder / "world" / "questions-test.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines][:count]
    passages = {passage.id: passage for passage in read_corpus(folder / "world" / "corpus.jsonl")}
    names = sorted(passages)
    rng = np.random.default_rng(0)
    tokenizer, template = load_tokenizer(model), PromptTemplate.of_checkpoint(model)
    return [
        render_prompt(
            tokenizer,
            template,
            question["question"],
            # The one with the answer, and others of no use.
            [passages[name] for name in (*question["gold"], *rng.choice(names, TOP_K - 1))],
        )
        for question in questions
    ]


def _memory(system: System) -> int:
    """Resident bytes of an own vLLM with its children."""
    assert system.pid is not None
    total, pids = 0, [system.pid]
    while pids:
        pid = pids.pop()
        for task in Path(f"/proc/{pid}/task").iterdir():
            pids += [int(child) for child in (task / "children").read_text().split()]
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        total += pages * os.sysconf("SC_PAGE_SIZE")
    return total


if __name__ == "__main__":
    main()
