"""Of every format that is read: passages and what is skipped are all that was there.

Two ways to spoil a good file. Records are changed before they are written, so that their number is
known in every format; or bytes of the file are, and then each record's own word that is still in
there must be in a passage, or what is said must cover where it stands.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import mailbox
import random
import re
from collections.abc import Callable, Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from neurorit.core.errors import BadInput
from neurorit.data.example_files import read_examples
from neurorit.data.examples import Passage
from neurorit.data.published import write_published
from neurorit.retrieval.corpus.reader import Skipped, read_corpus
from tests.retrieval.corpus.test_as_written import PYTHON, mutated
from tests.retrieval.corpus.test_sources import pdf

QUICK, MANY = 12, 2_000
Record = dict[str, Any]
COLUMNS = ("id", "title", "text", "meta", "note")
WORD = re.compile(r"w\d{5}x")


def word(number: int) -> str:
    return f"w{number:05d}x"


def good_record(number: int) -> Record:
    return {
        "id": f"r{number}",
        "title": f"Title {number}",
        "text": f"The kiln {word(number)}, in a \u201cyard\u201d.",
    }


def changed_record(number: int, rng: random.Random) -> Record:
    """A record of which one field is lost, empty, of another kind, or used before."""
    changes: Sequence[Mapping[str, Any]] = (
        *({}, {}, {}, {"text": None}, {"text": ""}, {"text": " \t"}, {"text": "", "title": ""}),
        *({"id": "r0"}, {"id": None}, {"id": ""}, {"id": number + 7000}, {"title": None}),
        *({"text": 'a "b\nc, d'}, {"text": "\u200b"}, {"meta": {"a": [1, {"b": None}]}}),
        *({"meta": {"text": "x"}}, {"text": "x\0y"}, {"text": "\ufeffx"}, {"title": "\n"}),
    )
    record = good_record(number) | rng.choice(changes)
    return {name: value for name, value in record.items() if value is not None}


def as_table(records: Sequence[Record], delimiter: str) -> bytes:
    stream = io.StringIO(newline="")
    table = csv.writer(stream, delimiter=delimiter)
    table.writerow(COLUMNS)
    for record in records:
        cells = [record.get(name, "") for name in COLUMNS]
        table.writerow([json.dumps(c) if isinstance(c, dict) else c for c in cells])
    return stream.getvalue().encode()


def as_parquet(records: Sequence[Record]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"id": str(r.get("id", "")), "title": r.get("title"), "text": r.get("text"),
         "meta": json.dumps(r.get("meta", {}))}
        for r in records
    ]  # fmt: skip
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


def lines(values: Sequence[Any]) -> bytes:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def as_lang_chain(record: Record) -> Record:
    fields = {"page_content": record.get("text"), "metadata": record.get("meta", {})}
    return {"lc": 1, "type": "constructor", "kwargs": {**fields, "id": record.get("id")}}


def as_squad(records: Sequence[Record]) -> bytes:
    articles = [
        {"title": r.get("title"), "paragraphs": [{"context": r.get("text"), "qas": []}]}
        for r in records
    ]
    return json.dumps({"version": "1.1", "data": articles}).encode()


def as_mails(records: Sequence[Record], folder: Path) -> bytes:
    place = folder / "made.mbox"
    box = mailbox.mbox(place)
    for record in records:
        message = EmailMessage()
        message["Subject"] = " ".join(str(record.get("title", "")).split())
        text = str(record.get("text", "")).replace("\0", " ")
        message.set_content(text.encode("ascii", "replace").decode())
        box.add(message)
    box.close()
    data = place.read_bytes()
    place.unlink()
    return data


# Name of the file -> how records are written. Those that keep no ids have none used before.
FORMATS: dict[str, Callable[[Sequence[Record], Path], bytes]] = {
    "a.jsonl": lambda records, _: lines(records),
    "a.ndjson.gz": lambda records, _: gzip.compress(lines(records)),
    "array.json": lambda records, _: json.dumps(records).encode(),
    "pretty.json": lambda records, _: json.dumps(records, indent=1, ensure_ascii=False).encode(),
    "comma.csv": lambda records, _: as_table(records, ","),
    "semicolon.csv": lambda records, _: as_table(records, ";"),
    "a.tsv": lambda records, _: as_table(records, "\t"),
    "a.parquet": lambda records, _: as_parquet(records),
    "named.json": lambda records, _: json.dumps({"documents": records}).encode(),
    "LangChain.json": lambda records, _: json.dumps([*map(as_lang_chain, records)]).encode(),
    "memory.json": lambda records, _: json.dumps(
        {f"k{i}": {**r, "vector": [0.5]} for i, r in enumerate(records)}
    ).encode(),
    "LlamaIndex.json": lambda records, _: json.dumps(
        {"docstore/data": {f"n{i}": {"__data__": {**r, "metadata": r.get("meta")}}
                           for i, r in enumerate(records)}}
    ).encode(),
    "Chroma.json": lambda records, _: json.dumps(
        {"ids": [str(r.get("id", "")) for r in records],
         "documents": [r.get("text") for r in records],
         "metadatas": [r.get("meta") for r in records]}
    ).encode(),
    "hits.jsonl": lambda records, _: lines(
        [{"_id": r.get("id"), "_source": {k: v for k, v in r.items() if k != "id"}}
         for r in records]
    ),
    "answer.json": lambda records, _: json.dumps(
        {"took": 3, "hits": {"total": 9, "hits": [{"_id": r.get("id"), "_source": r}
                                                  for r in records]}}
    ).encode(),
    "squad.json": lambda records, _: as_squad(records),
    "a.mbox": as_mails,
}  # fmt: skip
PACKED = ("a.ndjson.gz", "a.parquet")
# A word of a mail may go into its head, where nothing is read; the count of messages says enough.
BY_WORDS = [name for name in FORMATS if name not in (*PACKED, "a.mbox")]


def read(path: Path) -> tuple[list[Passage], Skipped]:
    skipped, found = Skipped(), list[Passage]()
    with contextlib.suppress(BadInput):  # that it holds no passage
        found.extend(read_corpus(path, skipped=skipped))
    for told in skipped:
        assert told.startswith(str(path)) and not any(one in told for one in PYTHON), told
    assert found or len(skipped)
    return found, skipped


def change_records(folder: Path, name: str, turns: int) -> None:
    rng = random.Random(name)
    for _ in range(turns):
        records = [changed_record(number, rng) for number in range(rng.randint(1, 7))]
        path = folder / name
        path.write_bytes(FORMATS[name](records, folder))
        found, skipped = read(path)
        assert skipped.used == len(found), records
        assert len(found) + len(skipped) == len(records), (records, found, list(skipped))


def unsaid(text: str, seen: set[str], skipped: Skipped, path: Path) -> list[str]:
    """Words of a file that no passage holds, and about whose place nothing is said."""
    told = [(re.match(rf"{re.escape(str(path))}:(\d+)", one), one) for one in skipped]
    # In JSON what is said names members, of which several may stand on a line, or no value at all.
    by_line = path.suffix != ".json"
    named = {int(place[1]) for place, one in told if place and (by_line or " no " in one)}
    if any(place is None or "the header" in one for place, one in told):
        return []  # the whole file
    head = text.partition("\n")[0]
    if path.suffix in (".csv", ".tsv") and re.split("[,;\t]", head) != list(COLUMNS):
        return []  # other columns
    there = [*WORD.finditer(text)]
    # A record that breaks off is named where it does, and those behind it with it.
    whole = ("cannot be read", "is not read", "of other lengths")
    ended = any(said in one for said in whole for _, one in told)
    last = max((number for number, one in enumerate(there) if one[0] in seen), default=-1)
    lost = [
        one[0]
        for number, one in enumerate(there)
        if one[0] not in seen and not (ended and number > last)
        and text.count("\n", 0, one.start()) + 1 not in named
    ]  # fmt: skip
    return lost if by_line or len(lost) > len(skipped) else []


def change_bytes(folder: Path, name: str, turns: int) -> None:
    rng = random.Random(name)
    path = folder / name
    for _ in range(turns):
        records = [good_record(number) for number in range(rng.randint(1, 6))]
        path.write_bytes(mutated(FORMATS[name](records, folder), rng))
        found, skipped = read(path)
        if name in BY_WORDS:
            text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
            seen = {one for p in found for one in WORD.findall(f"{p.id} {p.title} {p.text}")}
            lost = unsaid(text, seen, skipped, path)
            assert not lost, (lost, path.read_bytes(), found, list(skipped))


@pytest.mark.parametrize("name", FORMATS)
def test_passages_and_what_is_skipped_are_all_records(tmp_path: Path, name: str) -> None:
    change_records(tmp_path, name, QUICK)


@pytest.mark.parametrize("name", FORMATS)
def test_no_record_of_a_damaged_file_is_lost_unsaid(tmp_path: Path, name: str) -> None:
    change_bytes(tmp_path, name, QUICK)


def as_docx(record: Record, folder: Path) -> bytes:
    import docx

    document = docx.Document()
    document.add_heading("".join(c for c in str(record.get("title", "")) if c.isprintable()), 0)
    document.add_paragraph("".join(c for c in str(record.get("text", "")) if c.isprintable()))
    document.save(str(folder / "made"))
    return (folder / "made").read_bytes()


DOCUMENTS: dict[str, Callable[[Record, Path], bytes]] = {
    ".md": lambda r, _: f"# {r.get('title', '')}\n\n{r.get('text', '')}\n".encode(),
    ".txt": lambda r, _: str(r.get("text", "")).encode(),
    ".html": lambda r, _: f"<title>{r.get('title', '')}</title><p>{r.get('text', '')}</p>".encode(),
    ".pdf": lambda r, _: pdf(str(r.get("text", "")).encode("ascii", "ignore").decode()),
    ".docx": as_docx,
    ".eml": lambda r, _: f"Subject: {r.get('title', '').strip()}\n\n{r.get('text', '')}\n".encode(),
    ".png": lambda r, _: b"\x89PNG",
    "": lambda r, _: b"README",
}


def change_folders(folder: Path, turns: int, count: int) -> None:
    """Files in are files that gave passages and files that are named, each once."""
    rng = random.Random(0)
    kinds = sorted(DOCUMENTS)
    for turn in range(turns):
        place = folder / str(turn)
        place.mkdir()
        for number in range(count):
            kind = kinds[(turn + number) % len(kinds)]
            data = DOCUMENTS[kind](changed_record(number, rng), folder)
            spoilt = mutated(data, rng) if rng.random() < 0.6 else data
            (place / f"f{number}{kind}").write_bytes(spoilt)
        found, skipped = read(place)
        with_passages = {str(passage.meta["source"]) for passage in found}
        named = {
            line.removeprefix(f"{place}/").partition(": ")[0].partition(",")[0] for line in skipped
        }
        files = {file.name for file in place.iterdir()}
        assert with_passages | named == files, files - with_passages - named
        both = with_passages & named  # a mail whose attachment is left out, a PDF with empty pages
        assert all(name.endswith((".pdf", ".eml")) for name in both)
        assert len(found) >= len(with_passages)


@pytest.mark.filterwarnings("ignore")
def test_every_file_of_a_folder_gives_passages_or_is_named(tmp_path: Path) -> None:
    change_folders(tmp_path, 5, 24)


SQUAD_ROW = {"context": "The kiln burns.", "answers": [{"text": "kiln", "answer_start": 4}]}


def hotpot(number: int) -> Record:
    return {
        "_id": f"q{number}", "question": f"Who {word(number)}?", "answer": "Ada",
        "supporting_facts": [["Ada", 0]], "context": [["Ada", ["Ada wrote it."]], ["B", ["No."]]],
    }  # fmt: skip


def kilt(number: int) -> Record:
    return {"id": f"q{number}", "input": f"Who {word(number)}?", "output": [{"answer": "Ada"}]}


def example(number: int) -> Record:
    return {"id": f"q{number}", "question": f"Who {word(number)}?", "answers": ["Ada"]}


def squad_of(count: int) -> bytes:
    asked = [{"id": f"q{n}", "question": f"Who {word(n)}?", **SQUAD_ROW} for n in range(count)]
    paragraphs = [{"context": "The kiln burns.", "qas": [one]} for one in asked]
    return json.dumps({"data": [{"title": "Kiln", "paragraphs": paragraphs}]}).encode()


def beir_of(count: int) -> bytes:
    return lines(
        [{"_id": f"q{n}", "text": f"Who {word(n)}?", "metadata": {"answer": "Ada"}}
         for n in range(count)]
    )  # fmt: skip


QUESTIONS: dict[str, Callable[[int], bytes]] = {
    "questions.jsonl": lambda count: lines([example(n) for n in range(count)]),
    "questions.json": lambda count: json.dumps([example(n) for n in range(count)]).encode(),
    "questions.csv": lambda count: "".join(
        ["id,question,answers\n", *(f"q{n},Who {word(n)}?,Ada\n" for n in range(count))]
    ).encode(),
    "squad.json": squad_of,
    "queries.jsonl": beir_of,
}
PUBLISHED: dict[str, Callable[[int], bytes]] = {
    "hotpotqa": lambda count: json.dumps([hotpot(n) for n in range(count)]).encode(),
    "kilt": lambda count: lines([kilt(n) for n in range(count)]),
    "squad": squad_of,
    "flashrag": lambda count: lines(
        [{"id": n, "question": f"Who {word(n)}?", "golden_answers": ["Ada"]} for n in range(count)]
    ),
}


def change_questions(folder: Path, name: str, turns: int) -> None:
    """Each question is read, left out with a reason, or the file is refused by name."""
    rng = random.Random(name)
    for _ in range(turns):
        published = name in PUBLISHED
        path = folder / ("set.json" if published else name)
        count = rng.randint(1, 5)
        data = mutated((PUBLISHED if published else QUESTIONS)[name](count), rng)
        path.write_bytes(data)
        left: dict[str, int] = {}
        place = folder if name == "queries.jsonl" else path
        try:
            if published:
                out = folder / "out"
                told = write_published(name, out, source=str(path), overwrite=True)
                left = told["left_out"]
                found = list(read_examples(out / "questions.jsonl", unanswered="unanswerable"))
            else:
                found = list(read_examples(place, left_out=left))
        except BadInput as error:
            said = str(error)
            assert said.startswith(str(path)) and not any(one in said for one in PYTHON), said
            assert "\n" not in said
            continue
        text = data.decode("utf-8", "replace")
        if name.endswith(".csv") and not text.startswith("id,question,answers\n"):
            continue  # other columns
        there = set(WORD.findall(text))
        asked = {one for e in found for one in WORD.findall(f"{e.id} {e.question}")}
        assert len(there - asked) <= sum(left.values()), (data, found, left)


@pytest.mark.parametrize("name", [*QUESTIONS, *PUBLISHED])
def test_questions_are_read_left_out_with_a_reason_or_refused(tmp_path: Path, name: str) -> None:
    change_questions(tmp_path, name, QUICK)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_thousand_changed_files_of_every_format(tmp_path: Path) -> None:
    for name in FORMATS:
        change_records(tmp_path, name, MANY // 40)
        change_bytes(tmp_path, name, MANY // 40)
    for name in (*QUESTIONS, *PUBLISHED):
        change_questions(tmp_path, name, MANY // 40)
    (tmp_path / "folders").mkdir()
    change_folders(tmp_path / "folders", MANY // 80, 24)
