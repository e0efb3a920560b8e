"""A tiny random Llama with its own tokenizer and chat template, made in a second by the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, USER, ASSISTANT, END, PAD = "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
CONTEXT = 4096
CHAT_TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|user|>' if message['role'] == 'user' else '<|assistant|>' }}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXT = (
    "Mira Solden was born in Karvel and works as a glassblower.",
    "Question: Where was Mira Solden born? Karvel",
    "Answer the question with a few words from the passages.",
)


def tiny_tokenizer() -> Any:
    """Byte-level BPE over a few sentences: it encodes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[PAD, BEGIN, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXT * 20, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def save_tiny_llama(
    directory: Path,
    *,
    seed: int = 0,
    hidden: int = 128,
    heads: int = 4,
    layers: int = 2,
    head_dim: int | None = None,
) -> Path:
    """Write a random Llama checkpoint (float32) and its tokenizer to `directory`.

    It never ends an answer by itself: how long one takes is what `max_tokens` says.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=head_dim or hidden // heads,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        # The head is tied to this: a row of zeros is never the likeliest of all tokens.
        model.get_input_embeddings().weight[tokenizer.eos_token_id] = 0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
