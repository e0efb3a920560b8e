"""What an evaluation file says: systems, data sets, conditions, judge; and the same from options.

Unknown names are refused with the file and the key. It starts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from neurorit.core.errors import BadInput
from neurorit.core.settings import fit, read_yaml
from neurorit.eval.conditions import CONDITIONS, parse_condition
from neurorit.pipelines.recipe import LAB_RECIPE

if TYPE_CHECKING:
    from neurorit.core.openai_client import CallSettings
    from neurorit.eval.metrics.settings import Analysis
    from neurorit.eval.run.systems import System
    from neurorit.retrieval.retriever import SearchSettings


@dataclass(frozen=True)
class SystemSettings:
    """One system: exactly one of model (a checkpoint's directory; lab: the embedded base), url (of
    an OpenAI-compatible endpoint, with its model's name in `remote`) or gateway (an address).

    key: environment variable with the key; request: further fields of every request.
    """

    model: str = ""
    url: str = ""
    gateway: str = ""
    remote: str = ""
    key: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeSettings:
    """model: lab, none, a judge's directory, or the name of the model at `url`.

    mode: yes-no, or graded by `rubric`, right from the grade `passing` on; repeats: askings of each
    answer, an odd number; key: environment variable with the key; labels: JSONL of labelled answers
    (or lab), on which the report says how far to trust the judge.
    """

    model: str = "none"
    url: str = ""
    key: str = ""
    mode: Literal["yes-no", "graded"] = "yes-no"
    rubric: str = ""
    passing: float = 4.0
    repeats: int = 1
    labels: str = ""


@dataclass(frozen=True)
class RetrieverSettings:
    """index: what `index` wrote; k: passages for a question, as the condition `retrieved-K`; the
    rest as `search` and `serve` know it (`neurorit.retrieval.retriever.SearchSettings`).
    """

    index: Path
    k: int = 5
    mode: str = "dense"
    rerank: str = ""
    depth: int = 100
    fusion: str = "scores"
    dense_weight: float = 0.7

    @property
    def search(self) -> SearchSettings:
        """How passages are found."""
        from neurorit.retrieval.retriever import SearchSettings

        return SearchSettings(
            mode=self.mode,
            depth=self.depth,
            fusion=self.fusion,
            dense_weight=self.dense_weight,
            rerank=self.rerank,
        )


@dataclass(frozen=True)
class EvalSettings:
    """What an evaluation file holds.

    systems: name -> SystemSettings, or as in --system; data: a path, or name -> path; conditions:
    names; judge: JudgeSettings, or as in --judge; retriever: RetrieverSettings; calls: timeout,
    retries, pause, concurrency of calls to servers; limit: so many questions; sample: drawn by the
    seed (random) or the first of the file; metric: what comparisons and robustness rest on (em,
    match, f1, parts); compare: systems that all others are compared with, or pairs [a, b];
    refusals: regular expressions of a refusal in words, [] for none (without it, the patterns of
    `data.refusals`); cluster: a field of the examples' meta (or of their gold passage) by which
    questions are resampled together; max_tokens: of an answer; dtype: that
    checkpoints compute in: auto (bfloat16 for large models on a CPU that is quick in it, else as
    stored), stored, float32, bfloat16 or float16; max_unscored: share of answers without a verdict
    that is borne; root: the directory that relative paths start from (the one the command runs in,
    when it is not named).
    """

    systems: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | str = ""
    conditions: tuple[str, ...] = CONDITIONS
    judge: Mapping[str, Any] | str = "none"
    retriever: Mapping[str, Any] | None = None
    calls: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    sample: Literal["random", "first"] = "random"
    metric: Literal["em", "match", "f1", "parts"] = "em"
    compare: Sequence[Any] | str = ()
    refusals: Sequence[Any] | None = None
    cluster: str = ""
    max_tokens: int = 24
    dtype: str = "auto"
    seed: int = 0
    max_unscored: float = 0.02
    root: str = ""
    source: str = "options"

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
        for part in ("calls", "retriever"):
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
            raise BadInput("no system to evaluate: give --system, or `systems` in --config")
        if not made.data:
            raise BadInput("nothing to ask: give --examples, or `data` in --config")
        for condition in made.conditions:
            parse_condition(condition)
        if not 0.0 <= made.max_unscored <= 1.0:
            raise BadInput(f"{where}: max_unscored is a share, from 0 to 1")
        made.analysis().check([s.name for s in made.all_systems()])
        made.call_settings()
        made.judge_settings()
        made.all_conditions()
        return made

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
        where = f"{self.source}: retriever"
        if "index" not in self.retriever:
            raise BadInput(f"{where}: `index` is missing")
        made = fit(RetrieverSettings, self.retriever, where)
        if made.k < 1:
            raise BadInput(f"{where}: k must be at least 1")
        made.search.check()
        return replace(made, index=self.path(made.index))

    def judge_settings(self) -> JudgeSettings:
        """The judge. A text is lab, none, a directory, or URL#MODEL."""
        if isinstance(self.judge, str):
            if self.judge.startswith(("http://", "https://")):
                url, _, model = self.judge.partition("#")
                return JudgeSettings(model=model, url=url)
            return JudgeSettings(model=self.judge)
        return fit(JudgeSettings, self.judge, f"{self.source}: judge")

    def analysis(self) -> Analysis:
        """How answers are scored and compared."""
        from neurorit.data.refusals import PATTERNS
        from neurorit.eval.metrics.settings import Analysis

        listed = [self.compare] if isinstance(self.compare, str) else self.compare
        given: list[str | tuple[str, str]] = []
        for entry in listed:
            if isinstance(entry, str):
                given.append(entry)
            elif isinstance(entry, Sequence) and len(entry) == 2:
                given.append((str(entry[0]), str(entry[1])))
            else:
                raise BadInput(f"{self.source}: compare holds names, or pairs: [tuned, base]")
        patterns = PATTERNS if self.refusals is None else tuple(map(str, self.refusals))
        return Analysis(self.metric, tuple(given), patterns, self.cluster)

    def call_settings(self) -> CallSettings:
        """How servers are called."""
        from neurorit.core.openai_client import CallSettings

        made = fit(CallSettings, self.calls, f"{self.source}: calls")
        if made.concurrency < 1 or made.retries < 0 or made.timeout <= 0 or made.pause < 0:
            raise BadInput(f"{self.source}: calls want concurrency >= 1, retries >= 0, timeout > 0")
        return made

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
        if text == "lab" and not self.path(text).exists():
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


def systems_of_options(
    texts: Iterable[str] | None, keys: Iterable[str] | None
) -> dict[str, Any] | None:
    """--system and --key options as `systems` of a file; None when there are none."""
    if not texts:
        return None
    variables = dict(_pair(text, "--key") for text in keys or ())
    made: dict[str, Any] = {}
    for text in texts:
        name, place = _pair(text, "--system")
        if name in made:
            raise BadInput(f"--system {text}: two systems are named {name}")
        made[name] = place
        if name in variables:
            variable = variables.pop(name)
            url, _, remote = place.removeprefix("gateway+").partition("#")
            kind = "gateway" if place.startswith("gateway+") else "url"
            made[name] = {kind: url, "remote": remote, "key": variable}
    if variables:
        raise BadInput(f"--key names {next(iter(variables))}, which is no --system")
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
    return dict(_pair(text, "--examples") for text in texts)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise BadInput(f"{option} {text}: write NAME=VALUE")
    return name, value
