"""Models from elsewhere, made a checkpoint that mining, tuning, serving and evaluation take.

A GGUF file is dequantised, a PEFT adapter merged into its base, and another checkpoint, a hub's or
a folder's, is written in the type that is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurorit.core.artifact import Manifest, check_place, hash_file, writing
from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import ADAPTER, checkpoint_dir, gguf_of, weights_digest
from neurorit.model.feed_forward import check_tunable, check_type
from neurorit.model.foreign.gguf_file import (
    GgufFile,
    check_tokenizer,
    make_tokenizer,
    read_gguf,
    unknown_splits,
)
from neurorit.model.load import load_model, load_tokenizer, make_savable
from neurorit.model.memory import check_room
from neurorit.model.precision import stored_dtype
from neurorit.model.prompts import TEMPLATE_FILE, PromptTemplate, Wording, end_token_id

DTYPES = ("auto", "float32", "bfloat16", "float16")
NO_TEMPLATE = "none"
# Weights in memory, in their number in the type asked for: those read and those of the model, and
# one tensor in float32.
_COPIES = 2.2
# What the file says, and what a configuration without it would get wrong in silence.
_SAME = ("attn_logit_softcapping", "final_logit_softcapping")
# Layers of the Gemma 2 and 3 whose attention is scaled by their width; llama.cpp knows them so too.
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}


def import_model(
    source: str | Path,
    out: Path,
    *,
    dtype: str = "auto",
    base: str | Path | None = None,
    chat_template: str | Path | None = None,
    wording: Wording = "as-it-is",
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
    origin: str | None = None,
) -> dict[str, Any]:
    """Write a model from elsewhere to `out` as a checkpoint with its tokenizer and chat template.

    source: a GGUF file, or a folder with one; a PEFT folder; a folder or a hub's name of a
    checkpoint. dtype: one of DTYPES; auto is the stored one, float32 where it was quantised. base:
    of a PEFT adapter (None: the one that it names). chat_template: a file to take it from, or
    `none` for a base model that is asked without one. wording: of the prompts that it is asked with
    from then on (`PromptTemplate.worded`). say: is told what a person should know.
    origin: where the source came from, for the manifest. Returns the manifest's facts.

    Raises BadInput, before anything is written, for what cannot be read, cannot be tuned, or has no
    end token, no template or no room.
    """
    if dtype not in DTYPES:
        raise BadInput(f"‹dtype={dtype}›: it is one of {', '.join(DTYPES)}")
    out = Path(out)
    check_place(out, overwrite)
    tell = say or (lambda text: None)
    template = _template(chat_template)
    file, adapter = gguf_of(source), Path(source) / ADAPTER
    if file is not None:
        read = _from_gguf(file, out, dtype, tell)
    elif adapter.is_file() and not _is_checkpoint(Path(source)):
        read = _from_peft(Path(source), base, out, dtype, tell)
    else:
        read = _from_checkpoint(checkpoint_dir(source), out, dtype)
    model, tokenizer = read.model, read.tokenizer
    if template is not None:
        tokenizer.chat_template = template or None
    elif not tokenizer.chat_template:
        raise BadInput(
            f"{source}: its tokenizer has no chat template; name a file that holds one with "
            f"‹chat_template›, or ‹chat_template={NO_TEMPLATE}› for a base model, which is then "
            "asked with plain text"
        )
    try:
        end = end_token_id(tokenizer)
    except BadInput as error:
        raise BadInput(
            f"{source}: its tokenizer names no end-of-text token, so no answer would ever end; "
            "take the model from a place that keeps it"
        ) from error
    made = {"source": origin or str(source), **read.facts} | {
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "end_token": tokenizer.convert_ids_to_tokens(end),
    }
    make_savable(model)
    manifest = Manifest(
        kind="checkpoint",
        command="neurorit-rag model import",
        settings={
            "dtype": dtype,
            "chat_template": str(chat_template) if chat_template else None,
            "wording": wording,
        },
        inputs={"source": read.digest},
        made=made,
    )
    with writing(out, manifest, overwrite=overwrite) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if read.prompt is not None or wording != "as-it-is":
            kept = PromptTemplate.of_checkpoint(read.prompt) if read.prompt else PromptTemplate()
            kept.worded(wording).save(folder)
    return made


@dataclass(frozen=True)
class _Read:
    """A model that was read.

    digest: of its source; prompt: a folder with the wording of prompts that it was tuned with.
    """

    model: Any
    tokenizer: Any
    facts: dict[str, Any]
    digest: str
    prompt: Path | None = None


def _from_gguf(path: Path, out: Path, dtype: str, say: Callable[[str], None]) -> _Read:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    file = read_gguf(path)
    kind = file.plain or "float32" if dtype == "auto" else dtype
    size = file.weights * getattr(torch, kind).itemsize
    check_room(
        f"{path}: {file.weights / 1e6:.0f} million weights in {kind}",
        out,
        memory=int(_COPIES * size),
        disk=size,
        way_out="take fewer bytes a weight with ‹dtype=bfloat16›"
        if kind == "float32"
        else "take a smaller model",
    )
    where: dict[str, Any] = {"gguf_file": path.name}
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(path.parent, **where)
        check_type(config.model_type, str(path))
        _check_rotary(file, config)
        _set_attention_scale(file, config)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent,
            **where,
            config=config,
            dtype=getattr(torch, kind),
            quantization_config=GgufConfig(dequantize=True),
        ).eval()
    except (OSError, ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path}: a GGUF of architecture {file.architecture!r} that cannot be read: {reason}"
        ) from error
    finally:
        logging.set_verbosity(told)
    _check_weights(file, model)
    model.config.__dict__.pop("_model_name_or_path", None)
    unknown = unknown_splits(file)
    if unknown:
        say(unknown)
    tokenizer = make_tokenizer(tokenizer, file)
    check_tokenizer(tokenizer, file)
    tokenizer.model_max_length = model.config.max_position_embeddings
    beside = path.parent / "generation_config.json"
    if beside.is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(path.parent)
    elif len(file.ends) > 1:  # a chat's turn ends with another token than a text
        model.generation_config.eos_token_id = file.ends
    quantised = "" if file.plain else ", dequantised"
    say(f"{path.name}: {file.architecture}, {file.weights / 1e6:.0f} million weights{quantised}")
    facts = {"form": "gguf", "file": path.name, "architecture": file.architecture}
    if unknown:
        facts["warning"] = unknown
    return _Read(model, tokenizer, facts, hash_file(path))


def _check_rotary(file: GgufFile, config: Any) -> None:
    """Refuse what the file says of positions and attention, and the configuration would not."""
    prefix = file.architecture
    scaling = file.metadata.get(f"{prefix}.rope.scaling.type", "none")
    known = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if scaling != "none" and known == "default":
        raise BadInput(
            f"{file.path}: its positions are scaled ({scaling}), which is lost in reading GGUF, "
            "and the model would be another one; take it from a hub"
        )
    window = file.metadata.get(f"{prefix}.attention.sliding_window")
    if window and getattr(config, "sliding_window", None) != window:
        raise BadInput(
            f"{file.path}: it attends to the last {window} tokens, which is lost in reading GGUF; "
            "take the model from a hub"
        )
    for name in _SAME:
        wanted = file.metadata.get(f"{prefix}.{name}")
        given = getattr(config, name, None)
        if wanted is not None and (given is None or abs(given - wanted) > 1e-3):
            raise BadInput(
                f"{file.path}: its {name} is {wanted:g}, which is lost in reading GGUF; take the "
                "model from a hub"
            )


def _set_attention_scale(file: GgufFile, config: Any) -> None:
    """Scale Gemma's attention as llama.cpp does: the file does not say it."""
    if not hasattr(config, "query_pre_attn_scalar"):
        return
    by_width = _SCALED_BY_WIDTH.get(file.architecture) == config.num_hidden_layers
    width = config.hidden_size // config.num_attention_heads
    config.query_pre_attn_scalar = width if by_width else config.head_dim


def _check_weights(file: GgufFile, model: Any) -> None:
    """What is read is neither more nor less than what the file holds."""
    read = sum(parameter.numel() for parameter in model.parameters())
    if read == file.weights:
        return
    # llama.cpp keeps the scaling of positions of some models as a tensor.
    extra = [name for name in file.tensors if name.startswith("rope_")]
    named = f" ({', '.join(extra)} is not read)" if extra else ""
    raise BadInput(
        f"{file.path}: it holds {file.weights} weights, and a {file.architecture} of its shape has "
        f"{read}{named}; reading it would give another model: take it from a hub"
    )


def _from_peft(
    folder: Path, base: str | Path | None, out: Path, dtype: str, say: Callable[[str], None]
) -> _Read:
    from peft import PeftConfig

    if not (folder / "adapter_model.safetensors").is_file():
        raise BadInput(
            f"{folder}: no adapter_model.safetensors (pickled weights are not read); save the "
            "adapter again with a newer PEFT"
        )
    try:
        settings = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise BadInput(f"{folder / ADAPTER}: {str(error).splitlines()[0]}") from error
    named = base or settings.base_model_name_or_path
    if not named:
        raise BadInput(f"{folder / ADAPTER} names no base model; name it with ‹base›")
    place = checkpoint_dir(named)
    if not (place / "config.json").is_file():
        raise BadInput(f"{folder}: its base {named} is not there; name its folder with ‹base›")
    check_tunable(place)
    stored = stored_dtype(place)
    # Merged in float32, whatever is written.
    _check_stored_room(place, out, copies=1.5 if stored == "float32" else 3)
    model, tokenizer = load_model(place, dtype="float32", device="cpu")
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = load_tokenizer(folder)
    try:
        merged = _merged(model, folder)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, UserWarning) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            f"{folder}: it cannot be merged into {named}: {reason}; name its own base with ‹base›"
        ) from error
    merged = merged.to(getattr(torch, stored if dtype == "auto" else dtype)).eval()
    kind = str(getattr(settings.peft_type, "value", settings.peft_type))
    say(f"{folder}: {kind} merged into {named}")
    facts = {"form": "peft", "adapter": kind, "base": str(named)}
    facts["base_sha256"] = weights_digest(place)
    digest = hash_file(folder / "adapter_model.safetensors")
    return _Read(merged, tokenizer, facts, digest, _prompt(folder) or _prompt(place))


def _merged(model: Any, folder: Path) -> Any:
    """A model with an adapter merged into it.

    Where the output shares the embedding's weights and the adapter is of either, it gets weights of
    its own: what is merged into one would else change both.
    """
    from peft import PeftModel

    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    with warnings.catch_warnings():
        # PEFT goes on without them, and the base would come out as it went in.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings")
        tuned = PeftModel.from_pretrained(model, str(folder))
        wrapped = (model.get_input_embeddings(), model.get_output_embeddings()) != (first, last)
        if wrapped and first.weight is last.weight:
            last.weight = torch.nn.Parameter(last.weight.detach().clone())
            model.config.tie_word_embeddings = False
        return tuned.merge_and_unload(safe_merge=True)


def _from_checkpoint(folder: Path, out: Path, dtype: str) -> _Read:
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"{folder}: neither a GGUF file, a PEFT folder nor a checkpoint (it has no config.json)"
        )
    if not list(folder.glob("*.safetensors")):
        raise BadInput(
            f"{folder}: it holds no safetensors weights (pickled ones are not read); convert them, "
            "or import its GGUF file"
        )
    check_tunable(folder)
    _check_stored_room(folder, out)
    model, tokenizer = load_model(folder, dtype=dtype, device="cpu")
    facts = {"form": "checkpoint"}
    return _Read(model, tokenizer, facts, weights_digest(folder), _prompt(folder))


def _prompt(folder: Path) -> Path | None:
    return folder if (folder / TEMPLATE_FILE).is_file() else None


def _check_stored_room(folder: Path, out: Path, copies: float = 1.2) -> None:
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    memory = int(copies * size)
    check_room(str(folder), out, memory=memory, disk=size, way_out="take a smaller model")


def _is_checkpoint(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def _template(given: str | Path | None) -> str | None:
    """The text of a chat template; "" for none at all, None where nothing was asked for."""
    if given is None or str(given) == NO_TEMPLATE:
        return None if given is None else ""
    try:
        text = Path(given).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"‹chat_template={given}›: {error}") from error
    if not text.strip():
        raise BadInput(f"‹chat_template={given}›: the file is empty")
    return text
