"""The one prompt renderer that mining, tuning, serving and evaluation share.

It turns a question and its passages into token ids. Text of passages and questions is encoded as
plain text, so it can never become a special token or a turn marker of the chat template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date as Date
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage

TEMPLATE_FILE = "neurorit_prompt.json"
_KEPT = "neurorit_prompt"  # the attribute of a loaded model
_MARK = "\u2402neurorit\u2403"
_ASKED = "\nAnswer:"  # where there is no chat template
_GUARD = "\n"
# [INST], [/INST], <<SYS>>, <|user|>, </s>
_BRACKETED = re.compile(r"\[/?[A-Z_]+\]|<{1,2}[|/]*\w+\|?>{1,2}")
_BREAK = r"\n\v\f\r\x1c-\x1e\x85\u2028\u2029"
_BLANK = rf"[^\S{_BREAK}]|[\u00ad\u200b-\u200f\u2060\ufeff]"  # what is not seen in a line
_FRAMES = 64  # templates' texts that are kept
EVIDENCE_FIRST = (
    "First write down what the passages say that is relevant to the question, or that none of them "
    "is relevant. Then write `Answer:` and answer the question with a few words.\n\n"
)
Wording = Literal["as-it-is", "evidence-first"]
DATE = "2024-07-26"  # what Llama 3's own templates take where no day is known


@dataclass(frozen=True)
class PromptTemplate:
    """How a retrieval-augmented user turn is worded.

    instruction: first lines of the turn; passage: one passage, with {number}, {title}, {text};
    question: with {question}; closed_book: the whole turn when there are no passages;
    answer_prefix: what stands before an answer in its turn; None is what the chat template writes
    there, and a space without a template. date: the day, as 2024-07-26, that a chat template which
    prints one is told, so that tomorrow's prompts are today's.
    """

    instruction: str = (
        "Answer the question with a few words from the passages. "
        "Some passages may be irrelevant to the question.\n\n"
    )
    passage: str = "[{number}] {title}\n{text}\n\n"
    question: str = "Question: {question}"
    closed_book: str = "Answer the question with a few words.\n\nQuestion: {question}"
    answer_prefix: str | None = None
    date: str = DATE

    def __post_init__(self) -> None:
        try:
            Date.fromisoformat(self.date)
        except (ValueError, TypeError) as error:
            raise BadInput(f"date {self.date!r} is no day; write it as {DATE}") from error

    def user_turn(self, question: str, passages: Sequence[Passage]) -> str:
        """The text of the user's turn.

        A line of a passage that begins as a passage or the question of the turn does (`[2] Title`,
        `Question:`) is quoted (`> [2] Title`): what it says is the passage's word.
        """
        if not passages:
            return _fill(self.closed_book, question=question)
        heads = _heads(self.passage, self.question)
        rendered = [
            _fill(
                self.passage,
                number=str(i),
                title=_quoted(p.title, heads),
                text=_quoted(p.text, heads),
            )
            for i, p in enumerate(passages, start=1)
        ]
        return self.instruction + "".join(rendered) + _fill(self.question, question=question)

    def worded(self, wording: Wording) -> PromptTemplate:
        """As it is, or with a dual instruction: write down the relevant evidence, then answer."""
        return replace(self, instruction=EVIDENCE_FIRST) if wording == "evidence-first" else self

    def without_passages(self, question: str) -> str:
        """The user's turn in the wording of one with passages, with none in it."""
        return self.instruction + _fill(self.question, question=question)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> PromptTemplate:
        """The template that a checkpoint was tuned with, or the default one."""
        path = Path(checkpoint) / TEMPLATE_FILE
        if not path.is_file():
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, BadInput) as error:
            raise BadInput(f"{path}: not a prompt template: {error}") from error

    @classmethod
    def of_loaded(cls, model: Any) -> PromptTemplate:
        """The template that a model in memory was tuned with, or the default one.

        It is known of models that `load_model` and `tune` gave, and of what transformers loaded
        from a folder.
        """
        kept = getattr(model, _KEPT, None)
        if isinstance(kept, cls):
            return kept
        place = str(getattr(model.config, "_name_or_path", None) or "")
        return cls.of_checkpoint(Path(place)) if place else cls()

    def keep_with(self, model: Any) -> None:
        """Let a model in memory bring the template along, as a checkpoint's file does."""
        setattr(model, _KEPT, self)

    def save(self, checkpoint: Path) -> None:
        """Write the template beside a checkpoint's weights."""
        write_text(Path(checkpoint) / TEMPLATE_FILE, json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class _Known:
    """What was found out about a tokenizer while it had so many tokens.

    markers: every token that was added to the vocabulary as a whole, by id; frames: for a chat
    template's texts around the contents, ids of their markers and markers that are plain text.
    """

    tokens: int
    markers: dict[int, str]
    frames: dict[tuple[str, ...], tuple[list[int], list[str]]]


_KNOWN: MutableMapping[Any, _Known] = WeakKeyDictionary()


def render_prompt(
    tokenizer: Any, template: PromptTemplate, question: str, passages: Sequence[Passage]
) -> list[int]:
    """Token ids of a prompt that ends where the answer begins.

    Special tokens come from the chat template alone: the user's turn is encoded as plain text.
    """
    return render_turn(tokenizer, template, template.user_turn(question, passages))


def render_turn(tokenizer: Any, template: PromptTemplate, turn: str) -> list[int]:
    """Token ids of a prompt of one user's turn."""
    return render_chat(tokenizer, [{"role": "user", "content": turn}], date=template.date)


def render_chat(
    tokenizer: Any,
    messages: Sequence[dict[str, str]],
    *,
    date: str = DATE,
    told: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a chat whose last turn the model is to answer; contents stay plain text.

    date: the day that a chat template which prints one is told; told: what else it is told, whose
    texts it may write as markers. The ids are the tokenizer's own for
    the template's text, where nothing in the contents would become a marker. Models that may think
    are asked not to: thinking is no part of the answer.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        text = "\n\n".join(message["content"] for message in messages) + _ASKED
        prefix = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        return prefix + encode_plain(tokenizer, text)
    marked = [
        {"role": message["role"], "content": f"{_MARK}{i}{_MARK}"}
        for i, message in enumerate(messages)
    ]
    pieces = _chat(tokenizer, marked, date=date, told=told).split(_MARK)
    _, written = _frame(tokenizer, pieces[::2])
    contents = [_parted(messages[int(piece)]["content"], written) for piece in pieces[1::2]]
    whole = _encode_whole(tokenizer, pieces[::2], contents)
    if whole is not None:
        return whole
    ids = _encode(tokenizer, pieces[0], special=True)
    for content, piece in zip(contents, pieces[2::2], strict=True):
        ids += encode_plain(tokenizer, content, continues=bool(ids))
        ids += _encode(tokenizer, piece, continues=True, special=True)
    return ids


def encode_plain(tokenizer: Any, text: str, *, continues: bool = False) -> list[int]:
    """Token ids of text in which no substring is read as a special token or another marker.

    continues: other text stands before it, so that no space is put there.
    """
    ids = _encode(tokenizer, text, continues=continues)
    markers = _markers(tokenizer)
    if markers.keys().isdisjoint(ids):
        return ids
    return _encode_apart(tokenizer, text, markers, continues)


def beginning(tokenizer: Any) -> list[int]:
    """Token ids that the tokenizer puts before a text; most put the one that begins a text."""
    ids, plain = tokenizer("a").input_ids, tokenizer("a", add_special_tokens=False).input_ids
    count = next(i for i in range(len(ids)) if ids[i : i + len(plain)] == plain)
    return list(ids[:count])


def encode_answer(tokenizer: Any, template: PromptTemplate, answer: str) -> list[int]:
    """Token ids of an answer as the model is to write it, without the end token."""
    before = _before_answer(tokenizer, template.date)
    prefix = _own_prefix(tokenizer, before, template.date)
    text = (prefix if template.answer_prefix is None else template.answer_prefix) + answer
    whole = _encode_whole(tokenizer, [before, ""], [text])
    head = _encode(tokenizer, before, special=True)
    if whole is not None and whole[: len(head)] == head:
        return whole[len(head) :]
    return encode_plain(tokenizer, text, continues=True)


def end_token_id(tokenizer: Any) -> int:
    """The token that ends an answer: the chat turn's end token, else the end-of-text token.

    Raises BadInput if the tokenizer has none.
    """
    for name in ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"):
        token = tokenizer.get_vocab().get(name)
        if token is not None and name in (tokenizer.chat_template or ""):
            return int(token)
    if tokenizer.eos_token_id is None:
        raise BadInput("the tokenizer has no end-of-text token; set one before tuning")
    return int(tokenizer.eos_token_id)


def _chat(
    tokenizer: Any,
    messages: Sequence[dict[str, str]],
    *,
    date: str,
    ask: bool = True,
    told: Mapping[str, Any] | None = None,
) -> str:
    day = Date.fromisoformat(date)
    text: str = tokenizer.apply_chat_template(
        list(messages),
        tokenize=False,
        add_generation_prompt=ask,
        # Templates take the day from either.
        date_string=day.strftime("%d %b %Y"),
        strftime_now=day.strftime,
        **{"enable_thinking": False, **(told or {})},
    )
    return text


def _before_answer(tokenizer: Any, date: str) -> str:
    """A short prompt, up to where its answer begins."""
    if getattr(tokenizer, "chat_template", None) is None:
        return f"x{_ASKED}"
    return _chat(tokenizer, [{"role": "user", "content": "x"}], date=date)


def _own_prefix(tokenizer: Any, before: str, date: str) -> str:
    """What the chat template writes between the turn's head and an answer; a space without one."""
    if getattr(tokenizer, "chat_template", None) is None:
        return " "
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK}]
    try:
        whole = _chat(tokenizer, turns, date=date, ask=False)
    except TemplateError:
        return ""
    if not whole.startswith(before) or _MARK not in whole:
        return ""
    prefix = whole[len(before) :].split(_MARK)[0]
    known = _markers(tokenizer).values()
    return "" if any(marker in prefix for marker in known) else prefix


def _encode_whole(
    tokenizer: Any, pieces: Sequence[str], contents: Sequence[str]
) -> list[int] | None:
    """Token ids of pieces of a template with contents between them, as one text.

    None where a content would become a marker, or would change one of the template's.
    """
    if not tokenizer.is_fast:
        return None
    text, spans = pieces[0], []
    for content, piece in zip(contents, pieces[1:], strict=True):
        spans.append((len(text), len(text) + len(content)))
        text += content + piece
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids: list[int] = list(found["input_ids"])
    markers = _markers(tokenizer)
    for token, (start, end) in zip(ids, found["offset_mapping"], strict=True):
        if token not in markers:
            continue
        if any(start < last and first < end for first, last in spans):
            return None
        if start == end and any(first <= start <= last for first, last in spans):
            return None  # made by normalizing, so its place says little
    own, _ = _frame(tokenizer, pieces)
    return ids if [i for i in ids if i in markers] == own else None


def _encode(
    tokenizer: Any, text: str, *, continues: bool = False, special: bool = False
) -> list[int]:
    """Token ids of text; special: of a template, whose special tokens are meant."""

    def encode(part: str) -> list[int]:
        return list(
            tokenizer.encode(part, add_special_tokens=False, split_special_tokens=not special)
        )

    if continues and _adds_space(tokenizer):
        # What begins a text gets a space, in the kind of SentencePiece: something else begins it.
        head, ids = encode(_GUARD), encode(_GUARD + text)
        if ids[: len(head)] == head:
            return ids[len(head) :]
    return encode(text) if text else []


def _adds_space(tokenizer: Any) -> bool:
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False)[:1])
    return bool(first) and str(first[0]).startswith("\u2581")


def _markers(tokenizer: Any) -> dict[int, str]:
    """Every token that was added to the vocabulary as a whole, but runs of white space.

    Not only those called special: Qwen's `<tool_call>` and `<think>` are not, and a tokenizer
    finds them in plain text all the same.
    """
    return _known(tokenizer).markers


def _known(tokenizer: Any) -> _Known:
    found = _KNOWN.get(tokenizer)
    if found is None or found.tokens != len(tokenizer):
        added = tokenizer.added_tokens_decoder.items()
        markers = {int(i): str(token) for i, token in added if str(token).strip()}
        found = _KNOWN[tokenizer] = _Known(len(tokenizer), markers, {})
    return found


def _frame(tokenizer: Any, pieces: Sequence[str]) -> tuple[list[int], list[str]]:
    """Ids of the markers that a template's pieces hold, and markers that they write as text."""
    known, key = _known(tokenizer), tuple(pieces)
    found = known.frames.get(key)
    if found is None:
        encoded = [i for piece in pieces for i in _encode(tokenizer, piece, special=True)]
        own = [i for i in encoded if i in known.markers]
        found = own, _written_markers(tokenizer, pieces)
        if len(known.frames) >= _FRAMES:
            known.frames.clear()
        known.frames[key] = found
    return found


def _written_markers(tokenizer: Any, pieces: Sequence[str]) -> list[str]:
    """Markers that a template writes as plain text, such as `[INST]` where that is no token.

    Words without brackets (a role between two tokens) mark nothing by themselves.
    """
    tokens = sorted(_markers(tokenizer).values(), key=len, reverse=True)
    text = " ".join(pieces)
    for token in tokens:
        text = text.replace(token, " ")
    return sorted(set(_BRACKETED.findall(text)), key=len, reverse=True)


def _parted(text: str, markers: Sequence[str]) -> str:
    """A marker that is no token of its own reads the same whoever wrote it: it is parted."""
    for marker in markers:
        text = text.replace(marker, f"{marker[0]} {marker[1:]}")
    return text


def _encode_apart(
    tokenizer: Any, text: str, markers: Mapping[int, str], continues: bool
) -> list[int]:
    """Encode text in pieces, cut after the first character of each marker."""
    pattern = "|".join(re.escape(m) for m in sorted(markers.values(), key=len, reverse=True))
    cuts = [match.start() + 1 for match in re.finditer(pattern, text)]
    ids: list[int] = []
    for start, end in pairwise([0, *cuts, len(text)]):
        ids += _encode_halved(tokenizer, text[start:end], markers, continues or start > 0)
    return ids


def _encode_halved(
    tokenizer: Any, text: str, markers: Mapping[int, str], continues: bool
) -> list[int]:
    """Halve what still becomes a marker: one that normalizing the text has made."""
    ids = _encode(tokenizer, text, continues=continues)
    if markers.keys().isdisjoint(ids):
        return ids
    if len(text) < 2:
        return [i for i in ids if i not in markers]
    middle = len(text) // 2
    return _encode_halved(tokenizer, text[:middle], markers, continues) + _encode_halved(
        tokenizer, text[middle:], markers, True
    )


@lru_cache(maxsize=64)
def _heads(passage: str, question: str) -> re.Pattern[str]:
    """Finds lines that begin as the turn's own passages, question or request for an answer do."""
    before = re.split(r"{(?:title|text)}", passage)[0]
    heads = [before, question.partition("{question}")[0], _ASKED]
    loose = [
        rf"(?:{_BLANK})*".join(
            r"\d+" if word == "{number}" else re.escape(word)
            for word in re.findall(r"{number}|\w+|[^\w\s]", head)
        )
        for head in heads
        if head.strip()
    ]
    return re.compile(rf"(^|[{_BREAK}])((?:{_BLANK})*)(?=(?:{'|'.join(loose)}))", re.IGNORECASE)


def _quoted(text: str, heads: re.Pattern[str]) -> str:
    return heads.sub(r"\1\2> ", text)


def _fill(pattern: str, **values: str) -> str:
    """Put values into {names} once; braces inside the values stay as they are."""
    names = "|".join(map(re.escape, values))
    return re.sub(f"{{({names})}}", lambda found: values[found[1]], pattern)
