"""The one prompt renderer that mining, tuning, serving and evaluation share.

It turns a question and its passages into token ids. Text of passages and questions is encoded as
plain text, so it can never become a special token or a turn marker of the chat template. It knows
nothing of retrieval, models or servers beyond a tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from retrieval.artifact import write_text
from retrieval.errors import BadInput
from retrieval.examples import Passage

TEMPLATE_FILE = "neurorit_prompt.json"
_MARK = "\u2402neurorit\u2403"
# [INST], [/INST], <<SYS>>, <|user|>, </s>
_BRACKETED = re.compile(r"\[/?[A-Z_]+\]|<{1,2}[|/]*\w+\|?>{1,2}")
_MARKERS: MutableMapping[Any, tuple[int, dict[int, str]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class PromptTemplate:
    """How a retrieval-augmented user turn is worded.

    instruction: first lines of the turn; passage: one passage, with {number}, {title}, {text};
    question: with {question}; closed_book: the whole turn when there are no passages;
    answer_prefix: what stands before an answer in its turn (a space for some tokenizers).
    """

    instruction: str = (
        "Answer the question with a few words from the passages. "
        "Some passages may be irrelevant to the question.\n\n"
    )
    passage: str = "[{number}] {title}\n{text}\n\n"
    question: str = "Question: {question}"
    closed_book: str = "Answer the question with a few words.\n\nQuestion: {question}"
    answer_prefix: str = ""

    def user_turn(self, question: str, passages: Sequence[Passage]) -> str:
        """The text of the user's turn."""
        if not passages:
            return _fill(self.closed_book, question=question)
        rendered = [
            _fill(self.passage, number=str(i), title=p.title, text=p.text)
            for i, p in enumerate(passages, start=1)
        ]
        return self.instruction + "".join(rendered) + _fill(self.question, question=question)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> PromptTemplate:
        """The template that a checkpoint was tuned with, or the default one."""
        path = Path(checkpoint) / TEMPLATE_FILE
        if not path.is_file():
            return cls()
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise BadInput(f"{path}: not a prompt template: {error}") from error

    def save(self, checkpoint: Path) -> None:
        """Write the template beside a checkpoint's weights."""
        write_text(Path(checkpoint) / TEMPLATE_FILE, json.dumps(asdict(self), indent=2) + "\n")


def render_prompt(
    tokenizer: Any, template: PromptTemplate, question: str, passages: Sequence[Passage]
) -> list[int]:
    """Token ids of a prompt that ends where the answer begins.

    Special tokens come from the chat template alone: the user's turn is encoded as plain text.
    """
    return render_chat(
        tokenizer, [{"role": "user", "content": template.user_turn(question, passages)}]
    )


def render_chat(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a chat whose last turn the model is to answer; contents stay plain text."""
    if getattr(tokenizer, "chat_template", None) is None:
        text = "\n\n".join(message["content"] for message in messages) + "\nAnswer:"
        prefix = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        return prefix + encode_plain(tokenizer, text)
    marked = [
        {"role": message["role"], "content": f"{_MARK}{i}{_MARK}"}
        for i, message in enumerate(messages)
    ]
    skeleton = tokenizer.apply_chat_template(marked, tokenize=False, add_generation_prompt=True)
    pieces = skeleton.split(_MARK)
    written = _written_markers(tokenizer, pieces[::2])
    ids: list[int] = []
    for i, piece in enumerate(pieces):
        if i % 2:
            content = messages[int(piece)]["content"]
            # A marker that is no token of its own reads the same whoever wrote it: it is parted.
            for marker in written:
                content = content.replace(marker, f"{marker[0]} {marker[1:]}")
            ids += encode_plain(tokenizer, content)
        elif piece:
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def encode_plain(tokenizer: Any, text: str) -> list[int]:
    """Token ids of text in which no substring is read as a special token or another marker."""
    ids = _encode(tokenizer, text)
    markers = _markers(tokenizer)
    if markers.keys().isdisjoint(ids):
        return ids
    return _encode_apart(tokenizer, text, markers)


def encode_answer(tokenizer: Any, template: PromptTemplate, answer: str) -> list[int]:
    """Token ids of an answer as the model is to write it, without the end token."""
    return encode_plain(tokenizer, template.answer_prefix + answer)


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


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def _markers(tokenizer: Any) -> dict[int, str]:
    """Every token that was added to the vocabulary as a whole, but runs of white space.

    Not only those called special: Qwen's `<tool_call>` and `<think>` are not, and a tokenizer
    finds them in plain text all the same.
    """
    found = _MARKERS.get(tokenizer)
    if found is None or found[0] != len(tokenizer):
        added = tokenizer.added_tokens_decoder.items()
        markers = {int(i): str(token) for i, token in added if str(token).strip()}
        found = _MARKERS[tokenizer] = (len(tokenizer), markers)
    return found[1]


def _written_markers(tokenizer: Any, pieces: Sequence[str]) -> list[str]:
    """Markers that a template writes as plain text, such as `[INST]` where that is no token.

    Words without brackets (a role between two tokens) mark nothing by themselves.
    """
    tokens = sorted(_markers(tokenizer).values(), key=len, reverse=True)
    text = " ".join(pieces)
    for token in tokens:
        text = text.replace(token, " ")
    return sorted(set(_BRACKETED.findall(text)), key=len, reverse=True)


def _encode_apart(tokenizer: Any, text: str, markers: Mapping[int, str]) -> list[int]:
    """Encode text in pieces, cut after the first character of each marker."""
    pattern = "|".join(re.escape(m) for m in sorted(markers.values(), key=len, reverse=True))
    cuts = [match.start() + 1 for match in re.finditer(pattern, text)]
    ids: list[int] = []
    for start, end in pairwise([0, *cuts, len(text)]):
        ids += _encode_halved(tokenizer, text[start:end], markers)
    return ids


def _encode_halved(tokenizer: Any, text: str, markers: Mapping[int, str]) -> list[int]:
    """Halve what still becomes a marker: one that normalizing the text has made."""
    ids = _encode(tokenizer, text)
    if markers.keys().isdisjoint(ids):
        return ids
    if len(text) < 2:
        return [i for i in ids if i not in markers]
    middle = len(text) // 2
    return _encode_halved(tokenizer, text[:middle], markers) + _encode_halved(
        tokenizer, text[middle:], markers
    )


def _fill(pattern: str, **values: str) -> str:
    """Put values into {names} once; braces inside the values stay as they are."""
    parts: list[str] = []
    rest = pattern
    while rest:
        found = [(rest.find("{" + k + "}"), k) for k in values if "{" + k + "}" in rest]
        if not found:
            break
        at, name = min(found)
        parts += [rest[:at], values[name]]
        rest = rest[at + len(name) + 2 :]
    return "".join([*parts, rest])
