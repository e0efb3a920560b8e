"""A judge behind any OpenAI-compatible endpoint: Yes or No, a grade, or the better of two answers.

It asks for one token with its alternatives and compares their probabilities; where an endpoint
gives none it reads the text. A call that keeps failing leaves its answer unscored.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import httpx

from eval.judge import Item, Verdict, judge_turn
from eval.judge_prompts import GRADED, PAIRWISE, RUBRIC, YES_NO, fill_prompt, safe
from retrieval.endpoint import CallFailed, CallSettings, Endpoint, in_parallel
from retrieval.errors import BadInput

Mode = Literal["yes-no", "graded"]
Preference = Literal["first", "second", "tie", "unscored"]
_GRADES = ("1", "2", "3", "4", "5")


class EndpointJudge:
    """Asks `{base_url}/chat/completions`, several items at a time; base_url ends in /v1.

    mode: `yes-no` by the first token's probability, or `graded` by the rubric: right where the
    expected grade (1 to 5) is at least `passing`. repeats: how often each item is asked, from the
    second time on with temperature 1 and seeds of its own; the majority counts, and a draw is
    unscored. template: with {question}, {reference}, {answer} (and {rubric}). A refused request is
    not repeated, except once without log-probabilities, which some servers do not offer.
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
        calls: CallSettings | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if repeats < 1:
            raise BadInput(f"a judge is asked at least once, not {repeats} times")
        self.name = model
        self._template = template or (YES_NO if mode == "yes-no" else GRADED)
        if mode == "graded":
            self._template = self._template.replace("{rubric}", rubric)
        self._mode: Mode = mode
        self._passing = passing
        self._repeats = repeats
        self._calls = calls or CallSettings(timeout=30.0, retries=3)
        self._log_probabilities = True
        self._lock = threading.Lock()
        self._open = partial(
            Endpoint, base_url, api_key=api_key, settings=self._calls, transport=transport
        )
        parts = [base_url.rstrip("/"), model, mode, self._template, passing, repeats]
        self.fingerprint = "#".join(map(str, parts))

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """Right, wrong or, after the last retry, unscored."""
        verdicts: list[Verdict] = ["unscored"] * len(items)
        with self._open() as endpoint:
            work = partial(self._verdict, endpoint)
            given = in_parallel(work, items, self._calls.concurrency)
            for done, (i, found) in enumerate(given, start=1):
                if not isinstance(found, CallFailed):
                    verdicts[i] = found
                if progress is not None:
                    progress(done, len(items))
        return verdicts

    def prefer(self, pairs: Sequence[tuple[Item, str]]) -> list[tuple[Preference, Preference]]:
        """For each (item with the first answer, second answer): the choice as shown, and swapped.

        Both are told of the given order: a judge without a preference for a place says the same
        twice. `combine` makes one preference of the two.
        """
        asked = [(item, other, swapped) for item, other in pairs for swapped in (False, True)]
        found: list[Preference] = ["unscored"] * len(asked)
        with self._open() as endpoint:
            work = partial(self._preferred, endpoint)
            for i, said in in_parallel(work, asked, self._calls.concurrency):
                if not isinstance(said, CallFailed):
                    found[i] = said
        return list(zip(found[::2], found[1::2], strict=True))

    def _verdict(self, endpoint: Endpoint, item: Item) -> Verdict:
        turn = judge_turn(self._template, item)
        read = read_reply if self._mode == "yes-no" else self._read_grade
        counts = Counter(self._ask(endpoint, turn, read, repeat) for repeat in range(self._repeats))
        if counts["right"] == counts["wrong"]:
            return "unscored"
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
        took_first = self._ask(endpoint, turn, _read_choice, 0) == "a"
        return "first" if took_first != swapped else "second"

    def _ask(self, endpoint: Endpoint, turn: str, read: Callable[[Any], Any], repeat: int) -> Any:
        while True:
            with_log_probabilities = self._log_probabilities
            try:
                request = self._request(turn, with_log_probabilities, repeat)
                return endpoint.chat(request, read)
            except CallFailed as error:
                if error.status != 400 or not with_log_probabilities:
                    raise
                with self._lock:
                    self._log_probabilities = False

    def _request(self, turn: str, log_probabilities: bool, repeat: int) -> dict[str, Any]:
        request: dict[str, Any] = {
            "model": self.name,
            "messages": [{"role": "user", "content": turn}],
            "max_tokens": 1,
            "temperature": 0,
        }
        if repeat:
            request |= {"temperature": 1, "seed": repeat}
        return request | ({"logprobs": True, "top_logprobs": 20} if log_probabilities else {})

    def _read_grade(self, reply: Any) -> Verdict | None:
        masses, text = _first_token(reply, _GRADES)
        if total := sum(masses.values()):
            grade = sum(int(digit) * mass for digit, mass in masses.items()) / total
        elif text[:1] in _GRADES:
            grade = float(text[:1])
        else:
            return None
        return "right" if grade >= self._passing else "wrong"


def combine(pair: tuple[Preference, Preference]) -> Preference:
    """One preference from both orders: a tie where they disagree, unscored where one failed."""
    if "unscored" in pair:
        return "unscored"
    return pair[0] if pair[0] == pair[1] else "tie"


def read_reply(reply: Any) -> Verdict | None:
    """The verdict in a chat completion: by the first token's alternatives, else by its text."""
    masses, text = _first_token(reply, ("yes", "no"))
    if masses["yes"] != masses["no"]:
        return "right" if masses["yes"] > masses["no"] else "wrong"
    if text.startswith("yes"):
        return "right"
    return "wrong" if text.startswith("no") else None


def _read_choice(reply: Any) -> str | None:
    masses, text = _first_token(reply, ("a", "b"))
    if masses["a"] != masses["b"]:
        return "a" if masses["a"] > masses["b"] else "b"
    word = text.split()[0].strip(".):") if text else ""
    return word if word in ("a", "b") else None


def _first_token(reply: Any, words: Sequence[str]) -> tuple[Mapping[str, float], str]:
    """Probability of each word as the first token, and the text; nothing for a broken reply."""
    masses = dict.fromkeys(words, 0.0)
    try:
        choice = reply["choices"][0]
        content = (choice.get("logprobs") or {}).get("content") or []
        for alternative in content[0]["top_logprobs"] if content else []:
            word = alternative["token"].strip().lower()
            if word in masses:
                masses[word] += math.exp(min(0.0, float(alternative["logprob"])))
        return masses, str(choice["message"]["content"] or "").strip().lower()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return dict.fromkeys(words, 0.0), ""
