"""The judge: does an answer mean the same as the reference?

Every answer ends in exactly one verdict: right, wrong, abstained or unscored. A verdict that could
not be had is unscored, never wrong. The judge sees texts only: no system, no condition.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from eval.cache import Cache, content_key
from eval.judge_prompts import YES_NO, fill_prompt, safe
from eval.metrics import is_abstention
from neurorit.prompts import encode_plain, render_chat
from retrieval.artifact import fingerprint_model
from retrieval.errors import BadInput

Verdict = Literal["right", "wrong", "abstained", "unscored"]
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "abstained", "unscored")
PROMPT_FILE = "judge_prompt.json"
DEFAULT_PROMPT = YES_NO
_FIELDS = re.compile(r"\{(question|reference|answer)\}")


class Item(NamedTuple):
    """What a judge sees: a question, every accepted answer, and the answer to judge."""

    question: str
    answers: tuple[str, ...]
    answer: str


class Judge(Protocol):
    """Decides items; `fingerprint` changes whenever a verdict could."""

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """One verdict per item, in order: right, wrong or unscored."""
        ...


def give_verdicts(
    judge: Judge | None,
    items: Sequence[Item],
    known: MutableMapping[Item, Verdict] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Verdict]:
    """One verdict per item; equal items are asked once, abstentions never.

    known: verdicts that this judge gave before; new ones are added, but not the unscored: those
    are asked again next time. Without a judge every answer that is no abstention is unscored.
    """
    cache: MutableMapping[Item, Verdict] = {} if known is None else known
    fresh: dict[Item, Verdict] = {}
    if judge is not None:
        open_items = [i for i in items if not is_abstention(i.answer) and i not in cache]
        unique = list(dict.fromkeys(open_items))
        given = judge.decide(unique, progress) if unique else []
        fresh = dict(zip(unique, given, strict=True))
        cache.update({item: v for item, v in fresh.items() if v != "unscored"})
    return [
        "abstained" if is_abstention(item.answer) else cache.get(item, fresh.get(item, "unscored"))
        for item in items
    ]


class CachedJudge:
    """A judge that looks into a cache first and keeps every verdict as soon as a part is decided.

    Verdicts are kept by the judge's fingerprint (model and prompt) and the item's texts; those that
    could not be had are not kept.
    """

    def __init__(self, judge: Judge, cache: Cache, *, part: int = 1_024) -> None:
        self.name = judge.name
        self.fingerprint = judge.fingerprint
        self.judge = judge
        self._cache, self._part = cache, part

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """One verdict per item; only unknown items reach the judge."""
        keys = [content_key("verdict", self.fingerprint, list(item)) for item in items]
        verdicts: dict[str, Verdict] = {
            key: verdict for key, verdict in self._cache.find(keys).items() if verdict in VERDICTS
        }
        open_items = [i for i, key in enumerate(keys) if key not in verdicts]
        before = len(items) - len(open_items)
        for start in range(0, len(open_items), self._part):
            part = open_items[start : start + self._part]
            given = self.judge.decide([items[i] for i in part])
            fresh = {keys[i]: v for i, v in zip(part, given, strict=True)}
            self._cache.keep({key: v for key, v in fresh.items() if v != "unscored"})
            verdicts |= fresh
            if progress is not None:
                progress(before + start + len(part), len(items))
        return [verdicts[key] for key in keys]


def judge_turn(template: str, item: Item) -> str:
    """The text of the judge's user turn: all aliases, and every text made safe (`safe`)."""
    return fill_prompt(
        template,
        question=safe(template, item.question),
        reference=" / ".join(safe(template, answer) for answer in item.answers),
        answer=safe(template, item.answer),
    )


class LocalJudge:
    """A causal language model in this process, asked once per item.

    It compares the probability of Yes with that of No at the first token of its turn: an answer
    cannot talk it into another format. Raises BadInput if the folder holds no such model.
    """

    def __init__(self, model_dir: Path, *, batch_tokens: int = 8_192) -> None:
        model_dir = Path(model_dir)
        if not (model_dir / "config.json").is_file():
            raise BadInput(f"no judge model at {model_dir}: it has no config.json")
        self.name = model_dir.name
        self.fingerprint = fingerprint_model(model_dir, PROMPT_FILE)
        self._dir = model_dir
        self._prompt = read_judge_prompt(model_dir)
        self._batch_tokens = batch_tokens
        self._loaded: tuple[Any, Any] | None = None

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """Right where P(Yes) > P(No). An item longer than the model's context is unscored."""
        verdicts: list[Verdict] = ["unscored"] * len(items)
        scores = self.probabilities(items, progress)
        for i, yes in enumerate(scores):
            if yes is not None:
                verdicts[i] = "right" if yes > 0.5 else "wrong"
        return verdicts

    def probabilities(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[float | None]:
        """P(Yes) / (P(Yes) + P(No)) of each item; None where it does not fit the context."""
        model, tokenizer = self._load()
        yes, no = answer_tokens(tokenizer, self._prompt)
        prompts = [
            render_chat(
                tokenizer, [{"role": "user", "content": judge_turn(self._prompt["user"], item)}]
            )
            for item in items
        ]
        limit = getattr(model.config, "max_position_embeddings", None) or max(
            map(len, prompts), default=0
        )
        result: list[float | None] = [None] * len(items)
        fitting = sorted(
            (i for i, ids in enumerate(prompts) if len(ids) <= limit), key=lambda i: len(prompts[i])
        )
        done = 0
        for batch in _batches(fitting, prompts, self._batch_tokens):
            scores = _yes_shares(model, [prompts[i] for i in batch], yes, no)
            for i, score in zip(batch, scores, strict=True):
                result[i] = score
            done += len(batch)
            if progress is not None:
                progress(done, len(items))
        return result

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from neurorit.models import load_model

            model, tokenizer = load_model(self._dir)
            self._loaded = (model.eval(), tokenizer)
        return self._loaded


def read_judge_prompt(model_dir: Path) -> dict[str, str]:
    """How a judge model was trained to be asked, or the default; BadInput if malformed.

    user: the turn, with {question}, {reference} and {answer}; yes, no (both optional): the exact
    beginnings of its reply.
    """
    path = Path(model_dir) / PROMPT_FILE
    if not path.is_file():
        return {"user": DEFAULT_PROMPT}
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))
        prompt = {name: prompt[name] for name in ("user", "yes", "no") if name in prompt}
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path}: not a judge prompt: {error}") from error
    missing = {"question", "reference", "answer"} - set(_FIELDS.findall(str(prompt.get("user"))))
    if missing:
        raise BadInput(f"{path}: 'user' lacks {{{sorted(missing)[0]}}}")
    if ("yes" in prompt) != ("no" in prompt) or not all(
        isinstance(text, str) and text for text in prompt.values()
    ):
        raise BadInput(f"{path}: 'user', 'yes' and 'no' are texts, and 'yes' comes with 'no'")
    return prompt


def answer_tokens(tokenizer: Any, prompt: Mapping[str, str]) -> tuple[list[int], list[int]]:
    """First tokens of the replies Yes and No, in the spellings that tell the two apart.

    Raises BadInput if the tokenizer starts both with the same token.
    """
    said_yes = [prompt["yes"]] if "yes" in prompt else ["Yes", " Yes"]
    said_no = [prompt["no"]] if "no" in prompt else ["No", " No"]
    yes = {encode_plain(tokenizer, text)[0] for text in said_yes}
    no = {encode_plain(tokenizer, text)[0] for text in said_no}
    if not yes - no or not no - yes:
        raise BadInput("the judge's tokenizer starts Yes and No with the same token")
    return sorted(yes - no), sorted(no - yes)


def _batches(order: Sequence[int], prompts: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """Split indices, shortest prompt first, so that each padded batch holds at most `tokens`."""
    batches: list[list[int]] = []
    for i in order:
        if batches and (len(batches[-1]) + 1) * len(prompts[i]) <= tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _yes_shares(
    model: Any, prompts: Sequence[list[int]], yes: list[int], no: list[int]
) -> list[float]:
    """P(Yes) / (P(Yes) + P(No)) at the position after each prompt; prompts are padded left."""
    import torch

    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.inference_mode():
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
    log_odds = logits[:, yes].float().logsumexp(-1) - logits[:, no].float().logsumexp(-1)
    return [float(x) for x in log_odds.sigmoid()]
