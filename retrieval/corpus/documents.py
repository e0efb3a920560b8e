"""Documents: txt, Markdown, HTML and PDF files of a folder as titles and plain text.

markdown-it parses Markdown; selectolax and pypdf, of the extra `documents`, HTML and PDF. Menus and
scripts are left out, other text is not.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

from neurorit.core.errors import BadInput, MissingExtra

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


_UNSEEN = ("script", "style", "noscript", "template", "nav", "svg")
# Around a page, but not inside an article, where they hold its own title and notes.
_AROUND = "header, footer, aside"
_WITHIN = ("article", "main", "section")
# What stands on lines of its own; all else goes on in its line, as H<sub>2</sub>O does.
_BLOCKS = (
    "address, article, aside, blockquote, br, button, caption, dd, details, dialog, div, dl, dt, "
    "fieldset, figcaption, figure, footer, form, h1, h2, h3, h4, h5, h6, header, hr, legend, li, "
    "main, ol, optgroup, option, p, pre, section, select, summary, table, tbody, td, textarea, "
    "tfoot, th, thead, tr, ul"
)
_BREAKS = frozenset(_BLOCKS.split(", "))
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED = 4096  # bytes in which a page says its charset; browsers look into 1,024
_INLINE_BREAK = re.compile(r"<(br|hr)\b", re.IGNORECASE)


def declared_charset(page: bytes) -> str:
    """The codec that an HTML page names; empty where it names none, or none that is known."""
    for mark, codec in ((codecs.BOM_UTF8, ""), (codecs.BOM_UTF16_LE, "utf-16"),
                        (codecs.BOM_UTF16_BE, "utf-16")):  # fmt: skip
        if page.startswith(mark):
            return codec
    found = _CHARSET.search(page[:_DECLARED])
    try:
        name = codecs.lookup(found[1].decode("ascii")).name if found else ""
        b"a".decode(name or "utf-8")  # of Python's codecs some are for no text
    except (LookupError, UnicodeError):
        return ""
    if name.startswith("utf-"):
        return ""  # what says so in ASCII letters can only be UTF-8
    # As browsers do (WHATWG): what calls itself Latin-1 or ASCII is Windows' superset of them.
    return "cp1252" if name in ("iso8859-1", "ascii") else name


def page_text(page: str) -> tuple[str, str]:
    """An HTML page's title and text; raises MissingExtra without selectolax."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ModuleNotFoundError as error:
        raise MissingExtra("selectolax", "documents") from error
    tree = LexborHTMLParser(page)
    named = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(named.text().split()) if named is not None else ""
    for node in tree.css(", ".join(_UNSEEN)):
        node.decompose()
    body = tree.body
    if body is None:
        return title, ""
    for node in body.css(_BLOCKS):
        node.insert_before("\n")
        node.insert_after("\n")
    whole = body.text()
    for node in body.css(_AROUND):
        if not _inside(node):
            node.decompose()
    text = body.text()
    # A page that is all header is no page without text.
    return title, text if text.strip() else whole


def markdown_text(source: str) -> tuple[str, str]:
    """A Markdown text's first heading and the rest, with the text of the HTML in it."""
    from markdown_it import MarkdownIt

    if source.startswith("---\n") and "\n---\n" in source[4:]:
        source = source[4:].split("\n---\n", 1)[1]  # front matter is about the page, not of it
    title, parts, heading = "", [], False
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
            block = _Block()
            block.feed(token.content)
            block.close()
            parts.append("".join(block.parts))
    return title, "\n".join(parts)


class _Block(HTMLParser):
    """The text of a block of HTML in Markdown, which may be a part of an element only."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._unseen = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in _UNSEEN and not self._unseen:
            self._unseen = tag
        elif tag in _BREAKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._unseen:
            self._unseen = ""
        elif tag in _BREAKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self.parts.append(data)


def _shown(token: Any) -> str:
    if token.type in ("text", "code_inline", "image"):
        return str(token.content)
    if token.type == "html_inline":
        return " " if _INLINE_BREAK.match(token.content) else ""
    return " " if token.type in ("softbreak", "hardbreak") else ""


def _inside(node: Any) -> bool:
    above = node.parent
    while above is not None:
        if above.tag in _WITHIN:
            return True
        above = above.parent
    return False
