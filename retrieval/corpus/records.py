"""Records as passages, by the names that this project and the tools before it give their fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.data.example_files import id_text, in_small_letters
from neurorit.data.examples import Passage
from neurorit.data.formats.record_files import plain_row, read_rows
from neurorit.data.formats.text_files import Bad

# The first of these that a record has.
IDS = (
    *("id", "_id", "doc_id", "docid", "docno", "document_id", "id_", "node_id", "chunk_id"),
    *("passage_id", "pid"),
)
TITLES = ("title", "wikipedia_title")
TEXTS = ("text", "contents", "content", "page_content", "document", "passage")
METAS = ("meta", "metadata", "cmetadata", "metadata_")
FIELDS = (*IDS, *TITLES, *TEXTS, *METAS)
_TITLE_WORDS, _SENTENCE = 20, 6

Rows = Iterator[tuple[str, Any]]
Placed = Iterator[tuple[Passage, str]]


class NoText(ValueError):
    """A record with a title alone: nothing is wrong with it, but it makes no passage."""


class UnknownForm(ValueError):
    """A record without any field of text."""


def read_records(path: Path, bad: Bad) -> Rows:
    """(file:line, record) of one file, by its suffix; stores of other tools give each of theirs."""
    for where, value in read_rows(path, bad, "a passage", columns=known_columns, needed=TEXTS):
        stored = stored_records(value)
        if stored is None:
            yield where, value
            continue
        try:
            yield from ((f"{where}, {name}", record) for name, record in stored)
        except ValueError as error:
            bad(BadInput(f"{where}: not a passage: {error}"))


def known_columns(names: Sequence[str]) -> list[str]:
    """Those of a table's columns that make a passage; others, such as vectors, are not read."""
    return [name for name in names if name.lower() in FIELDS]


def parse_passage(record: Any) -> Passage:
    """A passage from one decoded record; raises ValueError saying which field is wrong."""
    if not isinstance(record, Mapping):
        raise ValueError("it is no JSON object")
    record = in_small_letters(record)
    identity = next((id_text(record[name], "'id'") for name in IDS if name in record), "")
    title = next((record[name] for name in TITLES if record.get(name) is not None), "")
    named = next((name for name in TEXTS if record.get(name) is not None), None)
    empty = next((name for name in TEXTS if name in record), None) if named is None else None
    if empty is not None:
        raise _no_text(title, empty)
    if named is None:
        seen = ", ".join(map(str, list(record)[:12])) or "none"
        raise UnknownForm(
            f"it has no 'text' (its fields are {seen}); read are id, title, text and meta, and the "
            f"names {', '.join((*IDS[1:4], *TEXTS[1:], METAS[1]))}"
        )
    text = record[named]
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "\n".join(text)  # paragraphs, as KILT's source has them
    if not isinstance(title, str):
        raise ValueError("'title' must be a string")
    if not isinstance(text, str):
        raise ValueError(f"'{named}' must be a non-empty string")
    if named == "contents" and not title:
        title, text = split_contents(text)
    if not text.strip():
        raise _no_text(title, named)
    return Passage(identity, title, text, meta=_meta(record))


def _no_text(title: Any, named: str) -> ValueError:
    if str(title).strip():
        return NoText("a title without text")
    return ValueError(f"'{named}' must be a non-empty string")


def parse_row(record: Mapping[str, Any]) -> Passage:
    """A passage from a row of columns, of which some may hold nothing; raises ValueError."""
    return parse_passage(plain_row(record))


def split_contents(contents: str) -> tuple[str, str]:
    """(title, text) of FlashRAG's form: a title on the first line, if that is one.

    It is, in quotes, or where it is short and no sentence.
    """
    first, _, rest = contents.partition("\n")
    first = first.strip()
    if not rest.strip():
        return "", contents
    if len(first) > 1 and first[0] == first[-1] == '"' and len(first.split()) <= 2 * _TITLE_WORDS:
        return first.strip('"'), rest
    words = len(first.split())
    sentence = words > _SENTENCE and first.endswith((".", "!", "?", ",", ";", "\u3002"))
    if words > _TITLE_WORDS or len(first) > 200 or sentence:
        return "", contents
    return first.strip('"'), rest


def _meta(record: Mapping[str, Any]) -> Mapping[str, Any]:
    meta: Any = next((record[name] for name in METAS if record.get(name)), {})
    if isinstance(meta, str):  # tables keep it as JSON
        try:
            meta = json.loads(meta)
        except ValueError:
            raise ValueError("'meta' must be an object") from None
    if not isinstance(meta, Mapping):
        raise ValueError("'meta' must be an object")
    return meta


def stored_records(value: Any) -> Iterable[tuple[str, dict[str, Any]]] | None:
    """(name, record) of all that one JSON value holds, where it is a store; None for a record.

    Known are document stores of LlamaIndex and LangChain, what Chroma's `get` returns,
    Elasticsearch's hits, SQuAD's document, and an object with one list of records.
    """
    if not isinstance(value, Mapping):
        return None
    if isinstance(value.get("docstore/data"), Mapping):
        return _llama_index(value["docstore/data"])
    if value.get("lc") and isinstance(value.get("kwargs"), Mapping):
        return [("document", _lang_chain(value))]
    if isinstance(value.get("ids"), list) and isinstance(value.get("documents"), list):
        return _chroma(value)
    if isinstance(value.get("_source"), Mapping):
        return [("hit", _hit(value))]
    hits = value.get("hits")
    if isinstance(hits, Mapping) and isinstance(hits.get("hits"), list):
        return ((f"hits[{i}]", _hit(one)) for i, one in enumerate(hits["hits"]))
    if any(name in value for name in TEXTS):
        return None
    if isinstance(value.get("data"), list):
        return chain.from_iterable(_squad(n, one) for n, one in enumerate(value["data"], start=1))
    for name in ("passages", "documents", "docs", "corpus"):
        if isinstance(value.get(name), list):
            return ((f"{name}[{i}]", one) for i, one in enumerate(value[name]))
    inner = list(value.values())
    if all(isinstance(one, Mapping) for one in inner) and any(
        "lc" in one or "text" in one for one in inner
    ):
        # LangChain's InMemoryVectorStore, or its stored documents by their keys.
        return (
            (f"key {key}", {"id": key, **(_lang_chain(one) if "lc" in one else one)})
            for key, one in value.items()
        )
    return None


def _hit(hit: Any) -> Any:
    if not isinstance(hit, Mapping) or not isinstance(hit.get("_source"), Mapping):
        return hit
    return {"_id": hit.get("_id"), **hit["_source"]}


def _llama_index(nodes: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, node in nodes.items():
        data = node.get("__data__", node) if isinstance(node, Mapping) else node
        if isinstance(data, str):
            with suppress(ValueError):
                data = json.loads(data)
        if not isinstance(data, Mapping):
            yield f"node {key}", data
            continue
        resource = data.get("text_resource")
        text = data.get("text") or (resource.get("text") if isinstance(resource, Mapping) else "")
        yield f"node {key}", _titled({"id": key, "text": text or "", "meta": data.get("metadata")})


def _lang_chain(document: Mapping[str, Any]) -> dict[str, Any]:
    fields = document["kwargs"] if isinstance(document.get("kwargs"), Mapping) else {}
    record = {"text": fields.get("page_content"), "meta": fields.get("metadata")}
    return _titled(({"id": fields["id"]} if fields.get("id") else {}) | record)


def _titled(record: dict[str, Any]) -> dict[str, Any]:
    """With the title that these tools keep in the metadata."""
    meta = record.get("meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return record | ({"title": title} if isinstance(title, str) else {})


def _chroma(got: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    lists = [got["ids"], got["documents"], got.get("metadatas") or [None] * len(got["ids"])]
    if got["ids"] and all(isinstance(one, list) for one in got["ids"]):
        raise ValueError("it is what Chroma's `query` returns; what `get` returns is read")
    if len({len(listed) for listed in lists}) > 1:
        told = ", ".join(str(len(listed)) for listed in lists)
        raise ValueError(f"its ids, documents and metadatas are of other lengths ({told})")
    for number, (key, text, meta) in enumerate(zip(*lists, strict=True)):
        yield f"ids[{number}]", _titled({"id": key, "text": text, "meta": meta})


def _squad(number: int, article: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paragraphs of an article; any other member of the list is a record itself."""
    paragraphs = article.get("paragraphs") if isinstance(article, Mapping) else None
    if not isinstance(paragraphs, list):
        yield f"data[{number - 1}]", article
        return
    title = str(article.get("title") or "").replace("_", " ")
    for place, paragraph in enumerate(paragraphs, start=1):
        text = paragraph.get("context") if isinstance(paragraph, Mapping) else None
        yield f"article {number}, paragraph {place}", {"title": title, "text": text}
