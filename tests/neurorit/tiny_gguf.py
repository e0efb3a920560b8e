"""A tiny model and its tokenizer as llama.cpp keeps them, written by its own package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf

_NAMES = {
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_OF_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
# Kinds of tokens: NORMAL, UNKNOWN, CONTROL.
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    architecture: str = "llama",
    splits: str = "default",
    end: int | None = -1,
    template: str | None = "",
    quantised: bool = False,
    more: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    pieces: Sequence[tuple[str, int]] | None = None,
) -> Path:
    """Write a model's file. end: another end token, None for none; template: another chat template,
    None for none; more: further fields; tensors: further tensors; pieces: SentencePiece's tokens
    with their kinds, the likelier first, in place of the tokenizer's.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if pieces is None:
        raw = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        tokens = [token for token, _ in sorted(raw["vocab"].items(), key=lambda item: item[1])]
        whole = set(tokenizer.added_tokens_decoder)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(splits)
        writer.add_token_list(tokens)
        writer.add_token_types([CONTROL if i in whole else NORMAL for i in range(len(tokens))])
        writer.add_token_merges([" ".join(pair) for pair in raw["merges"]])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([piece for piece, _ in pieces])
        writer.add_token_scores([-float(i) for i in range(len(pieces))])
        writer.add_token_types([kind for _, kind in pieces])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    if end is not None:
        writer.add_eos_token_id(tokenizer.eos_token_id if end < 0 else end)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if template is not None:
        writer.add_chat_template(template or tokenizer.chat_template)
    for name, value in (more or {}).items():
        add = {str: writer.add_string, bool: writer.add_bool, float: writer.add_float32}
        add.get(type(value), writer.add_uint32)(name, value)
    gemma = architecture.startswith("gemma")
    for name, tensor in model.state_dict().items():
        weights = tensor.detach().float().numpy()
        if gemma and "norm" in name:
            weights = weights + 1
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if (
                part in name and not gemma
            ):  # llama.cpp pairs neighbouring coordinates in its rotations
                split = weights.reshape(count, 2, -1, weights.shape[1])
                weights = split.swapaxes(1, 2).reshape(weights.shape)
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        named = _gguf_name(name, _NAMES | _OF_GEMMA if gemma else _NAMES)
        if quantised and weights.ndim == 2:
            packed = gguf.quantize(weights, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(named, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(named, weights.copy())
    for name, extra in (tensors or {}).items():
        writer.add_tensor(name, extra)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str, names: dict[str, str]) -> str:
    ends = {"lm_head": "output", "model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    if (end := name.removesuffix(".weight")) in ends:
        return f"{ends[end]}.weight"
    _, _, layer, *rest = name.split(".")
    return f"blk.{layer}.{names['.'.join(rest[:-1])]}.weight"
