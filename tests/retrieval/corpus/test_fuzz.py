"""Ten thousand malformed inputs: named by file and line, no traceback and no half index of any.

NEURORIT_FUZZ multiplies their number. Thousands of lines are broken in a known place, which the
message must name; the others are damaged anywhere. A share goes through a whole build.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from neurorit.cli import app
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.example_files import read_examples
from neurorit.data.published import write_published
from neurorit.retrieval.corpus.reader import read_corpus
from neurorit.retrieval.index.build import SKIPPED
from neurorit.retrieval.index.index import Index, build_index
from neurorit.retrieval.settings import BuildSettings
from tests.retrieval.corpus.test_sources import ROWS, pdf, write_parquet

TIMES = int(os.environ.get("NEURORIT_FUZZ", "1"))

WRONG: tuple[Any, ...] = (
    3, None, True, [], {}, "", "text", [1, 2], {"id": True, "text": "x"}, {"id": "", "text": "x"},
    {"id": 1.5, "text": "x"}, {"id": ["a"], "text": "x"}, {"id": None, "text": "x"}, {"id": "a"},
    {"id": "a", "text": ""}, {"id": "a", "text": "  "}, {"id": "a", "text": 3},
    {"id": "a", "text": [3]}, {"id": "a", "text": "x", "title": 3},
    {"id": "a", "text": "x", "title": ["t"]}, {"id": "a", "text": "x", "meta": "m"},
    {"id": "a", "text": "x", "meta": [1]}, {"id": "a", "text": None}, {"id": "a", "contents": " "},
)  # fmt: skip
RAW = (
    b"{", b"}", b'{"id": "a", "text": "x"', b'{"id": "a", "text": "x"}}', b"[" * 5000, b"\0",
    b'{"id": "a", "text": "x\0"}', b'{"id": "a", "text": "\xff"}', b"\xff\xfe{}", b"\xed\xa0\x80",
    b'{"id": "a", "text": "\\ud800"}', b'{"id": "\\uDFFF", "text": "x"}', b"'a'", b"1e999 x",
    b'{"id": "a", "text": "x", "meta": {"\\udc00": 1}}',
    b'{"id": "a", "title": "\\ud83d", "text": "x"}',
    b'{"id": "a" "text": "x"}', b"nul", b'{"id": ' + b"9" * 5000 + b', "text": "x"}',
    b'{"id": "good-0", "text": "used before"}', b'{"a":' * 3000, b"\xef\xbb\xbf{}", b"id\ttext",
)  # fmt: skip
NASTY = (
    b"\0", b"\xff\xfe", b"{", b"[" * 3000, b'"', b"\n\n", b"\t", b"null", b"1e999", b"\\ud800",
    b'{"id": true}', b'{"id": "1", "text": 3}', b"\xed\xa0\x80", b"-", b"\r", b"", b"<", b"<form>",
    b"<meta charset=hex>", b"<meta charset=utf-7>", b"```", b"<!--", b"%PDF", b"\x1f\x8b",
)  # fmt: skip


class QuickEncoder:
    """Vectors by a hash of the text, after the check that a tokenizer makes: text is UTF-8."""

    name, dimension, fingerprint = "quick", 8, "quick"

    def encode_passages(self, texts: Sequence[str]) -> Any:
        made = [np.random.default_rng(zlib.crc32(text.encode("utf-8"))) for text in texts]
        rows = np.stack([one.standard_normal(self.dimension) for one in made]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_queries = encode_passages


def damaged(good: bytes, rng: random.Random) -> bytes:
    """A copy with bytes cut, doubled, flipped, or put in from a list of nasty ones."""
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        match rng.randrange(4):
            case 0:
                del data[at : at + rng.randint(1, 30)]
            case 1:
                data[at:at] = rng.choice(NASTY)
            case 2:
                data[at:at] = data[: rng.randint(0, len(data))]
            case _ if data:
                data[min(at, len(data) - 1)] = rng.randrange(256)
    return bytes(data)


def refused(work: Callable[[], Any]) -> str | None:
    """The message with which work refuses its input, in one line; None where it does not."""
    try:
        work()
    except NeuroritError as error:
        assert "\n" not in str(error) and "Traceback" not in str(error)
        return str(error)
    return None


def spoilt_line(rng: random.Random) -> bytes:
    return rng.choice(RAW) if rng.random() < 0.5 else json.dumps(rng.choice(WRONG)).encode()


def test_a_broken_line_is_named_and_builds_nothing(tmp_path: Path) -> None:
    rng = random.Random(0)
    for turn in range(4_000 * TIMES):
        count = rng.randint(1, 6)
        lines = [json.dumps({"id": f"good-{i}", "text": f"x {i}"}).encode() for i in range(count)]
        at = rng.randint(1, count)
        lines.insert(at, spoilt_line(rng))
        data = (b"\r\n" if turn % 3 == 0 else b"\n").join(lines)
        path = tmp_path / ("a.jsonl.gz" if turn % 4 == 0 else "a.jsonl")
        path.write_bytes(gzip.compress(data, 1) if turn % 4 == 0 else data)
        if turn % 10:
            said = refused(lambda path=path: list(read_corpus(path)))
        else:
            said = refused(
                lambda path=path: build_index(path, tmp_path / "i", encoder=QuickEncoder())
            )
        assert said is not None and said.startswith(f"{path}:{at + 1}: "), (said, lines[at][:80])
        path.unlink()
        assert not list(tmp_path.iterdir()), "something of an index was left"


def test_a_broken_row_of_a_table_is_named(tmp_path: Path) -> None:
    rng = random.Random(1)
    spoilt = (
        *(b"a\tx\tt\tmore", b"\tx\tt", b"a\t\t", b"a\t \t", b"good-0\tx\tt", b"a\t\xff\tt", b"a"),
        *(b"\xed\xa0\x80\tx\tt", b"\0", b"a\tx", b"\t\t"),
    )
    path = tmp_path / "a.tsv"
    for _ in range(1_500 * TIMES):
        count = rng.randint(1, 6)
        lines = [b"id\ttext\ttitle", *(f"good-{i}\tx {i}\tt".encode() for i in range(count))]
        at = rng.randint(2, count + 1)
        lines.insert(at, rng.choice(spoilt))
        path.write_bytes(b"\n".join(lines))
        said = refused(lambda: list(read_corpus(path)))
        # A row of separators alone is an empty line.
        assert (said or "").startswith(f"{path}:{at + 1}: ") or lines[at].strip() == b"", said


def test_a_broken_question_is_named(tmp_path: Path) -> None:
    rng = random.Random(2)
    good = {"id": "a", "question": "q", "answers": ["x"]}
    changes: tuple[dict[str, Any], ...] = (
        *(
            {"question": 3},
            {"question": ""},
            {"answers": []},
            {"answers": [[3]]},
            {"answers": None},
        ),
        *({"id": True}, {"id": {}}, {"id": "good-0"}, {"id": None}, {"meta": [1]}, {"meta": "m"}),
        *(
            {"gold": True},
            {"gold": ""},
            {"gold": [{}]},
            {"answers": [None]},
            {"passages": 3},
            {"passages": [3]},
        ),
        *(
            {"passages": [{"id": True, "text": "t"}]},
            {"meta": {"parts": 3}},
            {"passages": [{"id": "p", "text": "t", "kind": "x"}]},
        ),
        *({"passages": [{"id": "p", "text": "t", "meta": 3}]}, {"question": "\ud800"}),
        *({"answers": ["\udc00"]}, {"meta": {"x": ["\udc00"]}}, {"id": "\ud800"}),
    )
    wrong = [json.dumps({**good, **change}).encode() for change in changes]
    wrong += [b"[" * 5000, b"\xff", b"{", b"\0", b"3", b"null", json.dumps(good).encode()[:-1]]
    path = tmp_path / "asked.jsonl"
    for _ in range(1_500 * TIMES):
        count = rng.randint(1, 4)
        lines = [
            json.dumps({"id": f"good-{i}", "question": "q", "answers": ["x"]}).encode()
            for i in range(count)
        ]
        at = rng.randint(1, count)
        lines.insert(at, rng.choice(wrong))
        path.write_bytes(b"\n".join(lines))
        said = refused(lambda: list(read_examples(path)))
        assert said is not None and said.startswith(f"{path}:{at + 1}: "), (said, lines[at][:80])


GOOD = {
    ".jsonl": b"".join(json.dumps(row).encode() + b"\n" for row in ROWS),
    ".tsv": b"id\ttext\ttitle\n1\tThe otter swims.\tOtter\n2\tMore text.\t\n",
    ".html": b"<html><title>T</title><body><form><p>Some text.</p></form></body></html>",
    ".md": b"# T\n\nSome *text*.\n\n<details>\nMore.\n</details>\n",
    ".txt": b"Some text. More.\n",
    ".jsonl.gz": gzip.compress(b'{"id": "1", "text": "x"}\n' * 1),
}


@pytest.mark.parametrize("suffix", sorted(GOOD))
def test_damaged_files_are_read_or_named(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(suffix)
    path = tmp_path / f"corpus{suffix}"
    found, count = 0, 500 * TIMES
    for turn in range(count):
        data = damaged(GOOD[suffix], rng)
        path.write_bytes(data)
        passages: list[Any] = []
        said = refused(lambda passages=passages: passages.extend(read_corpus(path)))
        if said is None:
            assert passages and all(passage.text.strip() for passage in passages)
        else:
            found += 1
            assert str(path) in said
            if suffix in (".jsonl", ".tsv") and "holds no passage" not in said:
                line = re.match(rf"{re.escape(str(path))}:(\d+): ", said)
                assert line and 1 <= int(line[1]) <= data.count(b"\n") + 1, said
        if turn % 50 == 0:
            built = refused(lambda: build_index(path, tmp_path / "i", encoder=QuickEncoder()))
            assert (built is None) == (said is None), (built, said)
            left = {place.name for place in tmp_path.iterdir()} - {path.name}
            assert left == ({"i"} if built is None else set())
            if built is None:
                index = Index.load(tmp_path / "i", encoder=QuickEncoder())
                assert [p.id for p in index.passages] == [p.id for p in passages]
                for place in sorted((tmp_path / "i").rglob("*"), reverse=True):
                    place.unlink() if place.is_file() else place.rmdir()
                (tmp_path / "i").rmdir()
    assert found > (count // 4 if "tsv" in suffix or "json" in suffix else -1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pdf", ".parquet"])
def test_damaged_parquet_and_pdf_files_are_read_or_named(suffix: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    write_parquet(tmp_path / "good.parquet", [dict(row) for row in ROWS])
    good = pdf("Some text.") if suffix == ".pdf" else (tmp_path / "good.parquet").read_bytes()
    path = tmp_path / f"broken{suffix}"
    for _ in range(150 * TIMES):
        path.write_bytes(damaged(good, rng))
        said = refused(lambda: list(read_corpus(path)))
        assert said is None or str(path) in said


def test_what_is_skipped_is_all_that_is_bad(tmp_path: Path) -> None:
    """The good passages of a file and no others, each bad line listed once, and the index loads."""
    rng = random.Random(3)
    path, out = tmp_path / "a.jsonl", tmp_path / "i"
    for _ in range(40 * TIMES):
        lines = [json.dumps({"id": f"good-{i}", "text": f"x {i}"}).encode() for i in range(5)]
        places = sorted(rng.sample(range(1, 6), 3), reverse=True)
        for at in places:
            lines.insert(at, spoilt_line(rng))
        path.write_bytes(b"\n".join(lines))
        made = build_index(
            path, out, encoder=QuickEncoder(), settings=BuildSettings(skip_bad=True), overwrite=True
        ).built
        told = (out / SKIPPED).read_text(encoding="utf-8").splitlines()
        bad = [
            i for i, line in enumerate(lines, start=1) if b'"good-' not in line or b"used" in line
        ]
        assert [int(line.removeprefix(f"{path}:").split(":")[0]) for line in told] == bad
        assert made["skipped"] == len(bad) == 3 and made["passages"] == 5
        index = Index.load(out, encoder=QuickEncoder())
        assert [p.id for p in index.passages] == [f"good-{i}" for i in range(5)]


def test_very_long_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = b'{"id": "1", "text": "x"}\n'
    path.write_bytes(good + b'{"id": "2", "text": "' + b"x" * 50_000_000)
    said = refused(lambda: build_index(path, tmp_path / "i", encoder=QuickEncoder()))
    assert said is not None and said.startswith(f"{path}:2: not a passage: ") and len(said) < 300
    assert not (tmp_path / "i").exists()
    path.write_bytes(good + b"[" * 70_000_000 + b"\n" + good.replace(b"1", b"3") + b"?")
    said = refused(lambda: list(read_corpus(path)))
    assert said == f"{path}:2: the line is longer than {64 * 2**20} bytes"
    settings = BuildSettings(skip_bad=True)
    made = build_index(path, tmp_path / "i", encoder=QuickEncoder(), settings=settings).built
    assert (made["passages"], made["skipped"]) == (2, 2)


def test_damaged_published_sets_are_named(tmp_path: Path) -> None:
    rng = random.Random(4)
    good = b'{"id": "1", "question": "q?", "golden_answers": ["x"]}\n' * 2
    path = tmp_path / "set.jsonl"
    for _ in range(200 * TIMES):
        path.write_bytes(damaged(good, rng))
        said = refused(
            lambda: write_published("flashrag", tmp_path / "out", source=str(path), overwrite=True)
        )
        assert said is None or str(path) in said
        assert said is None or not list(tmp_path.glob(".out*"))


def test_given_vectors_do_not_go_with_skipped_lines(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="skip_bad: the rows of vectors"):
        BuildSettings(skip_bad=True, vectors=tmp_path / "v.npy")


@pytest.mark.parametrize("name", ["vectors.faiss", "passages.jsonl"])
def test_a_cut_or_spoilt_file_of_a_large_index_is_named(tmp_path: Path, name: str) -> None:
    """Of a size above which a load hashes nothing."""
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "x"}\n{"id": "2", "text": "y"}\n')
    build_index(tmp_path / "a.jsonl", tmp_path / "i", encoder=QuickEncoder())
    file = tmp_path / "i" / "segments" / "00000" / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    said = refused(lambda: Index.load(tmp_path / "i", encoder=QuickEncoder(), verify=False))
    assert said == f"{file} was changed after it was made; make the index again"
    if name == "vectors.faiss":
        file.write_bytes(bytes(len(whole)))
        said = refused(lambda: Index.load(tmp_path / "i", encoder=QuickEncoder(), verify=False))
        assert said is not None and said.startswith(f"{file} cannot be read; build the index again")


def test_the_command_says_what_it_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "neurorit.retrieval.index.build.load_encoder", lambda name, **_: QuickEncoder()
    )
    (tmp_path / "a.jsonl").write_text('{"id": "1", "text": "x"}\n{"id": "2"}\n')
    arguments = ["index", str(tmp_path / "a.jsonl"), "--out", str(tmp_path / "i")]
    assert isinstance(CliRunner().invoke(app, arguments).exception, BadInput)
    done = CliRunner().invoke(app, [*arguments, "--skip-bad"])
    assert done.exit_code == 0
    assert f"skipped: 1\nskipped file: {tmp_path}/i/skipped.txt" in done.output
    assert (tmp_path / "i" / SKIPPED).read_text().startswith(f"{tmp_path}/a.jsonl:2: not a passage")
