"""PDF files as pages of text, with words put together that the page's layout took apart."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput, MissingExtra

_SECONDS = 600.0  # of a processor, that one file may take; a thousand full pages take 60
_HEAD = 1024  # bytes in which a PDF says that it is one
# As fonts have them; other characters with a plain form (a power, a fraction) mean something else.
_LIGATURES = str.maketrans(
    dict(zip("\ufb00\ufb01\ufb02\ufb03\ufb04\ufb05\ufb06",
             ("ff", "fi", "fl", "ffi", "ffl", "st", "st"), strict=True))
)  # fmt: skip
_CUT = re.compile(r"(\w+)[-\u2010]\s*\n\s*([^\W\d_]\w*)")
_WORD = re.compile(r"\w+(?:-\w+)*")


def pdf_pages(path: Path) -> tuple[str, list[str]]:
    """(title, text of each page); raises BadInput, naming the file, for one that cannot be read."""
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, FileNotDecryptedError
    except ModuleNotFoundError as error:
        raise MissingExtra("pypdf", "documents") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        with open(path, "rb") as stream:
            if b"%PDF-" not in stream.read(_HEAD):
                raise BadInput(f"{path}: no PDF that can be read: it does not begin as one")
        reader: Any = PdfReader(path)
        title = str((reader.metadata.title if reader.metadata else None) or "")
        texts = list(_texts(path, reader))
    except BadInput:
        raise
    except FileNotDecryptedError as error:
        raise BadInput(f"{path}: no PDF that can be read: it asks for a password") from error
    except DependencyError as error:
        raise MissingExtra("cryptography", "documents") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # pypdf raises many kinds, for what is broken in many ways
        # What it says of parts of a PDF is for those who know these; of Python it says nothing.
        told = type(error).__module__.startswith("pypdf") and str(error).splitlines()
        reason = told[0] if told else "it is damaged"
        raise BadInput(f"{path}: no PDF that can be read: {reason}") from error
    return _whole(title), list(mended([_whole(text).replace("\0", " ") for text in texts]))


def _texts(path: Path, reader: Any) -> Iterator[str]:
    """Each page's text. pypdf bounds what a page may unpack to; a file may show one many times."""
    started = time.thread_time()
    for number, page in enumerate(reader.pages, start=1):
        yield page.extract_text()
        if time.thread_time() - started > _SECONDS:
            raise BadInput(
                f"{path}: no PDF that can be read: its first {number} of {len(reader.pages)} pages "
                f"took more than {_SECONDS:g} s; it may be made to take long"
            )


def mended(pages: Sequence[str]) -> Iterator[str]:
    """Pages without ligatures, soft hyphens, and hyphens that only end a line.

    A word in two parts is joined, unless elsewhere the text has it with its hyphen, not without.
    """
    texts = [re.sub(r"\u00ad\s*\n\s*|\u00ad", "", page.translate(_LIGATURES)) for page in pages]
    words = {word.lower() for text in texts for word in _WORD.findall(_CUT.sub(" ", text))}

    def joined(cut: re.Match[str]) -> str:
        whole, parted = f"{cut[1]}{cut[2]}", f"{cut[1]}-{cut[2]}"
        keep = whole.lower() not in words and (
            parted.lower() in words or not cut[2][0].islower() or cut[1][-1].isdigit()
        )
        return parted if keep else whole

    return (_CUT.sub(joined, text) for text in texts)


def _whole(text: str) -> str:
    """Halves of characters, which a PDF's fonts may name, joined where they are pairs."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
