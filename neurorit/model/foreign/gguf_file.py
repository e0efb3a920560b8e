"""GGUF files: what one says of its model, checked before any weight is read.

llama.cpp's format holds a model's weights, mostly quantised, its tokenizer and its chat template in
one file. transformers reads them; what it would leave out in silence is found here.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput, MissingExtra

_ARRAYS = ("tokenizer.ggml.tokens",)
# Kinds of tokens that are found in a text as a whole: control tokens, and a user's.
_CONTROL, _USER_DEFINED = 3, 4
_NAMED = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
# How llama.cpp splits text for these vocabularies: every digit alone, then as GPT-2 does.
SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell"})
_AS_GPT2 = frozenset({"default", "gpt-2", "gpt2", "olmo", "mpt", "phi-2"})
# Those that llama.cpp begins every text of with the bos token, where the file does not say.
_BEGUN = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "midm-2.0", "tekken"})
_SENTENCEPIECE = "llama"  # llama.cpp's name of such a vocabulary
# Phi-3's control tokens take the white space behind them, but these.
_KEEP_SPACE = ("<unk>", "<s>", "<|endoftext|>")


@dataclass(frozen=True)
class GgufFile:
    """What a file says of itself.

    architecture: llama.cpp's name of it; metadata: all fields but long lists; tokens: the
    vocabulary in order; whole: id -> token that is never split; special: `bos`, `eos`, `unk`, `pad`
    -> id; weights: how many there are; tensors: name -> how many; plain: the type that unquantised
    weights are stored in, None where some are quantised; splits: the name of how text is split.
    """

    path: Path
    architecture: str
    metadata: Mapping[str, Any]
    tokens: tuple[str, ...]
    whole: Mapping[int, str]
    special: Mapping[str, int]
    tensors: Mapping[str, int]
    plain: str | None

    @property
    def weights(self) -> int:
        """How many weights it holds."""
        return sum(self.tensors.values())

    @property
    def template(self) -> str | None:
        """Its chat template."""
        return self.metadata.get("tokenizer.chat_template")

    @property
    def splits(self) -> str:
        """llama.cpp's name of how the tokenizer splits text; "" where that needs no name."""
        if self.metadata.get("tokenizer.ggml.model") != "gpt2":
            return ""
        return str(self.metadata.get("tokenizer.ggml.pre", "default"))

    @property
    def sentencepiece(self) -> bool:
        """Whether its vocabulary is one of SentencePiece."""
        return self.metadata.get("tokenizer.ggml.model") == _SENTENCEPIECE

    @property
    def begins(self) -> bool:
        """Whether a text begins with the bos token."""
        unsaid = self.sentencepiece or self.splits in _BEGUN
        return "bos" in self.special and self._said("add_bos_token", unsaid)

    @property
    def prepends(self) -> bool:
        """Whether a space is put before a text of SentencePiece, and behind a control token."""
        return self._said("add_space_prefix", True)

    def _said(self, key: str, unsaid: bool) -> bool:
        return bool(self.metadata.get(f"tokenizer.ggml.{key}", unsaid))

    @property
    def ends(self) -> list[int]:
        """Ids of the tokens that end an answer."""
        keys = ("eos_token_id", "eot_token_id", "eom_token_id")
        found = [self.metadata.get(f"tokenizer.ggml.{key}") for key in keys]
        return list(dict.fromkeys(int(one) for one in found if one is not None))


def read_gguf(path: Path) -> GgufFile:
    """Read a file's header. Raises BadInput, naming the file, for one that is broken or cut short,
    and MissingExtra where the package that reads GGUF is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtra("gguf", "gguf")
    from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

    try:
        header = GgufHeader.from_file(str(path))
        metadata, _ = read_gguf_metadata(str(path), _ARRAYS)
        tokens = tuple(metadata.pop("tokenizer.ggml.tokens", ()))
    except (ValueError, KeyError, IndexError, struct.error, OverflowError, MemoryError) as error:
        reason = str(error).replace(str(path), "it").splitlines()[0] if str(error) else "no header"
        raise BadInput(
            f"{path} is no whole GGUF file ({reason}); fetch it again, and compare its size with "
            "what the place it came from says"
        ) from error
    end = max((header.data_start + one.offset + one.nbytes for one in header.tensors), default=0)
    size = path.stat().st_size
    if not header.tensors or end > size:
        raise BadInput(
            f"{path} is cut short: its header names {len(header.tensors)} tensors up to byte "
            f"{end}, and it has {size} bytes; fetch it again"
        )
    kinds = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    special = {
        short: metadata.get(f"tokenizer.ggml.{long}_token_id") for long, short in _NAMED.items()
    }
    plain = str(header.dtype).removeprefix("torch.") if header.dtype is not None else None
    return GgufFile(
        path,
        header.architecture,
        metadata,
        tokens,
        {
            i: token
            for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind in (_CONTROL, _USER_DEFINED)
        },
        {name: int(i) for name, i in special.items() if i is not None},
        {one.name: prod(one.shape) for one in header.tensors},
        plain,
    )


def unknown_splits(file: GgufFile) -> str | None:
    """A line for a person where the file's way of splitting text is not known, else None."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = file.splits
    if not name or name in SINGLE_DIGITS | _AS_GPT2 or name in GGUF_PRE_TOKENIZER_SPLITS:
        return None
    return (
        f"{file.path.name} splits text as {name!r}, which is not known here: it is split as GPT-2 "
        "does, so some words may get other tokens than the model has learned"
    )


def make_tokenizer(read: Any, file: GgufFile) -> Any:
    """The file's tokenizer out of the one that transformers has read, mended where that errs.

    Text is split as the vocabulary was learned, also where digits stand alone, and gets the spaces
    and the beginning that it had; and no token is added that the file has not, for which the model
    has no row.
    """
    from tokenizers import Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = json.loads(read.backend_tokenizer.to_str())
    raw["added_tokens"] = [one for one in raw["added_tokens"] if one["id"] < len(file.tokens)]
    if file.sentencepiece and file.architecture == "phi3":
        for one in raw["added_tokens"]:
            one["rstrip"] = one["content"] not in _KEEP_SPACE
    if raw["model"].get("unk_token") not in raw["model"]["vocab"]:
        raw["model"]["unk_token"] = None
    backend: Any = Tokenizer.from_str(json.dumps(raw))
    if file.splits in SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    if file.sentencepiece and not file.architecture.startswith("gemma"):
        _set_spaces(backend, file.prepends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **({"add_bos_token": True} if file.begins else {}),
        chat_template=file.template,
        clean_up_tokenization_spaces=False,
        **{f"{name}_token": file.tokens[i] for name, i in file.special.items()},
    )


def _set_spaces(backend: Any, prepends: bool) -> None:
    """Write spaces as SentencePiece does; prepends: with one more wherever a text begins."""
    from tokenizers import decoders, normalizers

    before = [normalizers.Prepend("\u2581")] if prepends else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "\u2581")])
    backend.pre_tokenizer = None
    strip = [decoders.Strip(content=" ", left=1)] if prepends else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


def check_tokenizer(tokenizer: Any, file: GgufFile) -> None:
    """Compare a tokenizer with the file it came from; raises BadInput with the first difference."""
    for name, wanted in file.special.items():
        given = getattr(tokenizer, f"{name}_token_id")
        if given != wanted:
            raise BadInput(
                f"{file.path}: its {name} token is {wanted} ({file.tokens[wanted]!r}), and the "
                f"tokenizer read from it has {given}; take this model from a hub"
            )
    if len(tokenizer) != len(file.tokens):
        raise BadInput(
            f"{file.path}: it names {len(file.tokens)} tokens, and the tokenizer read from it has "
            f"{len(tokenizer)}; take this model from a hub"
        )
    used = [i for i, token in file.whole.items() if token in (file.template or "")]
    for i in dict.fromkeys([*file.special.values(), *file.ends, *used]):
        if i not in file.whole:
            continue  # an unknown-token of a byte-level vocabulary may be a plain one
        encoded = tokenizer.encode(file.tokens[i], add_special_tokens=False)
        if encoded != [i]:
            raise BadInput(
                f"{file.path}: its token {i} ({file.tokens[i]!r}) is read as {encoded}, so chats "
                "would be garbled; take this model from a hub"
            )
