"""What a model is taught to say where evidence stands: the answer, or the evidence and the answer.

The evidence is a sentence of the gold passage, picked here, or a summary by a teacher behind any
OpenAI-compatible endpoint, kept in a cache so that nothing is asked twice.

Source: docs/method.md, Phase 2, stage 2 [P2].
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.endpoint.client import Endpoint, in_parallel, with_fields
from neurorit.core.endpoint.replies import HINTS, CallFailed, read_piece, read_reply
from neurorit.core.endpoint.reply_cache import Cache, content_key
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.data.answers import held_answer, normalize_answer
from neurorit.data.examples import Example
from neurorit.data.text import sentences

if TYPE_CHECKING:
    import httpx

ANSWER = "Answer:"  # before the answer that comes after its evidence
KEY_VARIABLE = "NEURORIT_TEACHER_KEY"
_ASKED = (
    "Question: {question}\nAnswer: {answer}\n\n{passages}\n\n"
    "In one short sentence, state the evidence in the passages for this answer. "
    "Reply with that sentence alone."
)
_ASKED_ALONE = (
    "Question: {question}\n\n{passages}\n\n"
    "In one or two sentences, sum up what these passages say that helps to answer the question, "
    "and do not give the answer itself. Reply with the summary alone."
)
_CALLS = CallSettings(timeout=120.0, retries=3, pause=1.0)

Progress = Callable[[str, int, int], None]


def evidence_sentence(example: Example) -> str:
    """The gold passages' sentence that holds the answer and most of the question's words.

    Where no sentence holds it, the one with most of the question's words; empty without gold.
    """
    asked = set(normalize_answer(example.question).split())
    best, rank = "", (-1, -1.0)
    for passage in example.passages:
        if passage.kind != "gold":
            continue
        for sentence in sentences(passage.text):
            words = set(normalize_answer(sentence).split())
            holds = held_answer(sentence, example.answers) is not None
            overlap = len(words & asked) / (1 + len(asked))
            if (int(holds), overlap) > rank:
                best, rank = sentence.strip(), (int(holds), overlap)
    return best


def responses(
    examples: Sequence[Example],
    target: str,
    teacher: Teacher | None = None,
    progress: Progress | None = None,
) -> Mapping[str, str]:
    """Example id -> the response to learn, for examples with evidence.

    target: `answer`, `evidence` for the evidence and then the answer, on one line, or
    `evidence-only`.
    """
    known = [example for example in examples if example.has_evidence and example.answers]
    if target == "answer":
        return {example.id: example.answers[0] for example in known}
    if teacher is None:
        said = {example.id: evidence_sentence(example) for example in known}
    else:
        said = teacher.ask(known, progress, told=target != "evidence-only")
    if target == "evidence-only":
        return said
    return {
        example.id: f"{said[example.id]} {ANSWER} {example.answers[0]}".strip() for example in known
    }


class Teacher:
    """Asks `{base_url}/chat/completions` for one sentence of evidence per example.

    base_url ends in /v1; its key is taken from NEURORIT_TEACHER_KEY. cache: the folder of
    a reply cache. request: further fields of every request; None leaves one out.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        cache: Path,
        *,
        request: Mapping[str, Any] | None = None,
        transport: httpx.BaseTransport | None = None,
        settings: CallSettings = _CALLS,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise BadInput(
                f"teacher {base_url!r} is no address; it begins with http:// or https://"
            )
        if not model:
            raise BadInput("teacher_model is missing: name the model that the teacher serves")
        self._model, self._cache, self._fields = model, cache, dict(request or {})
        key = os.environ.get(KEY_VARIABLE)
        self._endpoint = Endpoint(base_url, api_key=key, settings=settings, transport=transport)

    def ask(
        self, examples: Sequence[Example], progress: Progress | None = None, *, told: bool = True
    ) -> dict[str, str]:
        """Example id -> one line of evidence; raises NeuroritError when the teacher keeps failing.

        told: the answer, for which it states the evidence; else it sums up the gold passages. What
        was answered before a failure stays in the cache.
        """
        prompts = {example.id: self._prompt(example, told) for example in examples}
        asked = [self._fields] if self._fields else []
        keys = {
            name: content_key("evidence", self._model, text, *asked)
            for name, text in prompts.items()
        }
        with Cache(self._cache) as cache:
            replies = cache.find(keys.values())
            waiting = [name for name in prompts if keys[name] not in replies]
            texts = [prompts[name] for name in waiting]
            calls = in_parallel(self._reply, texts, self._endpoint.settings.concurrency)
            for done, (place, reply) in enumerate(calls, start=1):
                if isinstance(reply, CallFailed):
                    raise NeuroritError(
                        f"the teacher {self._model} failed ({reply}); what it said so far is in "
                        f"{cache.path}, so run the same again"
                    )
                replies[keys[waiting[place]]] = reply
                cache.keep({keys[waiting[place]]: reply})
                if progress is not None:
                    progress("evidence by the teacher", done, len(waiting))
        return {name: replies[key] for name, key in keys.items()}

    def _prompt(self, example: Example, told: bool) -> str:
        passages = "\n\n".join(
            f"{passage.title}\n{passage.text}"
            for passage in example.passages
            if passage.kind == "gold"
        )
        values = {
            "question": example.question,
            "answer": example.answers[0],
            "passages": passages,
        }
        asked = _ASKED if told else _ASKED_ALONE
        return re.sub(r"\{(\w+)\}", lambda found: values[found[1]], asked)

    def _reply(self, prompt: str) -> str:
        request: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": 142,
            "temperature": 0,
        }
        return self._endpoint.chat(with_fields(request, self._fields), _said)


def _said(reply: Any) -> str | None:
    """The reply's text on one line, after its thinking; None where there is none.

    Raises CallFailed for one without an answer that would be the same again.
    """
    try:
        whole = read_piece(reply)
    except ValueError:
        return None
    text, unread = read_reply(whole.text, whole.finish_reason, whole.reasoning)
    if unread and not text.strip():
        hint = "cut at max_tokens; give it more in ‹teacher_request›"
        raise CallFailed(HINTS[unread] if unread not in ("cut", "thinking") else hint)
    return " ".join(text.split()) or None
