"""What an evaluation file says: systems, data sets, conditions, judge; and the same from options.

Unknown names are refused with the file and the key. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurorit.core.endpoint.call_settings import CallSettings
from neurorit.core.errors import BadInput
from neurorit.core.settings import (
    AtLeastOne,
    Count,
    Made,
    Settings,
    Share,
    fill,
    fit,
    hints,
    read_yaml,
)
from neurorit.eval.conditions import CONDITIONS, parse_condition
from neurorit.eval.metrics.settings import Analysis
from neurorit.lab import LAB
from neurorit.pipelines.recipe import LAB_RECIPE
from neurorit.retrieval.settings import SearchSettings

if TYPE_CHECKING:
    from neurorit.eval.run.systems import System
    from neurorit.pipelines.evaluation.retention import RetentionSettings


@dataclass(frozen=True)
class SystemSettings(Settings):
    """One system: exactly one of model, url and gateway."""

    model: str = ""
    """A checkpoint's directory; lab: the embedded base."""
    url: str = ""
    """Address of an OpenAI-compatible endpoint."""
    gateway: str = ""
    """Address of a running gateway, which retrieves by itself."""
    remote: str = ""
    """The model's name at the address."""
    key: str = ""
    """Environment variable with the key."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request."""


@dataclass(frozen=True)
class JudgeSettings(Settings):
    """What judges answers."""

    model: str = "none"
    """lab, none, a judge's directory, or the name of the model at `url`."""
    url: str = ""
    """Address of an OpenAI-compatible endpoint."""
    key: str = ""
    """Environment variable with the judge's key."""
    mode: Literal["yes-no", "graded"] = "yes-no"
    """How it is asked: for yes or no, or for a grade by `rubric`."""
    rubric: str = ""
    """What the grades mean, in place of the packaged text."""
    passing: float = 4.0
    """The grade from which on an answer is right."""
    repeats: AtLeastOne = 1
    """Askings of each answer, an odd number; several are sampled."""
    labels: str = ""
    """Labelled answers (JSONL, or lab) by which the report says how far to trust the judge."""
    thinking_tokens: Count = 0
    """Tokens of its thinking before a verdict, which is then read from the text after it."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of every request; null leaves one out, such as temperature."""


@dataclass(frozen=True, kw_only=True)
class RetrieverSettings(SearchSettings):
    """The index that is searched, and how."""

    index: Path
    """What `index` wrote: the condition retrieved-K."""
    k: AtLeastOne = 5
    """Passages for a question."""

    @property
    def search(self) -> SearchSettings:
        """How passages are found."""
        return SearchSettings(**{name: getattr(self, name) for name in hints(SearchSettings)})


@dataclass(frozen=True)
class EvalSettings(Analysis):
    """What an evaluation file holds."""

    systems: Mapping[str, Any] = field(default_factory=dict)
    """Name -> system: its settings, or PLACE as in --system."""
    data: Mapping[str, Any] | str = ""
    """Examples: a path, or name -> path."""
    conditions: tuple[str, ...] = CONDITIONS
    """Conditions, such as distractor-2@last."""
    judge: Mapping[str, Any] | str = "none"
    """lab, none, a judge's folder, URL/v1#MODEL, or its settings."""
    retriever: Mapping[str, Any] | None = None
    """The retriever's settings: with it, the condition retrieved-K."""
    retention: Mapping[str, Any] | None = None
    """What is kept of the base: text, examples, instructions, limit and base."""
    calls: Mapping[str, Any] = field(default_factory=dict)
    """How servers are called."""
    limit: AtLeastOne | None = None
    """So many questions, drawn by the seed."""
    sample: Literal["random", "first"] = "random"
    """Which: drawn by the seed, or the first of the file."""
    max_tokens: AtLeastOne = 24
    """Tokens of an answer at most."""
    thinking_tokens: Count = 0
    """Tokens of a reply's thinking beside its answer."""
    dtype: str = "auto"
    """What checkpoints compute in: auto (bfloat16 for large models on a CPU that is quick in it,
    else as stored), stored, float32, bfloat16 or float16."""
    seed: int = 0
    """Seed of everything random."""
    max_unscored: Share = 0.02
    """Share of answers without a verdict that is borne."""
    root: str = ""
    """Where relative paths start; without, where the command runs."""
    source: str = "options"
    """Where all this was said, for messages; no file may hold it."""

    @classmethod
    def read(cls, name: str | Path | None, options: Mapping[str, Any]) -> EvalSettings:
        """The file (or a packaged one's name, such as demo), with the options that are given.

        Raises BadInput naming the file and the key, or what is missing.
        """
        document: dict[str, Any] = {}
        where = "options"
        if name is not None:
            packaged = LAB_RECIPE.parent / "eval" / f"{name}.yaml"
            path = packaged if not Path(name).is_file() and packaged.is_file() else Path(name)
            document = read_yaml(path, "an evaluation")
            where = str(path)
            if "source" in document:
                raise BadInput(f"{path}: source is no setting of {path}")
        given = {key: value for key, value in options.items() if value is not None}
        made = replace(fit(cls, document, where), source=where)
        for part in ("calls", "retriever", "retention"):
            # An option changes what it names; the rest stays as the file says.
            held = getattr(made, part)
            if part in given and held:
                given[part] = {**held, **given[part]}
        of_judge = {
            name: given.pop(f"judge_{name}")
            for name in ("labels", "key")
            if f"judge_{name}" in given
        }
        if "judge" in given and isinstance(made.judge, Mapping):
            given["judge"] = _other_judge(made, str(given["judge"]))
        made = replace(made, **given)
        if of_judge:
            made = replace(made, judge=asdict(made.judge_settings()) | of_judge)
        if not made.systems:
            raise BadInput("no system to evaluate: give ‹systems›, or `systems` in ‹config›")
        if not made.data:
            raise BadInput("nothing to ask: give ‹data›, or `data` in ‹config›")
        for condition in made.conditions:
            parse_condition(condition)
        made.analysis().check([s.name for s in made.all_systems()])
        made.call_settings()
        made.judge_settings()
        made.all_conditions()
        return made

    @property
    def reply_tokens(self) -> int:
        """Tokens of a reply at most: thinking and answer."""
        return self.max_tokens + self.thinking_tokens

    def path(self, text: str | Path) -> Path:
        """A path of the file: from `root` where it is relative."""
        return Path(self.root) / Path(text).expanduser()

    def data_sets(self) -> dict[str, Path]:
        """Name -> path; "" for a data set without a name."""
        if isinstance(self.data, str):
            return {"": self.path(self.data)}
        return {str(name): self.path(str(place)) for name, place in self.data.items()}

    def all_systems(self, *, fetch: bool = False) -> list[System]:
        """The systems, in the file's order. Raises BadInput naming the one that is malformed.

        fetch: checkpoints that are a hub's are brought here, and stand as the folders they are in.
        """
        return [self._system(str(n), value, fetch) for n, value in self.systems.items()]

    def all_conditions(self) -> list[str]:
        """The conditions; with a retriever also `retrieved-K`, where none of these is named."""
        names = list(self.conditions)
        chosen = self.retriever_settings()
        if chosen is not None and not any(parse_condition(n).retrieved for n in names):
            names.append(f"retrieved-{chosen.k}")
        return names

    def retriever_settings(self) -> RetrieverSettings | None:
        """The retriever, if there is one."""
        if self.retriever is None:
            return None
        made = self._part(RetrieverSettings, self.retriever, "retriever")
        return replace(made, index=self.path(made.index))

    def retention_settings(self) -> RetentionSettings | None:
        """What retention is measured on, where it is asked for; its paths start at the root."""
        if self.retention is None:
            return None
        from neurorit.pipelines.evaluation.retention import RetentionSettings

        made = self._part(RetentionSettings, self.retention, "retention")
        text, examples = (
            str(self.path(place).absolute()) if place not in ("", LAB) else place
            for place in (made.text, made.examples)
        )
        folder = str(self.path(made.lm_eval_folder)) if made.lm_eval_folder else ""
        return replace(made, text=text, examples=examples, lm_eval_folder=folder)

    def judge_settings(self) -> JudgeSettings:
        """The judge. A text is lab, none, a directory, or URL#MODEL."""
        if isinstance(self.judge, str):
            if self.judge.startswith(("http://", "https://")):
                url, _, model = self.judge.partition("#")
                return JudgeSettings(model=model, url=url)
            return JudgeSettings(model=self.judge)
        return self._part(JudgeSettings, self.judge, "judge")

    def analysis(self) -> Analysis:
        """How answers are scored and compared."""
        return Analysis(**{name: getattr(self, name) for name in hints(Analysis)})

    def call_settings(self) -> CallSettings:
        """How servers are called."""
        return self._part(CallSettings, self.calls, "calls")

    def _part(self, kind: type[Made], document: Mapping[str, Any], name: str) -> Made:
        if self.source != "options":
            return fit(kind, document, f"{self.source}: {name}")
        return fill(kind, {key: (value, f"‹{key}›") for key, value in document.items()}, name)

    def _system(self, name: str, value: Any, fetch: bool) -> System:
        from neurorit.eval.run.systems import System, parse_system

        if isinstance(value, str):
            system = parse_system(f"{name}={value}")
            if system.model is None:
                return system
            return replace(system, model=self._model(value, fetch))
        where = f"{self.source}: systems.{name}"
        if not isinstance(value, Mapping):
            raise BadInput(f"{where} is {value!r}: write a directory, an address, or NAME: VALUE")
        found = fit(SystemSettings, value, where)
        if sum(map(bool, (found.model, found.url, found.gateway))) != 1:
            raise BadInput(f"{where}: name exactly one of model, url and gateway")
        if found.model:
            return System(name, "checkpoint", model=self._model(found.model, fetch))
        return System(
            name,
            "endpoint" if found.url else "gateway",
            url=found.url or found.gateway,
            remote=found.remote,
            key_variable=found.key,
            request=dict(found.request),
        )

    def _model(self, text: str, fetch: bool) -> Path:
        if text == LAB:
            from neurorit.lab import base_model_dir

            return base_model_dir()
        from neurorit.model.checkpoint import checkpoint_dir, refuse_other_forms

        here = self.path(text)
        refuse_other_forms(here)
        return checkpoint_dir(text) if fetch and not here.exists() else here


def _other_judge(settings: EvalSettings, text: str) -> dict[str, Any]:
    """The file's judge with another model; its key goes to no server but its own."""
    held = settings.judge_settings()
    named = replace(settings, judge=text).judge_settings()
    key = held.key if named.url == held.url else ""
    return asdict(held) | {"model": named.model, "url": named.url, "key": key}


def retention_of_options(
    asked: bool,
    text: str | None,
    examples: str | None,
    lm_eval: str | None = None,
    lm_eval_folder: str | None = None,
) -> dict[str, Any] | None:
    """--retention and what goes with it as `retention` of a file; None when nothing is given.

    lm_eval: names of tasks, parted by commas.
    """
    names = [name.strip() for name in (lm_eval or "").split(",") if name.strip()]
    given: dict[str, Any] = {"text": text, "examples": examples, "lm_eval_folder": lm_eval_folder}
    given["lm_eval"] = names or None
    given = {name: value for name, value in given.items() if value is not None}
    return given if asked or given else None


def systems_of_options(
    texts: Iterable[str] | None, keys: Iterable[str] | None
) -> dict[str, Any] | None:
    """--system and --key options as `systems` of a file; None when there are none."""
    if not texts:
        if keys:
            raise BadInput("‹keys› goes with ‹systems›; in a file a system has its own `key`")
        return None
    variables = dict(_pair(text, "keys") for text in keys or ())
    made: dict[str, Any] = {}
    for text in texts:
        name, place = _pair(text, "systems")
        if name in made:
            raise BadInput(f"‹systems={text}›: two systems are named {name}")
        made[name] = place
        if name in variables:
            variable = variables.pop(name)
            url, _, remote = place.removeprefix("gateway+").partition("#")
            kind = "gateway" if place.startswith("gateway+") else "url"
            made[name] = {kind: url, "remote": remote, "key": variable}
    if variables:
        raise BadInput(f"‹keys› names {next(iter(variables))}, which is no ‹systems›")
    return made


def retriever_of_options(
    index: str | None, k: int | None, mode: str | None, rerank: str | None
) -> dict[str, Any] | None:
    """--index and what goes with it as `retriever` of a file; None when nothing is given."""
    given = {"index": index, "k": k, "mode": mode, "rerank": rerank}
    return {name: value for name, value in given.items() if value is not None} or None


def data_of_options(texts: Sequence[str] | None) -> dict[str, Any] | str | None:
    """--examples options as `data` of a file: PATH, or NAME=PATH for several."""
    if not texts:
        return None
    if len(texts) == 1 and ("=" not in texts[0] or Path(texts[0]).exists()):
        return texts[0]
    return dict(_pair(text, "data") for text in texts)


def _pair(text: str, parameter: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise BadInput(f"‹{parameter}={text}›: write NAME=VALUE")
    return name, value
