"""Tiny models of random weights, one of each architecture that is supported."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)

SIZE = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "olmo",
    "olmo2",
    "phi3",
    "gpt_neox",
)


# What gives the layers of a type that has one a window of the last tokens.
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {},
    "phi3": {},
    "gemma2": {},
    "gemma3_text": {"sliding_window_pattern": 2},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
}


def tiny(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    extra = {"head_dim": 8} if kind.startswith(("gemma", "qwen3")) else {}
    config = AutoConfig.for_model(kind, **{**SIZE, **extra, **more})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    # Weights far from zero, so that probabilities move.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    return model


def tiny_seeing() -> Any:
    """A Gemma 3 that also sees: its language model is one part of it."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(
        text_config={**SIZE, "head_dim": 8}, vision_config=vision, mm_tokens_per_image=4
    )
    return Gemma3ForConditionalGeneration(config).eval()
