"""Documents: txt, Markdown, HTML and PDF files of a folder as titles and plain text.

What is written in Markdown and HTML is `neurorit.retrieval.corpus.markup`'s; pypdf, of the extra `documents`, reads
PDF. It knows nothing of passages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from neurorit.core.errors import BadInput, MissingExtra
from neurorit.retrieval.corpus.markup import declared_charset, markdown_text, page_text

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
_HTML = (".html", ".htm")


class Document(NamedTuple):
    """A file's title and text; page counts from 1 for a PDF's pages and is 0 for other files."""

    title: str
    text: str
    page: int = 0


def is_document(path: Path) -> bool:
    """True for a file that `read_document` reads, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def read_document(path: Path) -> Iterator[Document]:
    """The parts of a file that hold text; a PDF gives one for each page.

    Raises BadInput, naming the file, for one that cannot be read; MissingExtra without its parser.
    """
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        yield from _pdf(path)
        return
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    charset = declared_charset(data) if suffix in _HTML else ""
    try:
        text = data.decode(charset or "utf-8-sig").replace("\0", " ")
    except UnicodeError as error:
        place = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise BadInput(
            f"{path}: no {(charset or 'utf-8').upper()} text{place}; convert it, or leave it out"
        ) from error
    if suffix in _HTML:
        made = Document(*page_text(text))
    elif suffix == ".txt":
        made = Document("", text)
    else:
        made = Document(*markdown_text(text))
    if made.text.strip():
        yield made._replace(title=made.title or _name(path))


def _pdf(path: Path) -> Iterator[Document]:
    try:
        from pypdf import PdfReader
    except ModuleNotFoundError as error:
        raise MissingExtra("pypdf", "documents") from error
    logging.getLogger("pypdf").setLevel(logging.ERROR)
    try:
        reader = PdfReader(path)
        title = str((reader.metadata.title if reader.metadata else None) or "")
        texts = [page.extract_text() for page in reader.pages]
    except Exception as error:  # pypdf raises many kinds, for what is broken in many ways
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path}: no PDF that can be read: {reason}") from error
    for number, text in enumerate(texts, start=1):
        if text.strip():
            yield Document(_whole(title) or _name(path), _whole(text).replace("\0", " "), number)


def _whole(text: str) -> str:
    """Halves of characters, which a PDF's fonts may name, joined where they are pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _name(path: Path) -> str:
    return path.stem.replace("_", " ").replace("-", " ").strip()
