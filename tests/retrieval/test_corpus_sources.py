"""Corpora of every form, their chunks, and broken ones that are named and refused.

NEURORIT_FUZZ sets how many broken files of each form are read.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.chunking import Chunking
from retrieval.corpus import corpus_digest, read_corpus
from retrieval.encoder import load_encoder
from retrieval.errors import BadInput, NeuroritError
from retrieval.examples import Passage
from retrieval.ids import content_id
from retrieval.index import Index, build_index
from retrieval.sentences import sentences

ROWS = [
    {"id": "1", "title": "Otter", "text": "The otter swims."},
    {"id": "2", "title": "", "text": 'A "quoted" word, and more.'},
]
WANTED = [Passage("1", "Otter", "The otter swims."), Passage("2", "", ROWS[1]["text"])]


def pdf(*pages: str) -> bytes:
    """A PDF whose pages show one line of text each."""
    kids = " ".join(f"{3 + 2 * i} 0 R" for i in range(len(pages)))
    objects = ["<< /Type /Catalog /Pages 2 0 R >>"]
    objects.append(f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>")
    for i, text in enumerate(pages):
        shown = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET"
        font = "<< /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents {4 + 2 * i} 0 R "
            f"/Resources << /Font {font} >> >>"
        )
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    head = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}"
    tail = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF"
    return out + head.encode() + tail.encode()


def write_parquet(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def test_every_form_of_records_gives_the_same_passages(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    quoted = ROWS[1]["text"].replace('"', '""')
    table = f'id\ttext\ttitle\n1\tThe otter swims.\tOtter\n2\t"{quoted}"\t\n'
    (tmp_path / "a.tsv").write_text(table)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(table.encode()))
    write_parquet(tmp_path / "a.parquet", [dict(row) for row in ROWS])
    beir = tmp_path / "beir"
    beir.mkdir()
    renamed = [{"_id": r["id"], "title": r["title"], "text": r["text"]} for r in ROWS]
    (beir / "corpus.jsonl").write_text("".join(json.dumps({**r}) + "\n" for r in renamed))
    flash = [{"id": r["id"], "contents": f'"{r["title"]}"\n{r["text"]}'} for r in ROWS]
    (tmp_path / "f.jsonl").write_text("".join(json.dumps(r) + "\n" for r in flash))
    for name in ("a.jsonl", "a.jsonl.gz", "a.tsv", "a.tsv.gz", "a.parquet", "beir", "f.jsonl"):
        assert list(read_corpus(tmp_path / name)) == WANTED, name


def test_a_folder_of_documents_is_chunked_with_its_sources(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "plain_text.txt").write_text("One two three. Four five six.")
    (tmp_path / "notes.md").write_text(
        "---\nlayout: x\n---\n# The *Title*\n\nSome **bold** [link](http://x.y) text.\n\n"
        "- item `code`\n\n```\nprint(1)\n```\n"
    )
    (tmp_path / "page.html").write_text(
        "<html><head><title>A page</title><style>p {}</style></head><body><nav>menu</nav>"
        "<p>Shown &amp; said.</p><script>alert(1)</script></body></html>"
    )
    (tmp_path / "paper.pdf").write_bytes(pdf("The first page.", "The second page."))
    (tmp_path / ".hidden.txt").write_text("not this")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = {passage.id: passage for passage in read_corpus(tmp_path, chunking=Chunking(size=4))}
    assert found["deep/plain_text.txt#0"].text == "One two three."
    assert found["deep/plain_text.txt#1"].text == "Four five six."
    assert found["deep/plain_text.txt#0"].title == "plain text"
    assert found["notes.md#0"].title == "The Title"
    words = " ".join(p.text for p in found.values() if p.id.startswith("notes.md"))
    assert words == "Some bold link text. item code print(1)"
    assert found["page.html#0"].title == "A page"
    assert found["page.html#0"].text == "Shown & said."
    assert found["paper.pdf#0"].text == "The first page."
    assert found["paper.pdf#1"].meta == {"source": "paper.pdf", "page": 2}
    assert not any("hidden" in identity or "png" in identity for identity in found)
    assert corpus_digest(tmp_path) == corpus_digest(tmp_path)
    before = corpus_digest(tmp_path)
    (tmp_path / "notes.md").write_text("# Other\n\ntext")
    assert corpus_digest(tmp_path) != before


def test_a_folder_becomes_an_index(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "otter.txt").write_text("The otter swims in rivers.")
    (source / "bread.md").write_text("# Bread\n\nFlour, water and yeast.")
    build_index(source, tmp_path / "index", encoder=load_encoder())
    index = Index.load(tmp_path / "index", encoder=load_encoder())
    assert index.search(["How is bread made?"], 1)[0][0].passage.id == "bread.md#0"


@given(st.text("ab. A!?\n\t'\")", max_size=300), st.integers(1, 12))
def test_chunks_lose_and_double_no_word(text: str, words: int) -> None:
    made = list(Chunking(size=words).chunks(text))
    assert " ".join(made).split() == text.split()
    assert all(1 <= len(chunk.split()) <= words for chunk in made)
    assert " ".join(sentences(text)).split() == text.split()


@given(
    st.text("ab. A!?\n\t'\")", max_size=300),
    st.integers(1, 12),
    st.integers(0, 11),
    st.sampled_from(["words", "tokens"]),
)
def test_chunks_overlap_as_much_as_they_were_told(
    text: str, size: int, overlap: int, by: Literal["words", "tokens"]
) -> None:
    overlap = min(overlap, size - 1)
    made = list(Chunking(by, size, overlap).chunks(text))
    apart = list(Chunking(by, size).chunks(text))
    assert "".join("".join(apart).split()) == "".join(text.split())
    if by == "words":
        again = made[:1] + [" ".join(chunk.split()[overlap:]) for chunk in made[1:]]
        assert " ".join(again).split() == text.split()
        assert all(1 <= len(chunk.split()) <= size for chunk in made)
        for before, after in pairwise(made):
            assert not overlap or before.split()[-overlap:] == after.split()[:overlap]


def test_tokens_are_those_of_the_encoder(tmp_path: Path) -> None:
    made = list(Chunking("tokens", 4).chunks("Unbelievably, Zirkonium fits pumps."))
    assert "".join(made).replace(" ", "") == "Unbelievably,Zirkoniumfitspumps."
    assert len(made) > 2, "long words are several tokens"
    with pytest.raises(BadInput, match=r"--tokenizer .*: none could be loaded"):
        list(Chunking("tokens", 4, tokenizer=str(tmp_path)).chunks("text"))


@pytest.mark.parametrize(
    ("chunking", "said"),
    [
        (Chunking(size=0), "--chunk-size 0"),
        (Chunking("words", 5, 5), "--overlap 5"),
        (Chunking("sentences", 5, 2), "--chunk-by words"),
        (Chunking("lines"), "--chunk-by lines"),  # type: ignore[arg-type]
    ],
)
def test_chunks_that_cannot_be_are_refused(tmp_path: Path, chunking: Chunking, said: str) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(BadInput, match=said):
        list(read_corpus(tmp_path, chunking=chunking))


def test_a_data_set_is_read_by_name_or_from_where_it_was_saved(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    saved = tmp_path / "saved"
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(saved)
    assert list(read_corpus(saved)) == WANTED
    assert corpus_digest(saved) == corpus_digest(saved)
    files = tmp_path / "files"
    files.mkdir()
    for name, rows in (("train", ROWS), ("test", ROWS[:1])):
        (files / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_corpus(Path(f"hf:{files}"))) == WANTED
    assert list(read_corpus(Path(f"hf:{files}@test"))) == WANTED[:1]
    with pytest.raises(BadInput, match=r"nowhere \(split train\): cannot be read"):
        list(read_corpus(Path(f"hf:{tmp_path}/nowhere")))
    with pytest.raises(BadInput, match="write hf:NAME"):
        list(read_corpus(Path("hf:a@b@c")))
    Dataset.from_list([{"id": "1", "text": ""}]).save_to_disk(tmp_path / "bad")
    with pytest.raises(BadInput, match="row 0: not a passage"):
        list(read_corpus(tmp_path / "bad"))


def test_a_record_without_an_id_is_named_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    records = [{"text": "One."}, {"text": "Two."}, {"text": "One."}, {"id": "x", "text": "One."}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    ids = [passage.id for passage in read_corpus(path)]
    assert ids[0] == content_id("", "One.") and ids[2] == f"{ids[0]}-2" and ids[3] == "x"
    path.write_text("".join(json.dumps(record) + "\n" for record in records[1:]))
    assert next(read_corpus(path)).id == ids[1]


def test_chunks_keep_sentences_whole_where_they_fit() -> None:
    text = "One two. Three four five. Six. " + "Long " * 12 + "end. Last one."
    assert list(Chunking(size=5).chunks(text)) == [
        "One two. Three four five.",
        "Six.",
        "Long " * 4 + "Long",
        "Long " * 4 + "Long",
        "Long Long end. Last one.",
    ]


GOOD = {
    ".jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    ".tsv": b"id\ttext\ttitle\n1\tThe otter swims.\tOtter\n2\tMore text.\t\n",
    ".html": b"<html><title>T</title><body><p>Some text.</p></body></html>",
    ".md": b"# T\n\nSome *text*.\n",
    ".jsonl.gz": gzip.compress(b'{"id": "1", "text": "x"}\n' * 1),
}


def broken(good: bytes, rng: random.Random) -> bytes:
    """A damaged copy: bytes cut, doubled, flipped, or put in from a list of nasty ones."""
    data = bytearray(good)
    nasty = [b"\0", b"\xff\xfe", b"{", b"[" * 3000, b'"', b"\n\n", b"\t", b"null", b"1e999",
             b'{"id": true}', b'{"id": "1", "text": 3}', b"\xed\xa0\x80", b"-", b"\r"]  # fmt: skip
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        match rng.randrange(4):
            case 0:
                del data[at : at + rng.randint(1, 30)]
            case 1:
                data[at:at] = rng.choice(nasty)
            case 2:
                data[at:at] = data[: rng.randint(0, len(data))]
            case _ if data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("suffix", sorted(GOOD))
def test_broken_files_are_read_or_named(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(suffix)
    path = tmp_path / f"corpus{suffix}"
    refused, count = 0, int(os.environ.get("NEURORIT_FUZZ", "200"))
    for _ in range(count):
        path.write_bytes(broken(GOOD[suffix], rng))
        try:
            passages = list(read_corpus(path))
        except NeuroritError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert passages and all(passage.text.strip() for passage in passages)
    assert refused > (0 if suffix in (".html", ".md") else count // 4)


@pytest.mark.filterwarnings("ignore")
def test_broken_parquet_and_pdf_files_are_read_or_named(tmp_path: Path) -> None:
    rng = random.Random(0)
    write_parquet(tmp_path / "good.parquet", [dict(row) for row in ROWS])
    sources = {".pdf": pdf("Some text."), ".parquet": (tmp_path / "good.parquet").read_bytes()}
    for suffix, good in sources.items():
        path = tmp_path / f"broken{suffix}"
        for _ in range(50):
            path.write_bytes(broken(good, rng))
            try:
                list(read_corpus(path))
            except NeuroritError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"1\ttext\ttitle\n", "header"),
        ("a.tsv", b"id\ttext\n1\n", "a.tsv:2"),
        ("a.jsonl", b'{"id": "1", "text": "x"}\n' * 2, "a.jsonl:2: the id '1' was used in line 1"),
        ("a.jsonl.gz", b"no archive", "a.jsonl.gz:1"),
        ("a.parquet", b"no parquet", "a.parquet"),
        ("a.txt", b"\xff\xfe\x00", "no UTF-8 text at byte 0"),
        ("a.txt", b"  \n", "holds no passage"),
    ],
)
def test_what_is_wrong_is_said_where(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        list(read_corpus(tmp_path / name))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.corpus._LONGEST", 1000)
    (tmp_path / "a.jsonl").write_bytes(b'{"id": "1", "text": "' + b"x" * 5000 + b'"}\n')
    with pytest.raises(BadInput, match=r"a\.jsonl:1: the line is longer than 1000 bytes"):
        list(read_corpus(tmp_path / "a.jsonl"))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadInput, match="holds no corpus"):
        list(read_corpus(tmp_path / "nothing"))
