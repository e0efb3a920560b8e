"""The lab model's tokenizer: byte-level BPE trained on the world's own text, with a chat template.

Any text can be encoded (bytes are the fallback), so a person may type what they like.
"""

from __future__ import annotations

import random
from typing import Any

from neurorit.lab.world import World, ask, passages_of

BEGIN, USER, ASSISTANT, END, PAD = "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIAL = (PAD, BEGIN, USER, ASSISTANT, END)
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(world: World, *, size: int = 2048, people: int = 4000, seed: int = 0) -> Any:
    """A PreTrainedTokenizerFast of at most `size` tokens; `<|end|>` ends a turn, pad is its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(world, people, seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def _texts(world: World, people: int, seed: int) -> list[str]:
    rng = random.Random(f"tokenizer/{seed}")
    texts: list[str] = []
    for pair in rng.choices(world.pairs["train"], k=people):
        person = world.person(rng, pair)
        for i, (relations, text) in enumerate(passages_of(world, person, rng), start=1):
            texts.append(f"[{i}] {person.name}: {text}\n")
            relation = rng.choice(relations)
            value = person.facts[relation]
            texts.append(f"Question: {ask(world, person, relation, rng)}")
            texts += [f" {answer}" for answer in world.answers(relation, value)]
    texts += [" unknown", "Question: Reference: Answer: Yes No", "\nAnswer: Yes"] * (people // 4)
    return texts
