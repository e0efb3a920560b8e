"""Where real text and questions lie, for benchmarks that need what nobody here wrote."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "NEURORIT_DATA"
_FILES = ("corpus", "nq-dev", "squad-dev", "squad-train")


def data_option(parser: argparse.ArgumentParser) -> None:
    """Add --data, which is NEURORIT_DATA's folder where it is not given."""
    given = os.environ.get(VARIABLE)
    names = ", ".join(f"{name}.jsonl.gz" for name in _FILES)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(given) if given else None,
        help=f"folder of {names}; else that of ${VARIABLE}",
    )


def missing(folder: Path | None, files: Sequence[str] = _FILES) -> str:
    """Why the data cannot be used; empty where all of it is there."""
    if folder is None:
        return f"no --data, and {VARIABLE} is not set"
    absent = [name for name in files if not (folder / f"{name}.jsonl.gz").is_file()]
    return f"{folder} has no {absent[0]}.jsonl.gz" if absent else ""
