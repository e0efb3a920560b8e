"""PDF bombs: small files that unpack to much, or that never end, are refused in a line."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from neurorit.core.errors import BadInput
from neurorit.retrieval.corpus import pdf
from neurorit.retrieval.corpus.pdf import pdf_pages

TEXT = b"BT /F1 12 Tf 72 700 Td (Mira was born in Karvel.) Tj ET"
FONT = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"


def write(
    path: Path, content: bytes, kids: str = "4 0 R", *, filters: str = "/FlateDecode"
) -> Path:
    """A PDF whose pages show the stream 5: object 4 is a page of it, 2 the tree of pages."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(kids.split()) // 3} >>",
        FONT,
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R "
        "/Resources << /Font << /F1 3 0 R >> /XObject << /X 6 0 R >> >> >>",
    ]
    body, places = b"%PDF-1.7\n", []
    stream = f"<< /Length {len(content)} /Filter [{filters}] >>\nstream\n".encode()
    form = b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Length 11 /Resources << /XObject "
    form += b"<< /X 6 0 R >> >> >>\nstream\n/X Do /X Do\nendstream"
    parts = [one.encode() for one in objects] + [stream + content + b"\nendstream", form]
    for number, part in enumerate(parts, start=1):
        places.append(len(body))
        body += f"{number} 0 obj\n".encode() + part + b"\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    tail = f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n{table}"
    tail += f"trailer << /Size {len(parts) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    path.write_bytes(body + tail.encode())
    return path


def test_a_file_of_this_form_is_read(tmp_path: Path) -> None:
    _, pages = pdf_pages(write(tmp_path / "a.pdf", zlib.compress(TEXT), "4 0 R 4 0 R"))
    assert [page.strip() for page in pages] == ["Mira was born in Karvel."] * 2


@pytest.mark.timeout(60)
def test_what_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    once = zlib.compress(TEXT + b" " * 2 * 10**8)
    for name, content, filters in (
        ("once", once, "/FlateDecode"),
        ("twice", zlib.compress(once), "/FlateDecode /FlateDecode"),
    ):
        file = write(tmp_path / f"{name}.pdf", content, filters=filters)
        assert file.stat().st_size < 2 * 10**6
        with pytest.raises(BadInput, match=r"no PDF that can be read: .*[Ll]imit"):
            pdf_pages(file)


@pytest.mark.timeout(60)
def test_a_form_within_itself_and_a_tree_without_end_come_to_an_end(tmp_path: Path) -> None:
    looped = write(tmp_path / "form.pdf", zlib.compress(TEXT + b" /X Do"))
    assert "Karvel" in pdf_pages(looped)[1][0]
    with pytest.raises(BadInput, match="no PDF that can be read"):
        pdf_pages(write(tmp_path / "tree.pdf", zlib.compress(TEXT), "2 0 R 2 0 R 4 0 R"))


def test_one_page_shown_many_times_ends_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf, "_SECONDS", 0.05)
    file = write(tmp_path / "many.pdf", zlib.compress(TEXT * 500), "4 0 R " * 2_000)
    with pytest.raises(BadInput, match=r"first \d+ of 2000 pages took more than 0\.05 s"):
        pdf_pages(file)
