"""What is read is what was written, and what gives no passage is named and counted."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import json
import mailbox
import random
import tempfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.data.formats.text_files import numbered_lines
from neurorit.retrieval.corpus.documents import front_matter, markdown_text
from neurorit.retrieval.corpus.html import page_source, page_text
from neurorit.retrieval.corpus.pdf import mended
from neurorit.retrieval.corpus.reader import Skipped, corpus_files, read_corpus
from neurorit.retrieval.corpus.records import split_contents
from tests.retrieval.corpus.test_sources import pdf

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
ENDS = ("\n", "\r\n", "\r")
WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\u00ad"), max_size=12
)
TEXTS = WORDS.map(lambda text: f"The kiln {text}.")


def as_written(path: Path, skipped: Skipped | None = None) -> list[Passage]:
    return list(read_corpus(path, skipped=skipped))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(ENCODINGS), st.sampled_from(ENDS), st.booleans(), TEXTS)
def test_a_text_is_the_same_in_every_encoding(
    encoding: str, end: str, packed: bool, text: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "a.txt"
        plain.write_bytes(f"{text}{end}It fires tiles.{end}".encode(encoding))
        (passage,) = as_written(plain)
        assert passage.text == " ".join(f"{text} It fires tiles.".split())
        lines = Path(folder) / ("a.jsonl.gz" if packed else "a.jsonl")
        line = json.dumps({"id": 1, "text": text}, ensure_ascii=False) + end
        lines.write_bytes(gzip.compress(line.encode(encoding)) if packed else line.encode(encoding))
        (passage,) = as_written(lines)
        assert (passage.id, passage.text) == ("1", text)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text", ["печь", "हिन्दी की भट्ठी", "καμίνι", "الفرن قديم", "תנור ישן", "เตาเผา"]
)
def test_an_alphabet_in_utf_16_without_a_mark_is_no_garbage(
    tmp_path: Path, encoding: str, text: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"{text}\r\n".encode(encoding))
    (passage,) = as_written(path)
    assert passage.text == text
    path.write_bytes(b"\x01AB\x02CD" * 9)
    with pytest.raises(BadInput, match="full of control characters"):
        as_written(path)
    struck = "N\bNA\bAM\bME\bE\tx\n\x1b[1mx\x1b[0m\n"  # a manual's page
    path.write_text(struck)
    assert as_written(path)[0].text.startswith("N\bN")


CELLS = st.text(st.sampled_from("ab \"'\n,;\u00e9"), max_size=30).map(lambda cell: f"x{cell}x")


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(CELLS, min_size=1, max_size=5),
    form=st.sampled_from([(".csv", ","), (".csv", ";"), (".tsv", "\t"), (".csv", "\t")]),
    end=st.sampled_from(ENDS[:2]),
    encoding=st.sampled_from(ENCODINGS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_a_cell_is_the_same_in_every_table(
    rows: list[str], form: tuple[str, str], end: str, encoding: str, quoting: Any
) -> None:
    suffix, delimiter = form
    stream = io.StringIO(newline="")
    table = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=quoting)
    table.writerow(["id", "text", "title"])
    for number, cell in enumerate(rows):
        table.writerow([number, cell, "t"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{suffix}"
        path.write_bytes(stream.getvalue().encode(encoding))
        assert [p.text for p in as_written(path)] == rows


def test_quotes_that_are_no_table_s_are_kept_and_an_open_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = [
        "id\ttext\ttitle",
        '1\t"Stop," said Ida, "it is shut."\tIda',
        '2\t"Open\tSign',
        "3\tEnd.\tE",
    ]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BadInput, match=r"a\.tsv:3: .*the quote that opens column 2 is not closed"):
        as_written(path)
    skipped = Skipped()
    found = as_written(path, skipped)
    assert [p.text for p in found] == ['"Stop," said Ida, "it is shut."', "End."]
    assert (skipped.used, len(skipped)) == (2, 1)
    path.write_text('id\ttext\n1\t"Open\n2\tends here"\n3\tlater\n')
    assert len(as_written(path, skipped)) == 2, "a quote swallows no other row"


@pytest.mark.parametrize(
    "table",
    [
        "sep=;\nid;text\n7;kiln, hot\n",
        "id;text\r7;kiln, hot\r",
        'ID,Text,,\n7,"kiln, hot",,\n',
        "DocNo|TEXT\n7|kiln, hot\n",
    ],
)
def test_a_table_as_spreadsheets_write_it(tmp_path: Path, table: str) -> None:
    (tmp_path / "a.csv").write_text(table, newline="")
    (passage,) = as_written(tmp_path / "a.csv")
    assert (passage.id, passage.text) == ("7", "kiln, hot")
    (tmp_path / "a.csv").write_text("id,text\n1,a\r2,b\n", newline="")
    with pytest.raises(BadInput, match=r"a\.csv:2: not a passage: a line ends with \\r alone"):
        as_written(tmp_path / "a.csv")


def test_numbers_that_are_none_are_nothing(tmp_path: Path) -> None:
    line = '{"id": 1, "text": "x", "meta": {"a": NaN, "b": [Infinity, 1]}}'
    for name, text in (("a.jsonl", f"{line}\n"), ("a.json", f"[{line}]")):
        (tmp_path / name).write_text(text)
        assert as_written(tmp_path / name)[0].meta == {"a": None, "b": [None, 1]}
    for name in ("Infinity", "NaN", "1e400"):
        (tmp_path / "b.jsonl").write_text(f'{{"id": {name}, "text": "x"}}')
        with pytest.raises(BadInput, match="'id' must be a non-empty string or a whole number"):
            as_written(tmp_path / "b.jsonl")


def test_names_are_known_in_capitals_and_no_id_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"ID": 7, "Text": "x", "TITLE": "T"}\n{"Id": 8, "text": "y", "Text": "z"}\n')
    assert [(p.id, p.title, p.text) for p in as_written(path)] == [("7", "T", "x"), ("8", "", "y")]


def test_a_table_of_a_database_and_dates_are_read(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    when = datetime.datetime(2024, 5, 1, 12)
    autorag = {"doc_id": "d-1", "contents": "The kiln.", "metadata": {"made": when, "tags": ["a"]}}
    parquet.write_table(pyarrow.Table.from_pylist([autorag]), tmp_path / "corpus.parquet")
    (passage,) = as_written(tmp_path / "corpus.parquet")
    assert (passage.id, passage.text) == ("d-1", "The kiln.")
    assert passage.meta == {"made": "2024-05-01T12:00:00", "tags": ["a"]}
    row = {"id": 7, "document": "The kiln.", "embedding": [0.5], "cmetadata": '{"page": 3}'}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "pgvector.parquet")
    (passage,) = as_written(tmp_path / "pgvector.parquet")
    assert (passage.id, passage.meta) == ("7", {"page": 3})


STORES: dict[str, Any] = {
    "LlamaIndex": {
        "docstore/data": {
            "n1": {"__data__": {"id_": "n1", "text": "Kiln.", "metadata": {"a": 1}}},
            "n2": {"__type__": "1", "__data__": {"text_resource": {"text": "Barge."}}},
        }
    },
    "LangChain": [
        {"lc": 1, "type": "constructor", "id": ["langchain", "Document"],
         "kwargs": {"id": key, "page_content": text, "metadata": {"a": 1}}}
        for key, text in (("n1", "Kiln."), ("n2", "Barge."))
    ],
    "LangChain, plain": [{"id": "n1", "page_content": "Kiln.", "metadata": {"a": 1}},
                         {"id": "n2", "page_content": "Barge."}],
    "LangChain, in memory": {
        "n1": {"id": "n1", "vector": [0.5], "text": "Kiln.", "metadata": {"a": 1}},
        "n2": {"id": "n2", "vector": [0.5], "text": "Barge.", "metadata": {}},
    },
    "Chroma": {"ids": ["n1", "n2"], "documents": ["Kiln.", "Barge."],
               "metadatas": [{"a": 1}, None]},
    "Elasticsearch": [{"_id": "n1", "_source": {"text": "Kiln.", "meta": {"a": 1}}},
                      {"_id": "n2", "_source": {"text": "Barge."}}],
    "Elasticsearch, an answer": {"took": 1, "hits": {"hits": [
        {"_id": "n1", "_source": {"text": "Kiln.", "meta": {"a": 1}}},
        {"_id": "n2", "_source": {"text": "Barge."}}]}},
    "a list by a name": {"documents": [{"id": "n1", "text": "Kiln.", "meta": {"a": 1}},
                                       {"id": "n2", "text": "Barge."}]},
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("store", STORES)
def test_what_other_tools_stored_is_read(tmp_path: Path, store: str, indent: int | None) -> None:
    path = tmp_path / "store.json"
    path.write_text(json.dumps(STORES[store], indent=indent))
    found = as_written(path)
    assert [(p.id, p.text) for p in found] == [("n1", "Kiln."), ("n2", "Barge.")]
    assert found[0].meta == {"a": 1}


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ({"ids": ["a", "b"], "documents": ["x"]}, r"of other lengths \(2, 1, 2\)"),
        ({"ids": [["a"]], "documents": [["x"]]}, "Chroma's `query` returns; what `get` returns"),
        ({"docstore/data": {"a": "{"}}, "node a: not a passage: it is no JSON object"),
    ],
)
def test_a_store_that_would_lose_something_is_refused(
    tmp_path: Path, store: Any, told: str
) -> None:
    path = tmp_path / "store.json"
    path.write_text(json.dumps(store))
    with pytest.raises(BadInput, match=rf"store\.json:1: not a passage: .*{told}|{told}"):
        as_written(path)


def test_of_a_store_only_what_is_bad_is_left_out(tmp_path: Path) -> None:
    node = '{"__data__": {"text": "Kiln."}}'
    for store in (
        {"docstore/data": {"n1": "{", "n2": json.loads(node)}},
        {"n1": {"vector": [0.5]}, "n2": {"text": "Kiln.", "vector": [0.5]}},
    ):
        (tmp_path / "store.json").write_text(json.dumps(store))
        skipped = Skipped()
        assert [p.id for p in as_written(tmp_path / "store.json", skipped)] == ["n2"]
        assert len(skipped) == 1 and "n1: not a passage" in next(iter(skipped))


def test_a_form_that_is_not_known_is_told_with_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "inhalt": "x"}\n')
    with pytest.raises(BadInput, match=r"its fields are id, inhalt\); read are id, title, text"):
        as_written(path)
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(
        BadInput, match=r"a\.xlsx: files of this kind are not read; read are \.jsonl"
    ):
        as_written(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("contents", "title"),
    [
        ("Otter\nIt swims.", "Otter"),
        ('"Otter of the sea."\nIt swims.', "Otter of the sea."),
        ("Apple Inc.\nA maker.", "Apple Inc."),
        ("word " * 400 + "\nMore.", ""),
        ("This is a first sentence, and no title at all.\nMore.", ""),
        ("Only one line", ""),
    ],
)
def test_a_first_line_is_a_title_only_where_it_is_one(contents: str, title: str) -> None:
    assert split_contents(contents)[0] == title
    lost = set(contents.replace('"', "").split()) - set(" ".join(split_contents(contents)).split())
    assert not lost


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("gb2312", "gb18030", "朱镕基"), ("shift_jis", "cp932", "①高"),
        ("x-sjis", "cp932", "①"), ("euc-kr", "cp949", "똠"), ("big5", "big5hkscs", "漢"),
        ("iso-8859-1", "cp1252", "café €"), ("ascii", "cp1252", "“x”"),
        ("windows-1251", "cp1251", "печь"), ("koi8-r", "koi8-r", "печь"),
        ("tis-620", "cp874", "เตา"), ("utf-16", "utf-8", "café"), ("utf8", "utf-8", "café"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "form",
    [
        '<meta charset="{}">',
        "<?xml version='1.0' encoding='{}'?>",
        '<meta http-equiv="Content-Type" content="text/html; charset={}">',
        '<!-- <meta charset="ibm866"> --><meta charset={}>',
        '<meta name="description" content="of charset=ibm866"><meta charset="{}">',
    ],
)
def test_a_page_is_decoded_as_browsers_do(label: str, codec: str, text: str, form: str) -> None:
    page = f"{form.format(label)}<html><body><p>{text}</p></body></html>"
    assert page_text(page_source(page.encode(codec)))[1].strip() == text


def test_a_page_s_title_and_text_are_what_a_reader_sees() -> None:
    page = (
        "<div><svg><title>Close menu</title></svg><h1>Firing a kiln</h1><p>Raise&shy;d slowly.</p>"
        "<p hidden>one</p><p style='color: red; Display : none'>two</p><canvas>three</canvas>"
        "<iframe>four</iframe><p style='visibility:hidden'>five</p><details>Seen.</details></div>"
    )
    title, text = page_text(page)
    assert title == "Firing a kiln"
    assert text.split() == ["Firing", "a", "kiln", "Raise\u00add", "slowly.", "Seen."]


FRONT = (
    "---\n{}\n---\n",
    "\n---\n{}\n---\n",
    "---yaml\n{}\n---\n",
    "---\n{}\n...\n",
    "--- \n{}\n---  \n",
    "\ufeff---\n{}\n---\n",
)


@settings(deadline=None)
@given(st.sampled_from(FRONT), st.sampled_from(["\n", "\r\n", "\r"]), st.booleans())
def test_front_matter_gives_the_title_and_nothing_else(front: str, end: str, heading: bool) -> None:
    text = front.format("title: Kiln guide\ntags: [clay]") + ("# Firing\n" if heading else "")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.md"
        path.write_bytes((text + "\nRaise the heat.\n").replace("\n", end).encode())
        (passage,) = as_written(path)
    assert passage.title == "Kiln guide"
    assert passage.text == ("Firing " if heading else "") + "Raise the heat."


def test_what_is_no_front_matter_stays() -> None:
    assert front_matter("---\nA line.\n---\nMore.") == ("", "---\nA line.\n---\nMore.")
    assert markdown_text("+++\ntitle = 'Kiln'\n+++\nHeat.") == ("Kiln", "Heat.")
    assert markdown_text("---\ntitle: Kiln: a guide\n---\nHeat.") == ("Kiln: a guide", "Heat.")
    assert markdown_text("---\nauthor: Ida\n---\n# Kiln\nHeat.") == ("Kiln", "Heat.")
    assert markdown_text("---\n---\nHeat.") == ("", "Heat.")
    assert markdown_text("% Kiln\n% Ida\n\nHeat.") == ("Kiln", "Heat.")
    assert markdown_text("---\nTitle: Kiln\n---\nHeat.") == ("Kiln", "Heat.")
    for form in ("{}", "---json\n{}\n---", ";;;\n{}\n;;;"):
        front = form.format('{\n "title": "Kiln"\n}')
        assert markdown_text(f"{front}\nHeat.") == ("Kiln", "Heat.")
    assert markdown_text("{\nx\n}\nHeat.") == ("", "{ x } Heat.")


def test_words_that_a_page_took_apart_are_put_together() -> None:
    pages = [
        "The \ufb01re brick is \ufb02at and ther-\nmal, a well-\nknown kiln.",
        "A well-known one.",
    ]
    assert next(iter(mended(pages))) == "The fire brick is flat and thermal, a well-known kiln."
    assert list(mended(["sky\u00ad\nline and co\u00adop, 1990-\n1991, Anne-\nMarie"])) == [
        "skyline and coop, 1990-\n1991, Anne-Marie"
    ]


def write_folder(folder: Path) -> None:
    """One file of every kind that is read, and one of some that are not."""
    import docx

    (folder / "a.txt").write_text("The kiln fires tiles.")
    (folder / "b.md").write_text("# Kiln\n\nRaise the heat.")
    (folder / "c.html").write_text("<title>Kiln</title><p>Raise the heat.</p>")
    (folder / "d.jsonl").write_text(
        '{"id": "1", "text": "A barge."}\n{"id": "2", "text": "Clay."}\n'
    )
    (folder / "e.json").write_text(
        json.dumps([{"id": "3", "text": "Fire."}, {"id": "4", "text": "Ash."}])
    )
    (folder / "f.csv").write_text('id,text\n5,"Tiles, and bricks"\n')
    (folder / "g.tsv").write_text("id\ttext\n6\tA mill.\n")
    document = docx.Document()
    document.add_heading("Kiln guide", 0)
    document.add_paragraph("Raise the heat slowly.")
    document.add_table(1, 2).rows[0].cells[1].text = "900 degrees"
    document.save(str(folder / "h.docx"))
    box = mailbox.mbox(folder / "i.mbox")
    for number in range(2):
        message = EmailMessage()
        message["Subject"], message["From"] = f"Kiln {number}", "ida@example.org"
        message.set_content(f"The kiln n\u00ba {number} is hot.\n")
        box.add(message)
    box.close()


def write_packed(folder: Path) -> None:
    """The kinds that are no text: packed records, Parquet, a PDF of two pages."""
    import pyarrow
    from pyarrow import parquet

    rows = [{"id": "p1", "text": "A lock."}, {"id": "p2", "text": "A weir."}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "j.parquet")
    (folder / "k.jsonl.gz").write_bytes(gzip.compress(b'{"id": "k1", "text": "A quay."}\n'))
    (folder / "l.pdf").write_bytes(pdf("The kiln fires tiles.", "At dawn."))


def test_every_kind_of_file_gives_its_passages_and_the_rest_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "blank.txt").write_text(" \n")
    (tmp_path / "script.html").write_text("<noscript>Enable it</noscript><div id=root></div>")
    (tmp_path / "only.md").write_text("# A heading alone\n")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "titles.jsonl").write_text('{"id": "9", "title": "Kiln", "text": ""}\n')
    nothing = {"n1.jsonl": "", "n2.json": "[]", "n3.csv": "id,text\n", "n4.json": '{"docs": []}'}
    for name, text in nothing.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "elsewhere.txt")
    skipped = Skipped(lenient=False)
    found = {p.id: p for p in as_written(tmp_path, skipped)}
    assert len(found) == 12
    assert (found["h.docx#0"].title, found["h.docx#0"].text) == (
        "Kiln guide", "Raise the heat slowly. 900 degrees",
    )  # fmt: skip
    assert (found["i.mbox#1"].title, found["i.mbox#1"].text) == (
        "Kiln 1",
        "The kiln n\u00ba 1 is hot.",
    )
    assert found["i.mbox#1"].meta["from"] == "ida@example.org"
    reasons = {
        line.partition(": ")[0].rpartition("/")[2]: line.partition(": ")[2] for line in skipped
    }
    assert reasons == {
        "blank.txt": "no text",
        "script.html": "no text",
        "only.md": "a title without text",
        "photo.png": "files of the kind .png are not read",
        "titles.jsonl:1": "a title without text",
        **dict.fromkeys(nothing, "it holds no record"),
        "gone.txt": "it points to no file",
    }
    assert (skipped.used, skipped.share) == (12, 12 / 22)


def test_a_scan_and_an_empty_page_are_named(tmp_path: Path) -> None:
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(72, 72)
    writer.add_blank_page(72, 72)
    writer.write(tmp_path / "scan.pdf")
    writer.encrypt("secret")
    writer.write(tmp_path / "locked.pdf")
    (tmp_path / "page.pdf").write_text("<html></html>")
    (tmp_path / "a.txt").write_text("Text.")
    skipped = Skipped()
    assert len(as_written(tmp_path, skipped)) == 1
    told = sorted(line.rpartition("/")[2] for line in skipped)
    assert told == [
        "locked.pdf: no PDF that can be read: it asks for a password",
        "page.pdf: no PDF that can be read: it does not begin as one",
        "scan.pdf: no text: scanned? (2 pages)",
    ]


PYTHON = (
    "Error(",
    "Traceback",
    "NoneType",
    "object has no attribute",
    "<class",
    "dict",
    "KeyError",
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Some bytes lost, doubled, changed or put in: marks, zeros and ends of lines among them."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(made) + 1), rng.randint(1, 9)
        part = rng.choice(
            (b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b'"', b"{", b"\xe9", b"\t")
        )
        action = rng.randrange(3)
        made[at : at + (size if action else 0)] = (
            part if action < 2 else bytes(made[at : at + size]) * 2
        )
    return bytes(made)


def fuzz(folder: Path, turns: int) -> None:
    """Change a good file and read it; what it says names the file, and nothing is lost unsaid."""
    write_folder(folder)
    write_packed(folder)
    good = {file.name: file.read_bytes() for file in corpus_files(folder)}
    rng = random.Random(0)
    for turn in range(turns):
        name = sorted(good)[turn % len(good)]
        path = folder / name
        path.write_bytes(mutated(good[name], rng))
        skipped, found = Skipped(), list[Passage]()
        with contextlib.suppress(BadInput):  # that it holds no passage
            found = as_written(path, skipped)
        assert found or len(skipped), (name, path.read_bytes())
        for told in skipped:
            assert told.startswith(str(path)) and not any(word in told for word in PYTHON), told
        if name == "d.jsonl" and not any("cannot be read" in told for told in skipped):
            lines = [line for _, line in numbered_lines(path, pytest.fail) if line.strip()]
            whole = lines[0].lstrip()[:1] == b"[" or lines[0].strip()[-1:] in b"{[,"
            assert whole or len(found) + len(skipped) == len(lines), (lines, list(skipped))
        path.write_bytes(good[name])


def test_changed_files_are_read_or_named(tmp_path: Path) -> None:
    fuzz(tmp_path, 200)


@pytest.mark.slow
def test_two_thousand_changed_files_are_read_or_named(tmp_path: Path) -> None:
    fuzz(tmp_path, 2_000)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["good", "bad", "title", "twice"]), min_size=1, max_size=12))
def test_passages_and_what_is_skipped_are_all_records(kinds: list[str]) -> None:
    rows = {
        "good": lambda i: json.dumps({"id": i, "text": "x"}),
        "bad": lambda i: '{"id": ' + str(i),
        "title": lambda i: json.dumps({"id": i, "title": "t", "text": " "}),
        "twice": lambda i: json.dumps({"id": "same", "text": "x"}),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(rows[kind](i) + "\n" for i, kind in enumerate(kinds)))
        skipped = Skipped()
        try:
            found = len(as_written(path, skipped))
        except BadInput:
            found = 0
        assert found + len(skipped) == len(kinds)
        assert found == skipped.used == kinds.count("good") + min(1, kinds.count("twice"))
