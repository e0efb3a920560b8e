"""What a sentence-transformers model is, told from its parts and not from how a library prints it.

The fingerprint covers what decides a vector: every weight, how tokens are pooled, the length limit,
the prompts, the vocabulary, and the tokens of texts that tell tokenizers apart. A newer library
that computes the same has the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

# Upper case, accents, ligatures, digits, scripts without spaces, emoji, control characters, tags.
_PROBES = (
    "The Quick BROWN fox's 3rd jump, at 12:45 (p. 1,234.50)!",
    "Crème brûlée à la carte; Straße, İstanbul, naïve ﬁancée",
    "東京は日本の首都です。 北京市 서울 Москва القاهرة",
    "emoji 😀👩‍👩‍👧 and\ttabs\n\nlines   spaces",
    "[CLS] <s> </s> [MASK] antidisestablishmentarianism x_y-z http://a.b/c?d=e#f",
)
_CONFIG = ("model_type", "hidden_act", "num_attention_heads", "num_hidden_layers")
# Vectors are scaled to length one in any case, and the other two are told apart by what they hold.
_USUAL = ("Transformer", "Pooling", "Normalize")


def describe_model(model: Any) -> dict[str, Any]:
    """How a model makes a vector, for a person: architecture, pooling, length limit, prompts."""
    config = getattr(_transformer(model), "config", None)
    known = {name: getattr(config, name, None) for name in _CONFIG}
    pooling = [module for module in model if type(module).__name__ == "Pooling"]
    return {
        "architecture": {name: value for name, value in known.items() if value is not None},
        "modules": [type(module).__name__ for module in model],
        "pooling": [_pooling(module) for module in pooling],
        "normalized": True,
        "max_length": model.max_seq_length,
        "prompts": {name: words for name, words in (model.prompts or {}).items() if words},
    }


def fingerprint_encoder(model: Any) -> str:
    """SHA-256, hexadecimal, over what decides the vectors of a model."""
    digest = hashlib.sha256()
    told = describe_model(model)
    told["modules"] = [name for name in told["modules"] if name not in _USUAL]
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    digest.update(_tokenizer(model.tokenizer).encode())
    # By content and not by name: libraries rename the parts of a model.
    for weight in sorted(_weights(model)):
        digest.update(weight)
    return digest.hexdigest()


def _transformer(model: Any) -> Any:
    first = next(iter(model), None)
    return getattr(first, "auto_model", None) or getattr(first, "model", None)


def _pooling(module: Any) -> str:
    mode = getattr(module, "pooling_mode", None)
    if isinstance(mode, str):
        return mode
    return str(module.get_pooling_mode_str())


def _weights(model: Any) -> list[bytes]:
    found = []
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            rows = tensor.detach().cpu().contiguous()
            digest = hashlib.sha256(repr(tuple(rows.shape)).encode())
            digest.update(rows.view(-1).float().numpy().tobytes())
            found.append(digest.digest())
    return found


def _tokenizer(tokenizer: Any) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items()) if hasattr(tokenizer, "get_vocab") else []
    if callable(tokenizer):
        tokens = [tokenizer(text)["input_ids"] for text in _PROBES]
    else:  # of the tokenizers library itself, as models without a transformer have it
        tokens = [tokenizer.encode(text).ids for text in _PROBES]
    return json.dumps([vocabulary, tokens], default=str)
