"""What many tests share: examples with pools, a tiny tokenizer and Llama, one process of vLLM."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from neurorit.data.example_files import write_examples
from neurorit.data.examples import Example, Passage

if TYPE_CHECKING:
    from tests.shared_vllm import SharedWorker

# Beside another process a shell starts this one deaf to Ctrl-C, and servers would outlive it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What tests write need not outlive a power cut; waiting for the disk takes seconds of them all.
os.fsync = lambda descriptor: None

_ALL_SLOW = re.compile(r"^pytestmark = \[?pytest\.mark\.slow", re.MULTILINE)
_POOLS = (("gold", 1), ("distractor", 4), ("random", 4), ("counterfactual", 1))
CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Without the slow tests, files that hold no others are not imported either."""
    if config.option.markexpr != "not slow" or not collection_path.name.startswith("test_"):
        return None
    return bool(_ALL_SLOW.search(collection_path.read_text("utf-8"))) or None


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: each collection after a training would go through all of it."""
    if not any(item.get_closest_marker("slow") for item in session.items):
        from tests.forks import preload_little

        preload_little()
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def encoder_once() -> Iterator[None]:
    """MiniLM is read once a process; who changes it makes an own one."""
    from functools import lru_cache

    from neurorit.retrieval.encoders import load

    kept = pytest.MonkeyPatch()
    read = load._load
    once = lru_cache(lambda batch_size: read(load.DEFAULT, batch_size, {}))

    def given(name: str, batch_size: int, request: Mapping[str, Any]) -> Any:
        plain = name == load.DEFAULT and not request
        return once(batch_size) if plain else read(name, batch_size, request)

    kept.setattr(load, "_load", given)
    yield
    kept.undo()


def make_example(number: int) -> Example:
    """Question `number` with full pools; the gold passage alone holds the answer."""
    passages = tuple(
        Passage(
            id=f"{number}-{kind}-{i}",
            title=f"Person {number}",
            text=f"Person {number} was born in {'Town' if kind == 'gold' else kind}{number}x{i}.",
            kind=kind,
        )
        for kind, count in _POOLS
        for i in range(count)
    )
    return Example(
        f"q{number}", f"Where was Person {number} born?", (f"Town{number}x0", "the town"), passages
    )


@pytest.fixture
def examples() -> list[Example]:
    return [make_example(number) for number in range(6)]


@pytest.fixture
def examples_file(tmp_path: Path, examples: list[Example]) -> Path:
    path = tmp_path / "examples.jsonl"
    write_examples(path, examples)
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of a few thousand weights with a byte-level tokenizer and chat template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    raw: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        eos_token="<|end|>",
        pad_token="<|end|>",
        additional_special_tokens=special[1:],
    )
    tokenizer.chat_template = CHAT
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=1024,
            eos_token_id=0,
            pad_token_id=0,
            bos_token_id=None,
        )
    )
    out = tmp_path_factory.mktemp("tiny") / "model"
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def vllm_worker() -> Iterator[SharedWorker]:
    from tests.shared_vllm import SharedWorker

    worker = SharedWorker()
    yield worker
    worker.end()


@pytest.fixture
def shared_vllm(vllm_worker: SharedWorker, monkeypatch: pytest.MonkeyPatch) -> SharedWorker:
    """All offline engines of the test use one process, which those of other tests use too."""
    monkeypatch.setattr(
        "neurorit.serving.backends.offline._Worker", lambda log, threads: vllm_worker
    )
    return vllm_worker
