"""A LoRA folder that vLLM is to serve beside its base: checked before vLLM sees it.

vLLM itself finds out about weights of another shape in the middle of a batch, where it ends.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurorit.core.artifact import MANIFEST, hash_file
from neurorit.core.errors import BadInput
from neurorit.model.checkpoint import weights_digest

# The ranks that vLLM makes room for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FACTOR = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")
# What peft can write and a plain LoRA of vLLM cannot be.
_FOREIGN = ("use_dora", "modules_to_save", "lora_bias", "alora_invocation_tokens")


@dataclass(frozen=True)
class Lora:
    """An adapter: its name for clients, its folder, its largest rank, a digest of its files."""

    name: str
    directory: Path
    rank: int
    digest: str

    @property
    def served(self) -> str:
        """Its name inside vLLM, which keeps keys and values by name: other weights, another one."""
        return f"{self.name}@{self.digest[:12]}"

    def unchanged(self) -> bool:
        """Whether the folder still holds what was read."""
        return _digest(self.directory) == self.digest


def read_lora(name: str, directory: Path, model_dir: Path, parameter: str = "adapter") -> Lora:
    """Check a LoRA folder against its base; parameter: what named it, for messages.

    Raises BadInput for a name that cannot stand in a request, a folder that is no LoRA, and one
    of another base or of another form than vLLM serves.
    """
    directory = Path(directory).absolute()
    where = f"‹{parameter}={name}={directory}›"
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{where}: a name is of letters, digits, `.`, `_` and `-`, at most 100 of them"
        )
    if not directory.is_dir():
        raise BadInput(f"{where}: no such folder")
    manifest = _json(directory / MANIFEST, where) if (directory / MANIFEST).is_file() else {}
    if manifest.get("kind") == "adapter":
        raise BadInput(
            f"{where}: a neuron adapter, which vLLM takes as a LoRA: write it as one with "
            "`neurorit-rag merge --as-lora`"
        )
    missing = [file for file in (CONFIG, WEIGHTS) if not (directory / file).is_file()]
    if missing:
        raise BadInput(f"{where}: no LoRA of peft, since it has no {' and no '.join(missing)}")
    config = _json(directory / CONFIG, where)
    foreign = [key for key in _FOREIGN if config.get(key)]
    if config.get("peft_type") != "LORA" or foreign or config.get("bias", "none") != "none":
        what = ", ".join(foreign) or f"peft_type {config.get('peft_type')}, bias"
        raise BadInput(f"{where}: vLLM serves plain LoRAs only, without {what}")
    base = (manifest.get("inputs") or {}).get("model")
    if base is not None and base not in _digests(model_dir):
        raise BadInput(f"{where}: made for another base than {model_dir}")
    rank = _checked(_shapes(directory / WEIGHTS, where), _base_shapes(model_dir), where, model_dir)
    return Lora(name, directory, max(rank, int(config.get("r") or 1)), _digest(directory))


def parse_named(given: str, parameter: str = "adapter") -> tuple[str, Path]:
    """NAME=DIR as its two parts; raises BadInput for another form."""
    name, equals, place = given.partition("=")
    if not (name and equals and place):
        raise BadInput(f"‹{parameter}={given}›: write NAME=DIR")
    return name, Path(place)


def rank_limit(ranks: Iterable[int]) -> int:
    """vLLM's limit for these ranks; raises BadInput above the largest."""
    most = max(ranks, default=RANKS[2])
    for limit in RANKS:
        if most <= limit:
            return limit
    raise BadInput(f"a LoRA of rank {most}: vLLM serves up to {RANKS[-1]}")


def _checked(
    factors: Mapping[str, tuple[int, ...]],
    base: Mapping[str, tuple[int, ...]],
    where: str,
    model_dir: Path,
) -> int:
    """The largest rank of the factors, each of which fits onto a matrix of the base."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor, shape in factors.items():
        found = _FACTOR.match(tensor)
        if not found or len(shape) != 2:
            raise BadInput(f"{where}: {tensor} is no factor of a LoRA that vLLM serves")
        pairs.setdefault(found[1], {})[found[2]] = shape
    if not pairs:
        raise BadInput(f"{where}: holds no factors")
    for module, pair in pairs.items():
        if set(pair) != {"A", "B"} or pair["A"][0] != pair["B"][1]:
            raise BadInput(f"{where}: the factors of {module} do not belong together")
        weight = base.get(f"{module}.weight")
        if base and weight is None:
            raise BadInput(f"{where}: {_lacking(module, base, model_dir)}")
        if weight is not None and weight != (pair["B"][0], pair["A"][1]):
            made = f"{pair['B'][0]} x {pair['A'][1]}"
            has = " x ".join(map(str, weight))
            raise BadInput(
                f"{where}: made for another base, whose {module} is {made} and not {has}"
            )
    return max(pair["A"][0] for pair in pairs.values())


def _lacking(module: str, base: Iterable[str], model_dir: Path) -> str:
    """What is wrong where a base has no such matrix."""
    from neurorit.model.load import text_name

    if f"{module}.weight" not in map(text_name, base):
        return f"made for another base, which has a {module}"
    return (
        f"made for the language model of {model_dir}, whose matrices have other names beside what "
        f"sees: serve the language model alone, which `neurorit-rag model import {model_dir} "
        "--out DIR` writes"
    )


def _digests(model_dir: Path) -> set[str]:
    """Of a base's weights, and of those that they were imported from as they are."""
    found = {weights_digest(model_dir)}
    place = Path(model_dir) / MANIFEST
    told = _json(place, str(model_dir)) if place.is_file() else {}
    alike = (told.get("settings") or {}).get("dtype") == "auto"
    if alike and (told.get("made") or {}).get("form") == "checkpoint":
        found.add(told["inputs"]["source"])
    return found


def _base_shapes(model_dir: Path) -> dict[str, tuple[int, ...]]:
    """Tensor -> shape of a checkpoint; empty where its weights are in another form."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(Path(model_dir).glob("*.safetensors")):
        shapes |= _shapes(file, str(file))
    return shapes


def _shapes(file: Path, where: str) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{where}: {file.name} cannot be read ({error})") from error


def _json(file: Path, where: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise BadInput(f"{where}: {file.name} cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise BadInput(f"{where}: {file.name} is no JSON object")
    return found


def _digest(directory: Path) -> str:
    """SHA-256 of what vLLM reads of a folder; empty where that is gone."""
    try:
        parts = [hash_file(directory / name) for name in (CONFIG, WEIGHTS)]
    except OSError:
        return ""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
