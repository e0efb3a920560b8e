"""Plain text that models are measured on, read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from neurorit.core.errors import BadInput
from neurorit.data.formats.text_files import decode_line


class Text(NamedTuple):
    """A text; what stands in `prefix` before it is read, and its tokens do not count."""

    text: str
    prefix: str = ""


def read_texts(path: Path) -> list[Text]:
    """Texts of a file: of JSONL the `text` of each line, else paragraphs with blank lines between.

    A line's `prefix`, where there is one, is read before its text and does not count.

    Raises BadInput with file:line for a line without one, or where there is none at all.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.suffix == ".jsonl":
        texts = []
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                record = decode_line(line)
                texts.append(Text(str(record["text"]), str(record.get("prefix") or "")))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f"{path}:{number}: no JSON object with a `text`: {error}") from error
    else:
        texts = [Text(part.strip()) for part in path.read_text(encoding="utf-8").split("\n\n")]
    texts = [one for one in texts if one.text.strip()]
    if not texts:
        raise BadInput(f"{path}: holds no text")
    return texts
