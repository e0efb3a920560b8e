"""A judge behind any OpenAI-compatible endpoint: Yes or No, a grade, or the better of two answers.

It asks for one token with its alternatives and compares their probabilities; where an endpoint
gives none it reads the text. A call that keeps failing leaves its answer unscored.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import httpx

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint, in_parallel, with_fields
from neurorit.core.endpoint.identity import identify
from neurorit.core.endpoint.replies import CallFailed
from neurorit.core.endpoint.reply_cache import Cache, content_key
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.eval.judges.judge import judge_turn, prompt_digest
from neurorit.eval.judges.prompts import (
    GRADED,
    NUGGET,
    PAIRWISE,
    RUBRIC,
    SUPPORT,
    YES_NO,
    fill_prompt,
    safe,
)
from neurorit.eval.judges.verdict_parsing import (
    confidence_of,
    read_choice,
    read_grade,
    read_verdict,
)
from neurorit.eval.predictions import Item, Verdict

Mode = Literal["yes-no", "graded"]
Preference = Literal["first", "second", "tie", "unscored"]
# So many failed calls one after another, and the judge is taken for dead.
_LOST = 10
# What a verdict may take after its thinking: a word, marks around it, and the end.
_AFTER_THINKING = 16
_TRIAL = Item("What is the capital of France?", ("Paris",), "Paris")


class EndpointJudge:
    """Asks `{base_url}/chat/completions`, several items at a time; base_url ends in /v1.

    mode: `yes-no` by the first token's probability, or `graded` by the rubric: right where the
    expected grade (1 to 5) is at least `passing`. repeats: how often each item is asked, an odd
    number; more than one sample the text at temperature 1, each with a seed of its own, and the
    majority counts: probabilities are the same each time, so repeats would say nothing. template:
    with {question}, {reference}, {answer} (and {rubric}). A refused request is not repeated, except
    once without log-probabilities, which some servers do not offer. thinking_tokens: room for its
    thinking; above 0 the text after it is read, for the first token is a thought. request: further
    fields of every request (`client.with_fields`); None leaves one out.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        mode: Mode = "yes-no",
        template: str | None = None,
        rubric: str = RUBRIC,
        passing: float = 4.0,
        repeats: int = 1,
        thinking_tokens: int = 0,
        request: Mapping[str, Any] | None = None,
        calls: CallSettings | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if repeats < 1 or repeats % 2 == 0:
            raise BadInput(f"a judge is asked an odd number of times, not {repeats}: no draws")
        self.name = model
        self.failure = ""
        self._sure: dict[Item, float] = {}
        self._url, self._key = base_url.rstrip("/"), api_key
        self._template = template or (YES_NO if mode == "yes-no" else GRADED)
        if mode == "graded":
            self._template = self._template.replace("{rubric}", rubric)
        self._mode: Mode = mode
        self._passing = passing
        self.repeats = repeats
        self._calls = calls or CallSettings(timeout=30.0, retries=3)
        self._thinking, self._fields = thinking_tokens, dict(request or {})
        # Probabilities of a thought, or that the caller does not want, are not asked for.
        by_text = repeats > 1 or thinking_tokens > 0 or not self._fields.get("logprobs", True)
        self._by_probability: bool | None = False if by_text else None
        self._identity = ""
        self._open = partial(
            Endpoint, base_url, api_key=api_key, settings=self._calls, transport=transport
        )

    @property
    def fingerprint(self) -> str:
        """Of the model as far as it is known, how it is asked, and how its reply is read."""
        read = "text" if self._by_probability is False else "probability"
        parts = [self._url, self.name, self._identity, self._mode, read, self._passing]
        more = [self._thinking, self._fields] if self._thinking or self._fields else []
        return content_key("judge", *parts, self.repeats, prompt_digest(self._template), *more)

    def settle(self, cache: Cache) -> None:
        """Find out who the judge is and whether it gives probabilities; `cache` remembers both.

        The fingerprint is final after it. A judge that cannot be reached is asked as if it did; one
        that refuses the key or knows no such model will refuse every answer: NeuroritError.
        """
        self._identity = identify(self._url, self.name, self._key, cache).text
        if self._by_probability is not None:
            return
        place = content_key("judge offers", self._url, self.name, self._identity)
        held = cache.find([place])
        if place in held:
            self._by_probability = bool(held[place])
            return
        self._by_probability = self._offers_probabilities()
        if self._by_probability is not None:
            cache.keep({place: self._by_probability})

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """Right, wrong or, after the last retry, unscored."""
        verdicts: list[Verdict] = ["unscored"] * len(items)
        for done, (i, verdict) in enumerate(self.stream(items), start=1):
            verdicts[i] = verdict
            if progress is not None:
                progress(done, len(items))
        return verdicts

    def stream(self, items: Sequence[Item]) -> Iterator[tuple[int, Verdict]]:
        """(position, verdict) as the judge decides.

        A judge of which so many calls failed one after another is taken for dead: it is not asked
        about the rest, which stay unscored.
        """
        in_a_row, left = 0, set(range(len(items)))
        # One that gave nothing when it was tried is not waited for ten times more.
        borne = 1 if self.failure else _LOST
        with self._open() as endpoint:
            work = partial(self._verdict, endpoint)
            for i, found in in_parallel(work, items, self._calls.concurrency):
                left.discard(i)
                failed = isinstance(found, CallFailed)
                in_a_row = in_a_row + 1 if failed else 0
                borne = borne if failed else _LOST
                yield i, self._failed(found) if isinstance(found, CallFailed) else found
                if in_a_row >= borne:
                    break
        for i in sorted(left):
            yield i, "unscored"

    def prefer(
        self, pairs: Sequence[tuple[Item, str]], cache: Cache | None = None
    ) -> list[tuple[Preference, Preference]]:
        """For each (item with the first answer, second answer): the choice as shown, and swapped.

        Both are told of the given order: a judge without a preference for a place says the same
        twice. `combine` makes one preference of the two. cache: keeps choices as they are made.
        """
        asked = [(item, other, swapped) for item, other in pairs for swapped in (False, True)]
        mark = content_key(self.fingerprint, prompt_digest(PAIRWISE))
        keys = [content_key("choice", mark, [*i], other, swapped) for i, other, swapped in asked]
        known: dict[str, Any] = cache.find(keys) if cache is not None else {}
        # Equal pairs are asked once.
        waiting = {key: i for i, key in enumerate(keys) if key not in known}
        with self._open() as endpoint:
            work = partial(self._preferred, endpoint)
            given = [asked[i] for i in waiting.values()]
            order = list(waiting)
            for at, said in in_parallel(work, given, self._calls.concurrency):
                if isinstance(said, CallFailed):
                    self._failed(said)
                    continue
                known[order[at]] = said
                if cache is not None:
                    cache.keep({order[at]: said})
        found: list[Preference] = [known.get(key, "unscored") for key in keys]
        return list(zip(found[::2], found[1::2], strict=True))

    def turn(self, item: Item) -> str:
        """What the judge is asked about an item."""
        return judge_turn(self._template, item)

    def confidence(self, item: Item) -> float | None:
        """How probable the verdict that it gave on an item was; None where it was read as text."""
        return self._sure.get(item)

    def of_nuggets(self) -> EndpointJudge:
        """The same judge, which is asked whether an answer says what the reference says."""
        return self._asked(NUGGET)

    def of_support(self) -> EndpointJudge:
        """The same judge, which is asked whether passages say what a sentence says."""
        return self._asked(SUPPORT)

    def forget(self) -> None:
        """Let go of how sure it was of what it judged, where nobody will ask."""
        self._sure.clear()

    def _asked(self, template: str) -> EndpointJudge:
        made = copy.copy(self)
        made._template, made._mode, made._sure = template, "yes-no", {}
        return made

    def _verdict(self, endpoint: Endpoint, item: Item) -> Verdict:
        passing = self._passing if self._mode == "graded" else None

        def read(reply: Any) -> Verdict | None:
            if passing is None:
                said: Verdict | None = read_verdict(reply)
            else:
                said = read_grade(reply, passing=passing)
            if said is not None and (sure := confidence_of(reply, passing=passing)) is not None:
                self._sure[item] = sure
            return said

        turn = self.turn(item)
        counts = Counter(self._ask(endpoint, turn, read, n) for n in range(self.repeats))
        return "right" if counts["right"] > counts["wrong"] else "wrong"

    def _preferred(self, endpoint: Endpoint, asked: tuple[Item, str, bool]) -> Preference:
        item, other, swapped = asked
        first, second = (other, item.answer) if swapped else (item.answer, other)
        turn = fill_prompt(
            PAIRWISE,
            question=safe(PAIRWISE, item.question),
            reference=" / ".join(safe(PAIRWISE, answer) for answer in item.answers),
            first=safe(PAIRWISE, first),
            second=safe(PAIRWISE, second),
        )
        counts = Counter(self._ask(endpoint, turn, read_choice, n) for n in range(self.repeats))
        return "first" if (counts["a"] > counts["b"]) != swapped else "second"

    def _ask(self, endpoint: Endpoint, turn: str, read: Callable[[Any], Any], repeat: int) -> Any:
        by_probability = self._by_probability is not False
        try:
            return endpoint.chat(self._request(turn, by_probability, repeat), read)
        except CallFailed as error:
            if error.status != 400 or not by_probability:
                raise
        # This item alone: what one request is refused for says nothing of the others.
        return endpoint.chat(self._request(turn, False, repeat), read)

    def _offers_probabilities(self) -> bool | None:
        """Whether a reply holds log-probabilities; None where none came to look at."""

        def look(reply: Any) -> bool | None:
            try:
                choice = reply["choices"][0]
                return bool((choice.get("logprobs") or {}).get("content"))
            except (KeyError, IndexError, TypeError, AttributeError):
                return None

        request = self._request(self.turn(_TRIAL), True, 0)
        with self._open() as endpoint:
            try:
                return endpoint.chat(request, look)
            except CallFailed as error:
                if error.of_every_request:
                    raise NeuroritError(
                        f"the judge {self.name} cannot be asked: {error}; check its address, its "
                        "model's name, and the variable that holds its key"
                    ) from error
                if error.status == 400:
                    return False
                self._failed(error)
                return None

    def _failed(self, why: CallFailed) -> Verdict:
        self.failure = self.failure or str(why)
        return "unscored"

    def _request(self, turn: str, by_probability: bool, repeat: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": turn}],
            "max_tokens": self._thinking + _AFTER_THINKING if self._thinking else 1,
            "temperature": 0,
        }
        if self.repeats > 1:
            request |= {"temperature": 1, "seed": repeat}
        if by_probability:
            request |= {"logprobs": True, "top_logprobs": 20}
        return with_fields(request, self._fields)


def combine(pair: tuple[Preference, Preference]) -> Preference:
    """One preference from both orders: a tie where they disagree, unscored where one failed."""
    if "unscored" in pair:
        return "unscored"
    return pair[0] if pair[0] == pair[1] else "tie"
