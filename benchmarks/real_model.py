"""A real model on a CPU, in one run: evaluation against bare vLLM, bfloat16 against float32, a
tuning step with and without autocast, both beside what the processor gives to bare products of the
model's shape, how far the journal is behind the engine, and mining against answering the contexts
that it asks once.

The model is what `neurorit-rag model fetch smollm2` makes (--model), the text a folder with
`squad-dev.jsonl.gz` and `corpus.jsonl.gz` (--data), or passages that this file makes up. Engines
are started and warmed up before they are timed; bare vLLM gets the prompts in the run's own order.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.bench import Bench, options

import neurorit as nr
from neurorit.core.cores import fast_bfloat16, physical_cores
from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage
from neurorit.eval.run.runner import run_evaluation
from neurorit.eval.run.systems import System
from neurorit.mining.collect import ASKED
from neurorit.model.load import load_tokenizer
from neurorit.model.prompts import PromptTemplate, end_token_id, render_prompt
from neurorit.serving.backends.offline import Completion, OfflineEngine
from neurorit.serving.backends.vllm_env import vllm_environment

CONDITIONS = ("closed-book", "clean", "distractor-1", "distractor-2")
LENGTH, TOKENS, STEPS, BATCH, MINED, PRODUCTS = 2048, 16, 3, 4, 16, 50
BARE = """
import json, sys, time
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    job = json.load(open(sys.argv[1]))
    llm = LLM(model=job["model"], dtype=job["dtype"], **job["settings"])
    asked = SamplingParams(
        temperature=0.0, max_tokens=job["tokens"], stop_token_ids=job["ends"]
    )
    prompts = [{"prompt_token_ids": ids} for ids in job["prompts"]]
    llm.generate(prompts[:1], asked, use_tqdm=False)
    started = time.perf_counter()
    outputs = llm.generate(prompts, asked, use_tqdm=False)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "texts": [o.outputs[0].text for o in outputs]}))
"""


def questions(data: Path | None, count: int) -> list[Example]:
    """Questions with their gold passage and two others of the same article."""
    if data is None:
        return [_invented(number) for number in range(count)]
    corpus = {p["id"]: p for p in _lines(data / "corpus.jsonl.gz")}
    articles: dict[str, list[str]] = {}
    for name, passage in corpus.items():
        articles.setdefault(passage["title"], []).append(name)
    asked = list(_lines(data / "squad-dev.jsonl.gz"))
    examples = []
    for row in asked[:: max(1, len(asked) // (2 * count))]:
        gold = corpus[row["gold"][0]]
        others = [
            corpus[name]
            for name in articles[gold["title"]]
            if not any(a.lower() in corpus[name]["text"].lower() for a in row["answers"])
        ]
        if len(others) >= 2 and len(examples) < count:
            kinds = [(gold, "gold"), *((other, "distractor") for other in others[:2])]
            shown = tuple(Passage(p["id"], p["title"], p["text"], kind) for p, kind in kinds)
            examples.append(Example(row["id"], row["question"], tuple(row["answers"]), shown))
    return examples


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _invented(number: int) -> Example:
    def passage(i: int, kind: str) -> Passage:
        text = f"The mill number {i} at Harrow Bridge was built in {1500 + i} by two brothers. "
        text += "It ground barley for the town until a flood took its wheel, and stands empty. "
        return Passage(f"m{i}", f"Mill {i}", text * 2, kind)

    shown = (passage(number, "gold"), passage(number + 301, "distractor"))
    shown = (*shown, passage(number + 602, "distractor"))
    asked = f"When was mill {number} at Harrow Bridge built?"
    return Example(f"q{number}", asked, (str(1500 + number),), shown)


def evaluated(model: Path, examples: Sequence[Example], dtype: str) -> dict[str, Any]:
    """Seconds of answering in an evaluation, its prompts and texts, and the journal's lag."""
    tokenizer, template = load_tokenizer(model), PromptTemplate.of_checkpoint(model)
    ends, first = [end_token_id(tokenizer)], examples[0]
    warming = render_prompt(tokenizer, template, first.question, first.passages)
    notes: list[tuple[float, float, int]] = []  # ended, written down, how many
    asked: list[list[int]] = []
    texts: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder, OfflineEngine(max_model_len=LENGTH) as engine:
        write_examples(Path(folder) / "e.jsonl", examples)

        def answers(prompts: list[list[int]]) -> Iterator[list[tuple[int, Completion]]]:
            return engine.stream(
                model, prompts, max_tokens=TOKENS, stop_token_ids=ends, dtype=dtype
            )

        def generate(
            _: str, __: Path, prompts: list[list[int]]
        ) -> Iterator[list[tuple[int, Completion]]]:
            asked.extend(prompts)
            for batch in answers(prompts):
                ended = engine.ended
                texts.update({at: completion.text for at, completion in batch})
                yield batch
                notes.append((ended, time.monotonic(), len(batch)))

        list(answers([warming]))  # starts the engine and warms it up
        report = run_evaluation(
            [System("a", "checkpoint", model=model, dtype=dtype)],
            Path(folder) / "e.jsonl",
            CONDITIONS,
            Path(folder) / "out",
            None,
            0,
            generate=generate,
            engine={},
            max_tokens=TOKENS,
        )
    behind = max(
        sum(n * ((ended <= at) - (kept <= at)) for ended, kept, n in notes) for at, _, _ in notes
    )
    return {
        "seconds": report["timings"]["generate"]["a"],
        "prompts": asked,
        "texts": [texts[at] for at in range(len(asked))],
        "ends": ends,
        "behind": behind,
    }


def bare(model: Path, run: dict[str, Any], dtype: str) -> dict[str, Any]:
    """The same prompts through vLLM's own `LLM.generate`, in a process of its own."""
    environment = vllm_environment() | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": vllm_environment().get("OMP_NUM_THREADS", str(physical_cores())),
    }
    settings = {"enforce_eager": True, "max_num_seqs": 128, "max_model_len": LENGTH}
    settings |= {"enable_prefix_caching": False, "disable_log_stats": True}
    with tempfile.TemporaryDirectory() as folder:
        job = {"model": str(model), "dtype": dtype, "settings": settings, "tokens": TOKENS}
        job |= {"ends": run["ends"], "prompts": run["prompts"]}
        (Path(folder) / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (Path(folder) / "bare.py").write_text(BARE, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, f"{folder}/bare.py", f"{folder}/job.json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def products_ratio(model: Path) -> float:
    """How many times as fast bare products of the feed-forward's shape are in bfloat16."""
    import torch

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    inner, outer = config["hidden_size"], config["intermediate_size"]
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        rows, weight = (torch.randn(n, inner).to(kind) for n in (LENGTH, outer))
        taken = []
        for _ in range(PRODUCTS):
            started = time.perf_counter()
            torch.nn.functional.linear(rows, weight)
            taken.append(time.perf_counter() - started)
        seconds[kind] = sorted(taken)[PRODUCTS // 2]
    return seconds[torch.float32] / seconds[torch.bfloat16]


def step_seconds(model: Path, examples: Sequence[Example], precision: str) -> float:
    """Seconds of one full-tuning step."""
    settings = nr.TuneSettings(
        method="sft",
        stage1_steps=0,
        steps=STEPS,
        batch_size=BATCH,
        dtype="float32",
        precision=precision,
    )
    tuned = nr.tune(model, None, list(examples[:16]), None, settings)
    return float(tuned.tuning_record["sft"]["seconds"]) / STEPS


def mined(model: Path, examples: Sequence[Example]) -> tuple[float, list[list[int]]]:
    """Seconds of mining as the recipe says, and the prompts of all contexts that it asked."""
    from neurorit.core.artifact import read_manifest
    from neurorit.mining.contexts import contexts
    from neurorit.pipelines.recipe import Recipe, find_recipe

    recipe = Recipe(find_recipe("smollm2"))
    settings = recipe.settings(nr.MiningSettings, "mine", {"samples": MINED})
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder) / "e.jsonl", examples)
        started = time.perf_counter()
        nr.mine(model, None, Path(folder) / "e.jsonl", settings, out=Path(folder) / "atlas")
        seconds = time.perf_counter() - started
        asked = read_manifest(Path(folder) / "atlas", "atlas").made["asked"]
    tokenizer, template = load_tokenizer(model), PromptTemplate.of_checkpoint(model)
    noise, layout = settings.noise_passages, settings.layout
    candidates = list(contexts(examples, ASKED * MINED, noise, 0, layout=layout))
    prompts = []
    for side, count in asked.items():
        for context in [c for c in candidates if c.side == side][:count]:
            ids = render_prompt(tokenizer, template, context.question, context.passages)
            prompts.append(ids)
    return seconds, prompts


def main() -> None:
    """Measure, and print the ratios."""
    parser = options(__doc__ or "")
    parser.add_argument("--model", type=Path, help="a checkpoint (else smollm2 is fetched)")
    parser.add_argument("--data", type=Path, help="a folder with SQuAD and its corpus")
    parser.add_argument(
        "--mine", action="store_true", help="also mine --model, which must read (a `reader`)"
    )
    parser.add_argument("--questions", type=int, default=16, help="of each condition, in bfloat16")
    given = parser.parse_args()
    bench = Bench(
        "real_model",
        {
            "questions": given.questions,
            "conditions": CONDITIONS,
            "max_tokens": TOKENS,
            "bfloat16": fast_bfloat16(),
            "data": "SQuAD" if given.data else "made up",
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or Path(folder) / "smollm2"
        if given.model is None:
            from neurorit.pipelines.model import fetch

            fetch("smollm2", model, "auto", False, False)
        examples = questions(given.data, given.questions)
        low = evaluated(model, examples, "bfloat16")
        count = len(low["prompts"])
        bench.add("eval, bfloat16", "answers", count / low["seconds"], "1/s")
        plain = bare(model, low, "bfloat16")
        bench.add("bare vLLM, bfloat16", "answers", count / plain["seconds"], "1/s")
        same = sum(a == b for a, b in zip(low["texts"], plain["texts"], strict=True))
        bench.add("eval, bfloat16", "answers equal to bare vLLM's", same / count, "share")
        full = evaluated(model, examples[: max(2, given.questions // 4)], "float32")
        fewer = len(full["prompts"])
        bench.add("eval, float32", "answers", fewer / full["seconds"], "1/s")
        lower = dict(zip(map(tuple, low["prompts"]), low["texts"], strict=True))
        pairs = zip(full["prompts"], full["texts"], strict=True)
        agree = sum(lower[tuple(ids)] == text for ids, text in pairs)
        bench.add("eval", "bfloat16's answers equal to float32's", agree / fewer, "share")
        bench.add("eval", "journal behind the engine", low["behind"], "answers")
        steps = {name: step_seconds(model, examples, name) for name in ("float32", "bf16")}
        for name, taken in steps.items():
            bench.add(f"full tuning, {name}", "a step", taken, "s")
        products = products_ratio(model)
        ratio = {}
        # A model that follows nothing cannot be mined: a reader, where --model is one.
        if given.mine:
            many = questions(given.data, ASKED * MINED)
            taken, prompts = mined(model, many)
            bench.add("mining", "contexts asked", len(prompts), "contexts")
            bench.add("mining, asking included", "all", taken, "s")
            asked = {"ends": low["ends"], "prompts": prompts}
            for dtype, name in (("bfloat16", ""), ("float32", "_float32")):
                once = bare(model, asked, dtype)["seconds"]
                bench.add(f"bare vLLM, {dtype}", "the same contexts answered once", once, "s")
                ratio[f"mine_vs_answering{name}"] = taken / once
    evaluation = (count / low["seconds"]) / (fewer / full["seconds"])
    autocast = steps["float32"] / steps["bf16"]
    bench.ratios |= {
        "eval_vs_vllm": plain["seconds"] / low["seconds"],
        "bf16_vs_float32_products": products,
        "bf16_vs_float32_eval": evaluation,
        "eval_of_products": evaluation / products,
        "autocast_vs_float32_step": autocast,
        "step_of_products": autocast / products,
        "journal_lag_answers": float(low["behind"]),
        **ratio,
    }
    bench.finish(given.json)


if __name__ == "__main__":
    main()
