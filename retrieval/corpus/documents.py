"""Documents: txt, Markdown, HTML, PDF, Word and mail files of a folder as titles and plain text.

markdown-it parses Markdown; the parsers of the others come with the extra `documents`. Menus,
scripts and hidden parts are left out, other text is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from neurorit.core.errors import BadInput
from neurorit.core.yaml_text import load_yaml
from neurorit.data.formats.text_files import decoded, reason_of
from neurorit.retrieval.corpus.html import fragment_text, page_source, page_text
from neurorit.retrieval.corpus.mail_and_word import docx_text, mails
from neurorit.retrieval.corpus.pdf import pdf_pages

_HTML = (".html", ".htm", ".xhtml")
_MARKDOWN = (".md", ".markdown")
_MAIL = (".mbox", ".eml")
SUFFIXES = (".txt", *_MARKDOWN, *_HTML, ".pdf", ".docx", *_MAIL)
NO_TEXT, SCANNED, TITLE_ALONE = "no text", "no text: scanned?", "a title without text"

LeftOut = Callable[[str, str], None]


class Document(NamedTuple):
    """A title and text of a file, or of a part of it, and where these stand.

    page counts from 1 for a PDF's pages and is 0 for other files.
    """

    title: str
    text: str
    place: str
    page: int = 0
    meta: dict[str, Any] = {}  # noqa: RUF012 (nobody changes it)


def is_document(path: Path) -> bool:
    """True for a file that `read_document` reads, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def read_document(path: Path, left_out: LeftOut = lambda place, why: None) -> Iterator[Document]:
    """The parts of a file that hold text: a PDF's pages, a mail box's messages.

    left_out: told of each part without text, with its place and the reason. Raises BadInput,
    naming the file, for one that cannot be read; MissingExtra without its parser.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".pdf":
            yield from _pdf(path, left_out)
        elif suffix in _MAIL:
            for title, text, meta, place in mails(path, left_out):
                yield from _part(Document(title, text, place, meta=meta), path, left_out)
        else:
            title, text = docx_text(path) if suffix == ".docx" else _text(path, suffix)
            yield from _part(Document(title, text, str(path)), path, left_out)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read: {reason_of(error)}") from error


def _text(path: Path, suffix: str) -> tuple[str, str]:
    data = path.read_bytes()
    try:
        text = page_source(data) if suffix in _HTML else decoded(data)
    except ValueError as error:
        raise BadInput(f"{path}: {error}; convert it, or leave it out") from error
    text = text.replace("\0", " ").replace("\r\n", "\n").replace("\r", "\n")
    if suffix in _HTML:
        return page_text(text)
    return ("", text) if suffix == ".txt" else markdown_text(text)


def _part(part: Document, path: Path, left_out: LeftOut) -> Iterator[Document]:
    text = part.text.replace("\u00ad", "")  # a hyphen that is only seen where a line ends
    if text.strip():
        yield part._replace(title=part.title or _name(path), text=text)
    else:
        left_out(part.place, TITLE_ALONE if part.title.strip() else NO_TEXT)


def _pdf(path: Path, left_out: LeftOut) -> Iterator[Document]:
    title, texts = pdf_pages(path)
    if not any(text.strip() for text in texts):
        pages = f"{len(texts)} page{'s' if len(texts) != 1 else ''}"
        left_out(str(path), f"{SCANNED} ({pages})")
        return
    for number, text in enumerate(texts, start=1):
        place = f"{path}, page {number}"
        if text.strip():
            yield Document(title.strip() or _name(path), text, place, number)
        else:
            left_out(place, SCANNED)


def _name(path: Path) -> str:
    return path.stem.replace("_", " ").replace("-", " ").strip()


_END = r"[ \t]*(?:\n|\Z)"
_FRONTS = [
    re.compile(form, re.DOTALL | re.MULTILINE)
    for form in (
        rf"---[ \t]*(?:yaml|yml|toml|json)?[ \t]*\n(.*?)^(?:---|\.\.\.){_END}",
        rf"\+\+\+[ \t]*\n(.*?)^\+\+\+{_END}",
        rf";;;[ \t]*\n(.*?)^;;;{_END}",
        rf"(\{{[ \t]*\n.*?^\}}){_END}",
    )
]
# Up to three lines: a title, authors, a date.
_PANDOC = re.compile(r"%[ \t]+(\S.*(?:\n[ \t]+\S.*)*)\n(?:%.*(?:\n[ \t]+\S.*)*(?:\n|\Z)){0,2}")
_INLINE_BREAK = re.compile(r"<(br|hr)\b", re.IGNORECASE)


def markdown_text(source: str) -> tuple[str, str]:
    """A Markdown text's title and the rest, with the text of the HTML in it.

    The title is its front matter's, else its first heading, which is then no part of the text.
    """
    from markdown_it import MarkdownIt

    title, source = front_matter(source)
    parts, heading = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(source):
        if token.type == "heading_open":
            heading = True
        if token.type == "inline":
            shown = "".join(_shown(child) for child in token.children or ())
            if heading and not title:
                title = shown.strip()
            else:
                parts.append(shown)
            heading = False
        elif token.type in ("fence", "code_block"):
            parts.append(token.content)
        elif token.type == "html_block":
            parts.append(fragment_text(token.content))
    return title, "\n".join(parts)


def front_matter(source: str) -> tuple[str, str]:
    """(title, what follows) of a text with YAML, TOML, JSON or Pandoc's lines before it.

    Without these it is ("", the text).
    """
    import tomllib

    if block := _PANDOC.match(source):
        return " ".join(block[1].split()), source[block.end() :]
    source = source.lstrip("\n")
    front = next((found for one in _FRONTS if (found := one.match(source))), None)
    if front is None:
        return "", source
    try:
        load: Any = tomllib.loads if source.startswith(("+", "---toml")) else load_yaml
        load = json.loads if source.startswith("{") else load
        fields = load(front[1])
    except (ValueError, RecursionError):
        if source.startswith("{"):
            return "", source
        # Written by hand, with a colon in a title: it still is about the page, not of it.
        fields = dict(re.findall(r"^[\"']?(\w+)[\"']?\s*[:=]\s*(.+?)\s*$", front[1], re.MULTILINE))
    if fields is None:
        fields = {}
    if not isinstance(fields, dict) or not (fields or not front[1].strip()):
        return "", source  # text between two rules
    title = next((one for name, one in fields.items() if str(name).lower() == "title"), None)
    title = (
        "" if title is None or isinstance(title, (dict, list)) else str(title).strip().strip("\"'")
    )
    return title, source[front.end() :]


def _shown(token: Any) -> str:
    if token.type in ("text", "code_inline", "image"):
        return str(token.content)
    if token.type == "html_inline":
        return " " if _INLINE_BREAK.match(token.content) else ""
    return " " if token.type in ("softbreak", "hardbreak") else ""
