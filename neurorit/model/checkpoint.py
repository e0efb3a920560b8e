"""Where a checkpoint is: a folder here, or a hub's, fetched into the hub's own cache.

A hub's model is named `owner/name` or `owner/name@revision`. What is used is the snapshot of one
commit, a folder like any other, so that what was made of another commit is never taken for it.
It imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from neurorit.core.artifact import hash_file
from neurorit.core.errors import BadInput

_HUB = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(?:@[\w./-]+)?")
# What loading needs: weights in safetensors alone, and not the second copy that Mistral ships.
_WEIGHTS = "*.safetensors"
_WANTED = ["*.json", _WEIGHTS, "*.model", "*.txt", "*.jinja", "*.py"]
_UNWANTED = ["consolidated*", "original/*", "onnx/*"]
ADAPTER = "adapter_config.json"  # of a PEFT folder


def checkpoint_dir(model: str | Path, *, weights: bool = True) -> Path:
    """The folder of a checkpoint; of a hub's, that of its snapshot, fetched where it is missing.

    weights: False leaves a hub's weights there, for what needs the configuration and tokenizer
    alone. What is neither a folder nor a hub's name is returned as it is. Raises BadInput for a
    hub's name that cannot be fetched and is not in the cache, and for a GGUF or PEFT folder.
    """
    folder = Path(model)
    refuse_other_forms(folder)
    if folder.is_dir() or not _HUB.fullmatch(str(model)) or folder.parent.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    name, _, revision = str(model).partition("@")
    try:
        found = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=[wanted for wanted in _WANTED if weights or wanted != _WEIGHTS],
            ignore_patterns=_UNWANTED,
        )
    except Exception as error:  # the hub's client and its transport raise many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"‹model={model}›: no such folder, and it cannot be had from the hub: {reason}"
        ) from error
    return Path(found)


def refuse_other_forms(model: str | Path) -> None:
    """Raise BadInput, naming the command that imports it, for a GGUF file or a PEFT folder."""
    folder = Path(model)
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return
    found = gguf_of(folder)
    form = "GGUF" if found is not None and found.suffix == ".gguf" else ""
    form = "PEFT adapter" if (folder / ADAPTER).is_file() else form
    if form:
        raise BadInput(
            f"{model} is a {form}: make a checkpoint of it with `neurorit-rag model import {model} "
            "--out DIR`"
        )


def gguf_of(source: str | Path) -> Path | None:
    """The GGUF file that a path names, or the one in a folder without another model; None if none.

    Raises BadInput for a folder with several.
    """
    place = Path(source)
    if place.is_file():
        return place
    files = sorted(place.glob("*.gguf")) if place.is_dir() else []
    if not files or any(place.glob("*.safetensors")):
        return None
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise BadInput(f"{place} holds {len(files)} GGUF files ({names}): name one of them")
    return files[0]


def checkpoint_name(model: str | Path) -> str:
    """What a checkpoint is called: its folder's name, or its name on the hub."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else folder.name.partition("@")[0]


def weights_digest(model: str | Path) -> str:
    """SHA-256 over a checkpoint's weight files."""
    files = sorted(checkpoint_dir(model).glob("*.safetensors"))
    parts = [f"{path.name} {hash_file(path)}" for path in files] or [str(model)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
