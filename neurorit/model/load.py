"""Checkpoints read into memory: the model, its tokenizer, on the device that a setting names."""

from __future__ import annotations

import gc
import os
import re
from pathlib import Path
from typing import Any

import torch

from neurorit.core.cores import physical_cores
from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import checkpoint_dir
from neurorit.model.precision import stored_dtype
from neurorit.model.prompts import PromptTemplate

# Models that also see, by type: where their language model's weights stand, and where they stand in
# a model of text alone, which is what is loaded, tuned and written.
_TEXT_INSIDE = {
    "gemma3": {
        r"^language_model\.model\.": "model.",
        r"^language_model\.lm_head\.": "lm_head.",
        r"^model\.language_model\.": "model.",
    }
}


def load_model(
    path: str | Path,
    *,
    dtype: str = "float32",
    device: str = "auto",
    attention: str = "sdpa",
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """A causal language model in evaluation mode, and its tokenizer.

    path: a checkpoint directory or a hub name. dtype: auto is the type that it is stored in.
    device: auto takes a GPU where there is one; weights are read straight to it. Raises BadInput
    when it cannot be loaded.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    told = logging.get_verbosity()
    folder = checkpoint_dir(path)
    # A lone name may be a hub's; longer ones are paths.
    if len(folder.parts) > 1 and not folder.is_dir():
        raise BadInput(f"‹model={path}›: no such folder")
    place = device_named(device)
    limit_threads()
    try:
        tokenizer = _tokenizer(folder, trust_remote_code)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        inside = _TEXT_INSIDE.get(config.model_type)
        if inside is not None:
            config = config.text_config
            logging.set_verbosity_error()  # the weights of the other parts are not missed
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            key_mapping=inside,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map={"": place},
            attn_implementation=attention,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"‹model={path}›: no checkpoint could be loaded there: {reason}") from error
    finally:
        logging.set_verbosity(told)
    if inside is not None:
        model._weight_conversions = None  # else it would be written under the names it was read by
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the fused kernel leaves the soft cap out
    PromptTemplate.of_checkpoint(folder).keep_with(model)
    return model.eval(), tokenizer


def laid_out(
    path: str | Path,
    *,
    dtype: str = "auto",
    attention: str = "sdpa",
    layers: range | None = None,
) -> tuple[Any, Any]:
    """As `load_model`, without the weights: these stand on torch's meta device.

    What is no weight, such as the table of positions, is real. dtype: auto is the type that it is
    stored in. layers: of these layers alone (None: of all). Raises BadInput when there is no
    checkpoint.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder = checkpoint_dir(path)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        config = config.text_config if config.model_type in _TEXT_INSIDE else config
        kind = getattr(torch, dtype_named(folder, dtype))
        if layers is not None:
            _cut(config, layers)
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(
                config, dtype=kind, attn_implementation=attention
            )
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"‹model={path}›: no checkpoint could be loaded there: {reason}") from error
    model.tie_weights()
    if getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")
    return model.eval(), tokenizer


def without_weights(folder: Path, dtype: str, layers: range | None = None) -> Any:
    """A model from its config.json alone, for plans: call it where no weights are made.

    layers: of these alone (None: of all). Raises BadInput when there is no configuration.
    """
    from transformers import AutoModelForCausalLM

    config = _configuration(folder)
    if layers is not None:
        _cut(config, layers)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))


def dtype_named(folder: Path, dtype: str) -> str:
    """The type's name; auto is the one that the checkpoint is stored in."""
    return stored_dtype(folder) if dtype == "auto" else dtype


def layer_count(folder: Path) -> int:
    """How many layers a checkpoint has, by config.json."""
    return int(_configuration(folder).num_hidden_layers)


def _configuration(folder: Path) -> Any:
    """Of the language model, where a model also sees."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"‹model={folder}›: no configuration there: {error}") from error
    return config.text_config if config.model_type in _TEXT_INSIDE else config


def _cut(config: Any, layers: range) -> None:
    """Make it the configuration of a model of these layers alone."""
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in layers]


def text_name(name: str) -> str:
    """What a checkpoint's weight is called in the model that is loaded from it."""
    for inside in _TEXT_INSIDE.values():
        for form, instead in inside.items():
            name = re.sub(form, instead, name)
    return name


def limit_threads() -> None:
    """One thread a physical core for matrix products, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > physical_cores():
        torch.set_num_threads(physical_cores())


def release() -> None:
    """Give the GPU memory of models that nothing holds any more back, for another process."""
    gc.collect()  # a Trainer and its model hold each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def make_savable(model: Any) -> None:
    """Mend what would make `save_pretrained` refuse the model, before time is spent on it.

    Some checkpoints name a temperature and do not say that they sample. Raises BadInput where a
    generation config stays at odds with itself.
    """
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    try:
        config.validate(strict=True)
        return
    except ValueError:
        config.do_sample = True
    try:
        config.validate(strict=True)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"the model's generation_config.json cannot be saved again: {reason}"
        ) from error


def load_tokenizer(path: str | Path, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a checkpoint; raises BadInput when it cannot be loaded."""
    try:
        return _tokenizer(checkpoint_dir(path, weights=False), trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInput(f"‹model={path}›: no tokenizer could be loaded there: {reason}") from error


def _tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    # Mistral's own, taken where vLLM brought its package, knows neither templates nor places.
    own = {"mistral_format": False} if (folder / "tekken.json").is_file() else {}
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, **own)


def device_named(name: str) -> torch.device:
    """The device by its setting; torchrun and accelerate give every process a GPU of its own."""
    own = os.environ.get("LOCAL_RANK", "0")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{own}" if name == "cuda" else name)
    except RuntimeError as error:
        raise BadInput(f"device {name}: write auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and device.index >= torch.cuda.device_count():
        raise BadInput(f"device {device}: this process sees {torch.cuda.device_count()} GPUs")
    return device
