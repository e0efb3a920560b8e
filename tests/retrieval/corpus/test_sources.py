"""Corpora of every form, their chunks, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurorit.core.errors import BadInput
from neurorit.core.hashing import content_id
from neurorit.data.examples import Passage
from neurorit.data.text import sentences
from neurorit.retrieval.corpus.chunking import Chunking
from neurorit.retrieval.corpus.reader import Skipped, corpus_digest, read_corpus
from neurorit.retrieval.encoders.load import load_encoder
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.settings import BuildSettings

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


def test_half_a_character_of_a_pdf_stops_no_index() -> None:
    from neurorit.retrieval.corpus.pdf import _whole

    assert _whole("b\ud835bb \ud83d\ude00 é") == "b\ufffdbb \U0001f600 é"


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


def test_no_text_of_a_page_is_lost(tmp_path: Path) -> None:
    pages = {
        "form": "<body><form id='aspnetForm'><p>All the text.</p></form></body>",
        "sub": "<body><p>H<sub>2</sub>O foo<b>bar</b></p><td>1</td><br>x<br>y</body>",
        "parts": "<body><header>menu</header><article><header>T</header><aside>n</aside></article>",
        "head": "<body><header>All of it</header></body>",
    }
    wanted = {
        "form": "All the text.",
        "sub": "H2O foobar 1 x y",
        "parts": "T n",
        "head": "All of it",
    }
    for name, page in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(f"<html>{page}</html>")
        (found,) = read_corpus(path)
        assert found.text == wanted[name]
    (tmp_path / "a.md").write_text(
        "<details>\nHidden &amp; said.\n</details>\n\nA<br>b H<sub>2</sub>O.\n\n<script>\nx()\n"
        "</script>\n\n<!-- no -->\n\n<table><tr><td>1</td><td>2</td></tr></table>\n"
    )
    (found,) = read_corpus(tmp_path / "a.md")
    assert found.text == "Hidden & said. A b H2O. 1 2"


@pytest.mark.parametrize(
    ("head", "codec"),
    [
        ('<meta charset="iso-8859-1">', "cp1252"),
        ("<meta http-equiv=Content-Type content='text/html; charset=windows-1252'>", "cp1252"),
        ("<meta charset=utf-16>", "utf-8"),
        ("<meta charset=hex>", "utf-8"),
        ("", "utf-16"),
        ("", "utf-8-sig"),
    ],
)
def test_a_page_is_read_as_its_charset_says(tmp_path: Path, head: str, codec: str) -> None:
    path = tmp_path / "a.html"
    path.write_bytes(f"<html><head>{head}</head><body>caf\u00e9 \u20ac</body></html>".encode(codec))
    assert [p.text for p in read_corpus(path)] == ["caf\u00e9 \u20ac"]
    path.write_bytes(b"<html><meta charset=ascii-8><body>caf\xe9</body></html>")
    with pytest.raises(BadInput, match="no UTF-8 text at byte 37; convert it"):
        list(read_corpus(path))


def test_a_folder_of_shards_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "state.json").write_text("{}")  # a tool's own, and no data set's
    (tmp_path / "00.jsonl").write_text('{"id": "1", "text": "One."}\n')
    (tmp_path / "01.jsonl.gz").write_bytes(gzip.compress(b'{"id": "2", "text": "Two."}\n'))
    write_parquet(tmp_path / "deep" / "02.parquet", [{"id": "3", "text": "Three."}])
    (tmp_path / "readme.txt").write_text("Four.")
    found = list(read_corpus(tmp_path))
    assert [p.id for p in found] == ["1", "2", "3", "readme.txt#0"]
    before = corpus_digest(tmp_path)
    (tmp_path / "03.tsv").write_text("id\ttext\n1\tAgain.\n")
    assert corpus_digest(tmp_path) != before
    said = rf"03\.tsv:2: the id '1' was used in {tmp_path}/00\.jsonl:1"
    with pytest.raises(BadInput, match=said):
        list(read_corpus(tmp_path))
    (tmp_path / "04.parquet").write_bytes(b"none")
    skipped = Skipped()
    assert list(read_corpus(tmp_path, skipped=skipped)) == found
    named = [line.split(":")[0].rpartition("/")[2] for line in skipped]
    assert named == ["03.tsv", "04.parquet", "state.json"]


def test_a_name_that_is_no_utf8_has_its_bytes_written_out(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/a\xff.txt", "w") as stream:
        stream.write("Some text.")
    (found,) = read_corpus(tmp_path)
    assert found.id == "a\\xff.txt#0" and found.meta == {"source": "a\\xff.txt"}
    assert len(corpus_digest(tmp_path)) == 64


def test_records_are_cut_where_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    long = {"id": "1", "title": "T", "text": "One two three. Four five six.", "meta": {"k": 1}}
    path.write_text(
        f'{json.dumps(long)}\n{{"id": "2", "text": "Short."}}\n{{"text": "a b c d e"}}\n'
    )
    assert len(list(read_corpus(path, chunking=Chunking(size=3)))) == 3
    found = list(read_corpus(path, chunking=Chunking(size=3, records=True)))
    assert [p.id for p in found[:3]] == ["1#0", "1#1", "2"]
    assert [p.text for p in found] == ["One two three.", "Four five six.", "Short.", "a b c", "d e"]
    assert found[1].title == "T" and found[1].meta == {"source": "1", "k": 1}
    assert found[3].id == content_id("", "a b c")


def test_what_the_encoder_will_not_read_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = ["word " * 600, "short", "word " * 100]
    path.write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    encoder = load_encoder()
    assert build_index(path, tmp_path / "i", encoder=encoder).built["longer_than_encoder"] == 1
    wanted = BuildSettings(chunking=Chunking(records=True))
    made = build_index(path, tmp_path / "j", encoder=encoder, settings=wanted).built
    assert (made["longer_than_encoder"], made["passages"]) == (0, 8)


def test_characters_are_the_words_of_a_script_without_spaces() -> None:
    text = "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002" * 200
    made = list(Chunking(size=25).chunks(text))
    assert "".join(made) == text and len(made) == 100
    assert all(chunk.endswith("\u3002") for chunk in made), "sentences stay whole"
    by_words = list(Chunking("words", 25, 5).chunks(text))
    assert all(len(chunk.replace("\u3002", "")) == 25 for chunk in by_words[:-1])
    assert sentences("\u4e00\u3002\u300c\u4e8c\uff01\u300d \u4e09 End. Next") == [
        "\u4e00\u3002", "\u300c\u4e8c\uff01\u300d", "\u4e09 End.", "Next"
    ]  # fmt: skip


def test_a_folder_becomes_an_index(tmp_path: Path) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    (source / "otter.txt").write_text("The otter swims in rivers.")
    (source / "bread.md").write_text("# Bread\n\nFlour, water and yeast.")
    Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.png")).write_bytes(b"a picture")
    build_index(source, tmp_path / "index", encoder=load_encoder())
    assert "caf\\xe9.png: " in (tmp_path / "index" / "skipped.txt").read_text(encoding="utf-8")
    index = Index.load(tmp_path / "index", encoder=load_encoder())
    assert index.search(["How is bread made?"], 1)[0][0].passage.id == "bread.md#0"


@given(st.text("ab. A!?\n\t'\")", max_size=300), st.integers(1, 12))
def test_chunks_lose_and_double_no_word(text: str, words: int) -> None:
    made = list(Chunking(size=words).chunks(text))
    assert " ".join(made).split() == text.split()
    assert all(1 <= len(chunk.split()) <= words for chunk in made)
    assert " ".join(sentences(text)).split() == text.split()


@settings(deadline=None)  # the first text of all loads the tokenizer
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
    with pytest.raises(BadInput, match=r"tokenizer=.*: none could be loaded"):
        list(Chunking("tokens", 4, tokenizer=str(tmp_path)).chunks("text"))


@pytest.mark.parametrize(
    ("chunking", "said"),
    [
        ({"size": 0}, "size is 0"),
        ({"by": "words", "size": 5, "overlap": 5}, "overlap=5"),
        ({"size": 5, "overlap": 2}, "by=words"),
        ({"by": "lines"}, "by is 'lines', but it must be one of sentences, words, tokens"),
    ],
)
def test_chunks_that_cannot_be_are_refused(chunking: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Chunking(**chunking)


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


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tsv", b"1\tOtters swim.\tOtter\n", "header"),
        ("a.tsv", b"id\ttext\n1\n", "a.tsv:2"),
        ("a.jsonl", b'{"id": "1", "text": "x"}\n' * 2, "a.jsonl:2: the id '1' was used in line 1"),
        ("a.jsonl.gz", b"no archive", "a.jsonl.gz:1"),
        ("a.parquet", b"no parquet", "a.parquet"),
        ("a.txt", b"\xff\xfe\x00", "no UTF-16-LE text at byte 2"),
        ("a.txt", b"a\xff", "no UTF-8 text at byte 1"),
        ("a.txt", b"  \n", "holds no passage"),
    ],
)
def test_what_is_wrong_is_said_where(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=said):
        list(read_corpus(tmp_path / name))


def test_a_folder_without_a_corpus_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadInput, match="holds no corpus"):
        list(read_corpus(tmp_path / "nothing"))


def test_links_that_lead_out_of_a_folder_are_skipped_and_said(tmp_path: Path) -> None:
    folder, outside = tmp_path / "corpus", tmp_path / "private"
    for place in (folder / "sub", outside):
        place.mkdir(parents=True)
    (outside / "secret.md").write_text("The secret is kept elsewhere.")
    (folder / "own.md").write_text("This is what the folder holds.")
    (folder / "out.md").symlink_to(outside / "secret.md")
    (folder / "all").symlink_to(outside)
    (folder / "sub" / "again.md").symlink_to(folder / "own.md")
    skipped = Skipped()
    texts = [passage.text for passage in read_corpus(folder, skipped=skipped)]
    assert texts and not any("secret" in text for text in texts)
    assert sum("folder holds" in text for text in texts) == 2
    assert sorted(line.partition(": ")[0] for line in skipped) == [
        str(folder / "all"),
        str(folder / "out.md"),
    ]
    assert all("not followed" in line for line in skipped)
