"""Mail (mbox, eml) and Word files (docx) as titles and plain text."""

from __future__ import annotations

import mailbox
import zipfile
from collections.abc import Callable, Iterator
from email import message_from_binary_file, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput, MissingExtra
from neurorit.retrieval.corpus.html import page_text

_HEADINGS = ("Title", "Heading 1")


def docx_text(path: Path) -> tuple[str, str]:
    """A Word file's title and text, tables too; raises BadInput for one that cannot be read."""
    try:
        from docx import Document
        from docx.opc.exceptions import PackageNotFoundError
        from docx.table import Table
    except ModuleNotFoundError as error:
        raise MissingExtra("python-docx", "documents") from error
    try:
        document: Any = Document(str(path))
        title = str(document.core_properties.title or "").strip()
        parts = []
        for block in document.iter_inner_content():
            if isinstance(block, Table):
                parts += [" ".join(_cells(row)) for row in block.rows]
            elif not title and block.style is not None and block.style.name in _HEADINGS:
                title = block.text.strip()
            else:
                parts.append(block.text)
    except (PackageNotFoundError, zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise BadInput(
            f"{path}: no Word file that can be read: it is damaged or no .docx"
        ) from error
    except Exception as error:  # lxml's own, for what is broken in many ways
        raise BadInput(f"{path}: no Word file that can be read: it is damaged") from error
    return title, "\n".join(parts)


def _cells(row: Any) -> list[str]:
    """Of cells that are joined, one."""
    cells: dict[Any, str] = {}
    for cell in row.cells:
        cells.setdefault(cell._tc, cell.text)
    return list(cells.values())


def mails(
    path: Path, left_out: Callable[[str, str], None]
) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """(subject, text, meta, place) of each message; left_out is told of attachments.

    Raises BadInput for a file that holds no message.
    """
    if path.suffix.lower() == ".eml":
        with open(path, "rb") as stream:
            given: Any = [message_from_binary_file(stream, policy=policy.default)]
    else:

        def parsed(file: Any) -> Any:
            return message_from_binary_file(file, policy=policy.default)

        given = mailbox.mbox(path, factory=parsed, create=False)
    count = 0
    try:
        for number, message in enumerate(given, start=1):
            place = f"{path}, message {number}"
            count += 1
            for part in message.iter_attachments() if message.is_multipart() else ():
                name = part.get_filename() or part.get_content_type()
                left_out(place, f"the attachment {name} is not read")
            meta = {key: str(message[key]) for key in ("from", "date") if message[key]}
            yield str(message["subject"] or "").strip(), _body(message), meta, place
    finally:
        if not isinstance(given, list):
            given.close()
    if not count:
        raise BadInput(f"{path}: holds no message in mbox form (a line that begins with 'From ')")


def _body(message: EmailMessage) -> str:
    part: Any = message.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    try:
        text = str(part.get_content())
    except (LookupError, ValueError, KeyError):  # an encoding that nobody knows
        data = part.get_payload(decode=True) or b""
        text = data.decode("utf-8", "replace")
    if part.get_content_type() == "text/html":
        return page_text(text)[1]
    return text
