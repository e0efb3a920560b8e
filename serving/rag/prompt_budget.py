"""The prompt that fits: as many passages and earlier turns as the model's context holds.

It knows a tokenizer, the template and how many tokens there are; nothing of retrieval or servers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from neurorit.core.errors import BadInput
from neurorit.data.examples import Passage
from neurorit.model.prompts import PromptTemplate, encode_plain, render_chat

# Text beyond this many characters a token cannot fit, and is not encoded to find that out.
_CHARACTERS = 16
_MARK = "\u2402system\u2403"


class Found(Protocol):
    """One retrieved passage with its score; `neurorit.retrieval.index.index.Hit` is one."""

    @property
    def passage(self) -> Passage: ...
    @property
    def score(self) -> float: ...


@dataclass(frozen=True)
class Turn:
    """One turn of a chat before the question."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Cut:
    """A found passage of whose text the prompt holds the beginning."""

    passage: Passage
    score: float


@dataclass(frozen=True)
class LeftOut:
    """What there was no room for: turns of the chat, passages, and whether the system's turn."""

    turns: int = 0
    passages: int = 0
    system: bool = False


NOTHING = LeftOut()


@dataclass(frozen=True)
class Prompt:
    """What the model reads: its token ids, the same as messages, and the passages in it."""

    ids: list[int]
    messages: list[dict[str, str]]
    hits: tuple[Found, ...]
    left_out: LeftOut = NOTHING


class Renderer:
    """Makes prompts of a checkpoint; context: tokens of prompt and answer (None: unlimited)."""

    def __init__(self, tokenizer: Any, template: PromptTemplate, context: int | None) -> None:
        self.context = context
        self._tokenizer = tokenizer
        self._template = template
        self._has_system = _takes_system(tokenizer)

    def fit(
        self,
        question: str,
        hits: Sequence[Found],
        answer_tokens: int,
        turns: Sequence[Turn] = (),
        told: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """The prompt with `answer_tokens` left of the context; told: what its template is told.

        Where not everything fits, the question stays, then the best passages in their order (the
        first one's text is cut before there is none), then the system's turn, then the latest
        turns. Raises BadInput when not even the question and one passage fit.
        """
        turns = _alternating(turns)
        if self.context is None:
            return self._render(turns, question, tuple(hits), told)
        room = self.context - answer_tokens
        short = _at_most(turns, room * _CHARACTERS)
        shown = tuple(_cut(hit, room * _CHARACTERS) for hit in hits)
        prompt = self._render(short, question, shown, told)
        if len(prompt.ids) > room:
            kept = self._passages(question, shown, room, answer_tokens, told)
            prompt = self._with_turns(short, question, kept, room, told)
        return replace(prompt, left_out=_left_out(turns, hits, prompt))

    def _passages(
        self,
        question: str,
        hits: tuple[Found, ...],
        room: int,
        answer_tokens: int,
        told: Mapping[str, Any] | None,
    ) -> tuple[Found, ...]:
        def fits(shown: tuple[Found, ...]) -> bool:
            return len(self._render((), question, shown, told).ids) <= room

        count = _most(len(hits), lambda n: fits(hits[:n]))
        if count or (not hits and fits(())):
            return hits[:count]
        if hits:
            # Without any passage the model would answer from memory, and nobody would know.
            best = hits[0]
            length = _most(len(best.passage.text), lambda n: fits((_cut(best, n),)))
            if length:
                return (_cut(best, length),)
        what = "the question, a passage" if hits else "the question"
        raise BadInput(
            f"{what} and {answer_tokens} tokens of answer do not fit into the model's "
            f"{self.context} tokens; ask a shorter question or lower max_tokens"
        )

    def _with_turns(
        self,
        turns: Sequence[Turn],
        question: str,
        hits: tuple[Found, ...],
        room: int,
        told: Mapping[str, Any] | None,
    ) -> Prompt:
        system = [turn for turn in turns if turn.role == "system"]
        others = [turn for turn in turns if turn.role != "system"]

        def render(latest: int) -> Prompt:
            kept = others[len(others) - latest :]
            return self._render(_alternating([*system, *kept]), question, hits, told)

        best = render(0)
        if len(best.ids) > room:
            system = []
            best = render(0)
        # Each turn is encoded once, to know about how many fit; what is rendered tells exactly.
        left, latest = room - len(best.ids), 0
        for turn in reversed(others):
            left -= len(encode_plain(self._tokenizer, turn.text))
            if left < 0:
                break
            latest += 1
        while latest > 0 and len((prompt := render(latest)).ids) > room:
            latest -= 1
        if latest > 0:
            best = prompt
        while latest < len(others) and len((prompt := render(latest + 1)).ids) <= room:
            best, latest = prompt, latest + 1
        return best

    def _render(
        self,
        turns: Sequence[Turn],
        question: str,
        hits: tuple[Found, ...],
        told: Mapping[str, Any] | None = None,
    ) -> Prompt:
        asked = self._template.user_turn(question, [hit.passage for hit in hits])
        chat = [*turns, Turn("user", asked)]
        if chat[0].role == "system" and not self._has_system:
            first = replace(chat[1], text=f"{chat[0].text}\n\n{chat[1].text}")
            chat = [first, *chat[2:]]
        messages = [{"role": turn.role, "content": turn.text} for turn in chat]
        ids = render_chat(self._tokenizer, messages, date=self._template.date, told=told)
        return Prompt(ids, messages, hits)


def _alternating(turns: Sequence[Turn]) -> list[Turn]:
    """Turns as every chat template takes them: one of the system, then user and assistant in turn.

    The last one is the assistant's, since the question follows; what stands alone is joined.
    """
    system = "\n\n".join(turn.text for turn in turns if turn.role == "system" and turn.text)
    chat: list[Turn] = []
    for turn in turns:
        if turn.role == "system" or not turn.text or (turn.role == "assistant" and not chat):
            continue
        if chat and chat[-1].role == turn.role:
            chat[-1] = Turn(turn.role, f"{chat[-1].text}\n\n{turn.text}")
        else:
            chat.append(turn)
    if chat and chat[-1].role == "user":
        chat.pop()  # nobody answered it: two questions in a row are no chat
    return [*([Turn("system", system)] if system else []), *chat]


def _left_out(turns: Sequence[Turn], hits: Sequence[Found], prompt: Prompt) -> LeftOut:
    """What of the chat and the passages is not in a prompt."""
    texts = [message["content"] for message in prompt.messages[:-1]]
    said = {turn.role: turn.text for turn in turns}
    system = said.get("system")
    there = system is None or any(system in message["content"] for message in prompt.messages)
    of_system = 1 if texts and prompt.messages[0]["role"] == "system" else 0
    others = sum(turn.role != "system" for turn in turns)
    return LeftOut(
        turns=max(0, others - (len(texts) - of_system)),
        passages=len(hits) - len(prompt.hits),
        system=not there,
    )


def _at_most(turns: Sequence[Turn], characters: int) -> list[Turn]:
    """The system's turn and the latest others that have no more characters together."""
    kept: list[Turn] = []
    for turn in reversed(turns):
        characters -= len(turn.text)
        if characters >= 0 or turn.role == "system":
            kept.append(turn if turn.role != "system" else replace(turn, text=turn.text))
    return _alternating(kept[::-1])


def _cut(hit: Found, characters: int) -> Found:
    if len(hit.passage.text) <= characters:
        return hit
    return Cut(replace(hit.passage, text=hit.passage.text[: max(0, characters)]), float(hit.score))


def _most(count: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `count` that fits, 0 where none does; what is smaller fits too."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _takes_system(tokenizer: Any) -> bool:
    """Whether the chat template shows a system's turn; some refuse it, some leave it out."""
    if getattr(tokenizer, "chat_template", None) is None:
        return True
    chat = [{"role": "system", "content": _MARK}, {"role": "user", "content": "-"}]
    try:
        return _MARK in tokenizer.apply_chat_template(chat, tokenize=False)
    except Exception:  # templates raise what they like
        return False
