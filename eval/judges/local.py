"""A judge in this process: a small causal language model, read at its first token."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from neurorit.core.artifact import hash_model
from neurorit.core.errors import BadInput
from neurorit.eval.judges.judge import judge_turn, prompt_digest
from neurorit.eval.judges.prompts import YES_NO
from neurorit.eval.judges.verdict_parsing import LEAST_MASS
from neurorit.eval.predictions import Item, Verdict
from neurorit.model.prompts import encode_plain, render_chat

PROMPT_FILE = "judge_prompt.json"
DEFAULT_PROMPT = YES_NO
_FIELDS = re.compile(r"\{(question|reference|answer)\}")


class Reading(NamedTuple):
    """yes: P(Yes) / (P(Yes) + P(No)); mass: P(Yes) + P(No)."""

    yes: float
    mass: float


class LocalJudge:
    """A causal language model in this process, asked once per item.

    It compares the probability of Yes with that of No at the first token of its turn: an answer
    cannot talk it into another format. Where the two hold less than half of the probability, the
    model was about to say something else: unscored. Raises BadInput if the folder holds no such
    model.
    """

    repeats = 1

    def __init__(self, model_dir: Path, *, batch_tokens: int = 8_192) -> None:
        model_dir = Path(model_dir)
        if not (model_dir / "config.json").is_file():
            raise BadInput(f"no judge model at {model_dir}: it has no config.json")
        self.name = model_dir.name
        self._dir = model_dir
        self._prompt = read_judge_prompt(model_dir)
        weights = hash_model(model_dir, PROMPT_FILE)
        self.fingerprint = f"{weights} {prompt_digest(self._prompt['user'])}"
        self._batch_tokens = batch_tokens
        self._sure: dict[Item, float] = {}
        self._loaded: tuple[Any, Any] | None = None

    def turn(self, item: Item) -> str:
        """What the judge is asked about an item."""
        return judge_turn(self._prompt["user"], item)

    def decide(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Verdict]:
        """Right where P(Yes) > P(No). An item longer than the model's context is unscored."""
        verdicts: list[Verdict] = ["unscored"] * len(items)
        for i, reading in enumerate(self.readings(items, progress)):
            if reading is not None and reading.mass >= LEAST_MASS:
                verdicts[i] = "right" if reading.yes > 0.5 else "wrong"
                self._sure[items[i]] = max(reading.yes, 1 - reading.yes)
        return verdicts

    def confidence(self, item: Item) -> float | None:
        """How probable the verdict that it gave on an item was, of Yes and No."""
        return self._sure.get(item)

    def probabilities(self, items: Sequence[Item]) -> list[float | None]:
        """P(Yes) / (P(Yes) + P(No)) of each item; None where it does not fit the context."""
        return [None if reading is None else reading.yes for reading in self.readings(items)]

    def readings(
        self, items: Sequence[Item], progress: Callable[[int, int], None] | None = None
    ) -> list[Reading | None]:
        """What the model is about to say of each item; None where it does not fit the context."""
        model, tokenizer = self._load()
        yes, no = answer_tokens(tokenizer, self._prompt)
        prompts = [
            render_chat(tokenizer, [{"role": "user", "content": self.turn(item)}]) for item in items
        ]
        limit = getattr(model.config, "max_position_embeddings", None) or max(
            map(len, prompts), default=0
        )
        result: list[Reading | None] = [None] * len(items)
        fitting = sorted(
            (i for i, ids in enumerate(prompts) if len(ids) <= limit), key=lambda i: len(prompts[i])
        )
        done = 0
        for batch in _batches(fitting, prompts, self._batch_tokens):
            batch_readings = _read(model, [prompts[i] for i in batch], yes, no)
            for i, reading in zip(batch, batch_readings, strict=True):
                result[i] = reading
            done += len(batch)
            if progress is not None:
                progress(done, len(items))
        return result

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from neurorit.model.load import load_model

            model, tokenizer = load_model(self._dir, dtype="auto")
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


def _read(model: Any, prompts: Sequence[list[int]], yes: list[int], no: list[int]) -> list[Reading]:
    """What stands at the position after each prompt; prompts are padded left."""
    import torch

    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    with torch.inference_mode():
        logits = (
            model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
                use_cache=False,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .float()
        )
    of_yes, of_no = logits[:, yes].logsumexp(-1), logits[:, no].logsumexp(-1)
    share = (of_yes - of_no).sigmoid()
    mass = (of_yes.logaddexp(of_no) - logits.logsumexp(-1)).exp()
    return [Reading(float(y), float(m)) for y, m in zip(share, mass, strict=True)]
