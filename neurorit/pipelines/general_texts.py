"""Text that a model is to keep, as selections measure it."""

from __future__ import annotations

from pathlib import Path

from neurorit.data.plain_text import Text, read_texts
from neurorit.lab import LAB

_OTHER_DOCUMENTS = 1_000_003


def general_texts(named: str, model: Path, most: int, seed: int) -> list[Text]:
    """Text that the model is to keep: of a file, or, as `lab`, documents of the embedded world.

    Raises BadInput for a file that cannot be read.
    """
    if named == LAB:
        from neurorit.lab.unseen import plain_documents
        from neurorit.model.load import load_tokenizer

        # Others than those that retention is measured on.
        documents = plain_documents(load_tokenizer(model), most, seed + _OTHER_DOCUMENTS)
        return [Text(*document) for document in documents]
    return read_texts(Path(named)) if named else []
