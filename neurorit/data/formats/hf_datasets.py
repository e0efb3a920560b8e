"""Data sets by name, or from folders that `datasets` saved, as rows."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput

PREFIX = "hf:"
_SPEC = re.compile(r"hf:(?P<name>[^:@]+)(?::(?P<configuration>[^:@]+))?(?:@(?P<split>[^:@]+))?")


def is_named(source: Path | str) -> bool:
    """True for `hf:NAME[:CONFIGURATION][@SPLIT]`, and for a folder that `save_to_disk` wrote."""
    return str(source).startswith(PREFIX) or is_saved(Path(source))


def is_saved(folder: Path) -> bool:
    """True for a folder that `save_to_disk` wrote, and not for any that holds a state.json."""
    if (folder / "dataset_dict.json").is_file():
        return True
    return all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))


def named_rows(source: Path | str) -> Any:
    """The rows that a source names (`is_named`); the split is `train` where none is named."""
    if not str(source).startswith(PREFIX):
        return load_rows(str(source), None, "train")
    found = _SPEC.fullmatch(str(source))
    if found is None:
        raise BadInput(f"{source}: write hf:NAME, hf:NAME:CONFIGURATION or hf:NAME@SPLIT")
    return load_rows(found["name"], found["configuration"], found["split"] or "train")


def load_rows(source: str, configuration: str | None, split: str) -> Any:
    """Rows of a split: a hub name, a folder that `save_to_disk` wrote, or one of data files.

    They are mapped from the disk, not held. Raises BadInput when there are none.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        if is_saved(Path(source)):
            saved = load_from_disk(source)
            return saved[split] if isinstance(saved, DatasetDict) else saved
        return load_dataset(source, configuration, split=split)
    except Exception as error:  # `datasets` raises many kinds, for what is not there or is broken
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{source} (split {split}): cannot be read: {reason}") from error


def rows_digest(rows: Any) -> str:
    """SHA-256 over the rows' own fingerprint and their number."""
    return hashlib.sha256(f"{rows._fingerprint} {len(rows)}".encode()).hexdigest()
