"""Documents: txt, Markdown, HTML and PDF files of a folder as titles and plain text.

markdown-it, selectolax and pypdf do the parsing; the last two come with the extra `documents`.
It knows nothing of passages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retrieval.errors import BadInput, MissingExtra

SUFFIXES = (".txt", ".md", ".markdown", ".html", ".htm", ".pdf")
_UNSEEN = "script, style, noscript, template, nav, header, footer, aside, form, svg"


class Document(NamedTuple):
    """A file's title and text; page counts from 1 for a PDF's pages and is 0 for other files."""

    title: str
    text: str
    page: int = 0


def find_documents(folder: Path) -> list[Path]:
    """The documents below a folder, in the order of their paths; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_document(path: Path) -> Iterator[Document]:
    """The parts of a file that hold text; a PDF gives one for each page.

    Raises BadInput, naming the file, for one that cannot be read; MissingExtra without its parser.
    """
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        yield from _pdf(path)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{path}: no UTF-8 text at byte {error.start}; convert it, or leave it out"
        ) from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    text = text.replace("\0", " ")
    if suffix in (".md", ".markdown"):
        made = _markdown(text)
    elif suffix in (".html", ".htm"):
        made = _html(path, text)
    else:
        made = Document("", text)
    if made.text.strip():
        yield made._replace(title=made.title or _name(path))


def _markdown(text: str) -> Document:
    from markdown_it import MarkdownIt

    if text.startswith("---\n") and "\n---\n" in text[4:]:
        text = text[4:].split("\n---\n", 1)[1]  # front matter is about the page, not of it
    title, parts, heading = "", [], False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "heading_open":
            heading = True
        if token.type == "inline":
            shown = "".join(
                child.content if child.type in ("text", "code_inline", "image") else " "
                for child in token.children or ()
                if child.type in ("text", "code_inline", "image", "softbreak", "hardbreak")
            )
            if heading and not title:
                title = shown.strip()
            else:
                parts.append(shown)
            heading = False
        elif token.type in ("fence", "code_block"):
            parts.append(token.content)
    return Document(title, "\n".join(parts))


def _html(path: Path, text: str) -> Document:
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ModuleNotFoundError as error:
        raise MissingExtra("selectolax", "documents") from error
    tree = LexborHTMLParser(text)
    named = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(named.text().split()) if named is not None else ""
    for node in tree.css(_UNSEEN):
        node.decompose()
    body = tree.body
    return Document(title, body.text(separator=" ") if body is not None else "")


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
            yield Document(title or _name(path), text.replace("\0", " "), number)


def _name(path: Path) -> str:
    return path.stem.replace("_", " ").replace("-", " ").strip()
