"""HTML pages as a title and the text that a reader sees, decoded as browsers decode them.

selectolax, of the extra `documents`, parses them; what is left out are menus, scripts, a page's own
header and footer, and what is hidden.
"""

from __future__ import annotations

import codecs
import re
from html.parser import HTMLParser
from typing import Any

from neurorit.core.errors import MissingExtra
from neurorit.data.formats.text_files import decoded, not_text

_UNSEEN = (
    *("script", "style", "noscript", "template", "nav", "svg", "math annotation", "datalist"),
    *("iframe", "canvas", "audio", "video", "object"),
)
_NOSCRIPT = re.compile(r"<noscript\b.*?</noscript\s*>", re.IGNORECASE | re.DOTALL)
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
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
_META = re.compile(rb"<meta\b[^>]*>?", re.IGNORECASE)
_CHARSET = re.compile(rb"[\s\"'/]charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_IN_CONTENT = re.compile(rb"[\s;\"'=]charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_CONTENT_TYPE = re.compile(rb"http-equiv\s*=\s*[\"']?\s*content-type", re.IGNORECASE)
_VALUE = re.compile(rb"=\s*(?:\"[^\"]*\"|'[^']*')")
_COMMENT = re.compile(rb"<!--.*?-->", re.DOTALL)
_XML = re.compile(rb"\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']\s*([\w.:-]+)", re.IGNORECASE)
_DECLARED = 4096  # bytes in which a page says its charset; browsers look into 1,024
# WHATWG's encodings whose Python codec of that name knows fewer characters, or none of it.
_WIDER = {
    **{"gbk": "gb18030", "shift_jis": "cp932", "euc-kr": "cp949", "big5": "big5hkscs"},
    **{"windows-874": "cp874", "macintosh": "mac_roman", "x-mac-cyrillic": "mac_cyrillic"},
    **{"iso-8859-8-i": "iso8859-8", "utf-16le": "utf-8", "utf-16be": "utf-8"},
}


def page_source(data: bytes) -> str:
    """A page's bytes as text: by its mark, else as it says itself, else UTF-8.

    Raises ValueError for bytes that are no text of that encoding; MissingExtra without
    webencodings.
    """
    marks = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    charset = "" if data.startswith(marks) else declared_charset(data)
    if not charset:
        return decoded(data)
    try:
        return data.decode(charset)
    except UnicodeDecodeError as error:
        if charset == "cp1252":  # five bytes that Windows leaves open are controls there
            return "".join(_windows(byte) for byte in data)
        raise ValueError(not_text(error, charset)) from error


def declared_charset(page: bytes) -> str:
    """The codec that a page names; empty where it names none, or none that is known."""
    head = _COMMENT.sub(b"", page[:_DECLARED])
    named = next(filter(None, map(_charset, _META.findall(head))), None) or _XML.match(head)
    if named is None:
        return ""
    try:
        import webencodings
    except ModuleNotFoundError as error:
        raise MissingExtra("webencodings", "documents") from error
    known = webencodings.lookup(named[1].decode("ascii", "replace"))
    if known is None or known.name in ("utf-8", "replacement", "x-user-defined"):
        return ""
    codec = _WIDER.get(known.name, known.name)
    # What says UTF-16 in ASCII letters can only be UTF-8. Latin-1 and ASCII are Windows' superset.
    return "" if codec == "utf-8" else codecs.lookup(codec).name


def _charset(meta: bytes) -> re.Match[bytes] | None:
    """Where a <meta> names a charset: an attribute, or in the content that stands for a header."""
    if _CONTENT_TYPE.search(meta) and (named := _IN_CONTENT.search(meta)):
        return named
    bare = _VALUE.sub(lambda value: b"" if b"charset" in value[0].lower() else value[0], meta)
    return _CHARSET.search(bare)


def page_text(page: str) -> tuple[str, str]:
    """An HTML page's title and text; raises MissingExtra without selectolax."""
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ModuleNotFoundError as error:
        raise MissingExtra("selectolax", "documents") from error
    # A parser that runs no scripts shows what stands in there, a browser does not.
    tree = LexborHTMLParser(_NOSCRIPT.sub("", page))
    for node in tree.css(", ".join(_UNSEEN)):
        node.decompose()
    for node in tree.css("[hidden], [style]"):
        attributes = node.attributes
        if "hidden" in attributes or _HIDDEN.search(attributes.get("style") or ""):
            node.decompose()
    # An icon has a title too; it went with the icon.
    named = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(named.text().split()) if named is not None else ""
    body = tree.body
    if body is None:
        return title, ""
    for node in body.css("title"):
        node.decompose()
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


def fragment_text(source: str) -> str:
    """The text of a block of HTML, which may be a part of an element only."""
    block = _Block()
    block.feed(source)
    block.close()
    return "".join(block.parts)


class _Block(HTMLParser):
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


def _windows(byte: int) -> str:
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


def _inside(node: Any) -> bool:
    above = node.parent
    while above is not None:
        if above.tag in _WITHIN:
            return True
        above = above.parent
    return False
