"""An experiment file: what is tuned, in which variants, with which seeds, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from neurorit.core.artifact import hash_inputs
from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Settings, Within, fit, read_yaml
from neurorit.eval.conditions import distractor_conditions, parse_condition
from neurorit.eval.metrics.settings import BASE

if TYPE_CHECKING:
    from neurorit.pipelines.evaluation.retention import RetentionSettings

_OF_VARIANT = (
    "method",
    "settings",
    "mine",
    "examples",
    "learning_rates",
    "rate_factors",
    "against",
)
_OF_RULE = ("clean_within", "refused_clean", "each")


@dataclass(frozen=True)
class Variant:
    """A named way to tune: a method, settings over the recipe's, examples of its own.

    family: its name in the file, which variants that differ in their rates alone share;
    rate_factor: what all of its learning rates are multiplied by; against: the variant that it is
    compared with, beside the base and the first one.
    """

    name: str
    method: str
    family: str
    rate_factor: float = 1.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    mine: Mapping[str, Any] = field(default_factory=dict)
    examples: Path | None = None
    against: str = ""


@dataclass(frozen=True)
class Experiment(Settings):
    """What an experiment file holds."""

    model: str
    """What is tuned: a checkpoint, or lab for the embedded model."""
    examples: Path
    """What it is tuned on."""
    evaluate: Path
    """Examples with pools (mix --for eval) that the table is of."""
    recipe: str = "lab"
    """A recipe file, or a packaged one's name."""
    methods: tuple[str, ...] = ()
    """Names of methods."""
    variants: Mapping[str, Any] = field(default_factory=dict)
    """Name -> {method, settings (of tuning), mine (settings of mining), examples, learning_rates
    (the variant once for each, named NAME@RATE), rate_factors (once for each, with all of its rates
    times this, named NAME@xFACTOR), against (another variant that it is compared with)}."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of mining and tuning."""
    conditions: tuple[str, ...] = ("clean", "distractor-1", "distractor-2", "distractor-4")
    """Conditions of the evaluation."""
    limit: AtLeastOne | None = None
    """So many questions."""
    max_tokens: AtLeastOne = 32
    """Tokens of an answer at most."""
    select: Mapping[str, Any] = field(default_factory=dict)
    """The rule {clean_within, refused_clean, each}: of each method's variants the one with the best
    mean over the distractor conditions is chosen, among those whose exact match on clean is within
    `clean_within` of the base's and whose refusals there, of what has an answer, are at most
    `refused_clean`. `each: variant` chooses one of each variant's rates."""
    test: Path | None = None
    """Examples for the chosen, asked once."""
    test_seeds: tuple[int, ...] = ()
    """Seeds of the chosen on `test`; without, `seeds`."""
    test_limit: AtLeastOne | None = None
    """So many questions of `test`; without, `limit`."""
    engine: Literal["auto", "vllm", "transformers"] = "vllm"
    """What answers: vllm, or transformers, which is sooner there for models of a few million
    parameters."""
    processes: AtLeastOne = 1
    """So many mine and tune together, each with a GPU of its own where there are any."""
    cpus: Annotated[float, Within(above=0)] = 1.0
    """With --ray: processors of each training and evaluation."""
    gpus: Annotated[float, Within(0)] = 0.0
    """With --ray: GPUs of each, a share of one too; as many as `processes`, or more."""
    retention: Mapping[str, Any] | None = None
    """What is kept of the base is measured too, on these settings (of `retention` in an evaluation
    file): every variant is a point of robustness against retention."""
    settings_from: str = ""
    """Where the settings were chosen, when not here; it stands in the manifest."""

    @classmethod
    def read(cls, path: Path) -> Experiment:
        """Read and check a file; raises BadInput that names the file and the setting."""
        document = read_yaml(path, "an experiment")
        made = fit(cls, document, str(path))
        if not made.all_variants():
            raise BadInput(f"{path}: name `methods` or `variants`")
        unknown = set(made.select) - set(_OF_RULE)
        if unknown:
            raise BadInput(f"{path}: select knows {', '.join(_OF_RULE)}, not {unknown}")
        if made.select.get("each", "method") not in ("method", "variant"):
            raise BadInput(f"{path}: select: each is method or variant")
        if made.test is not None and not made.select:
            raise BadInput(f"{path}: `test` is for the chosen; declare the rule under `select`")
        for name in ("test_seeds", "test_limit"):
            if getattr(made, name) and made.test is None:
                raise BadInput(f"{path}: {name} is for `test`, which is not given")
        for name in ("seeds", "test_seeds"):
            if len(set(getattr(made, name))) < len(getattr(made, name)):
                raise BadInput(f"{path}: {name}: one stands there twice")
        made.retention_settings()
        for condition in made.conditions:
            parse_condition(condition)
        noisy = distractor_conditions(list(made.conditions))
        if made.select and not ("clean" in made.conditions and noisy):
            raise BadInput(f"{path}: select needs the conditions `clean` and `distractor-K`")
        return made

    def check_data(self, path: Path) -> None:
        """Raise BadInput, naming `path`, where examples are not there."""
        own = [(f"variant {v.name}", v.examples) for v in self.all_variants()]
        named = [("examples", self.examples), ("evaluate", self.evaluate), ("test", self.test)]
        for name, place in named + own:
            if place is not None and not place.exists():
                made = place.name in ("examples-train", "examples-test") and "demo" in place.parts
                demo = "; `make demo` writes it" if made else "; `neurorit-rag mix` makes examples"
                raise BadInput(f"{path}: {name}: {place}: no such file or directory{demo}")
        if self.test is not None and hash_inputs(it=self.test) == hash_inputs(it=self.evaluate):
            raise BadInput(
                f"{path}: test: {self.test} holds what the choice is made on (`evaluate`); give "
                "questions of their own"
            )

    def retention_settings(self) -> RetentionSettings | None:
        """What retention is measured on, where it is asked for."""
        if self.retention is None:
            return None
        from neurorit.pipelines.evaluation.retention import RetentionSettings

        return fit(RetentionSettings, self.retention, "retention")

    def limit_of(self, examples: Path) -> int | None:
        """How many questions of these examples are asked."""
        own = self.test_limit if examples == self.test else None
        return own or self.limit

    def families(self, seeds: Sequence[int]) -> dict[str, str]:
        """Run -> what it shares with those of other learning rates, where there are several."""
        return {
            f"{variant.name}-{seed}": f"{variant.family}-{seed}"
            for variant in self.all_variants()
            for seed in seeds
            if variant.name != variant.family
        }

    def rivals(self, names: Sequence[str]) -> dict[str, str]:
        """Of the named variants, each one's own rival, where it is among them.

        Where the rival has several rates it is the one of like rate, or the only one named.
        """
        variants = {v.name: v for v in self.all_variants() if v.name in names}
        found = {}
        for name, variant in variants.items():
            like = variant.against + name.removeprefix(variant.family)
            kin = [v.name for v in variants.values() if v.family == variant.against]
            rival = next((one for one in (variant.against, like) if one in variants), "")
            if rival or len(kin) == 1:
                found[name] = rival or kin[0]
        return found

    def all_variants(self) -> list[Variant]:
        """Methods under their own names, then the variants."""
        made = [Variant(method, method, method) for method in self.methods]
        for name, given in self.variants.items():
            made += _variants(str(name), given)
        named = [variant.name for variant in made]
        for name in named:
            if name == BASE or named.count(name) > 1:
                why = "the untuned model" if name == BASE else "another variant"
                raise BadInput(f"variant {name}: that is the name of {why}; choose another")
        for variant in made:
            others = {v.name for v in made} | {v.family for v in made}
            if variant.against and variant.against not in others - {variant.name, variant.family}:
                raise BadInput(
                    f"variant {variant.name}: against {variant.against!r} is no other variant"
                )
        return made


def _variants(name: str, given: Any) -> list[Variant]:
    """A variant as the file has it, once for each of its rates."""
    if not isinstance(given, Mapping) or "method" not in given:
        raise BadInput(f"variant {name}: write {{method: ..., settings: ...}}")
    unknown = set(given) - set(_OF_VARIANT)
    if unknown:
        raise BadInput(f"variant {name}: it has {', '.join(_OF_VARIANT)}, not {unknown}")
    rates, factors = (_numbers(name, given, key) for key in ("learning_rates", "rate_factors"))
    if rates and factors:
        raise BadInput(f"variant {name}: learning_rates or rate_factors, not both")
    settings = dict(given.get("settings", {}))
    one = Variant(
        name,
        method=str(given["method"]),
        family=name,
        settings=settings,
        mine=dict(given.get("mine", {})),
        examples=Path(given["examples"]) if given.get("examples") else None,
        against=str(given.get("against", "")),
    )
    if rates:
        return [
            replace(one, name=f"{name}@{rate:g}", settings=settings | {"learning_rate": rate})
            for rate in rates
        ]
    if factors:
        return [replace(one, name=f"{name}@x{by:g}", rate_factor=by) for by in factors]
    return [one]


def _numbers(name: str, given: Mapping[str, Any], key: str) -> list[float]:
    """A variant's list of positive numbers; empty where it has none."""
    values = given.get(key)
    if values is None:
        return []
    try:
        # YAML takes 1e-4 for a text.
        found = [float(value) for value in values] if isinstance(values, list) else []
    except (TypeError, ValueError):
        found = []
    if not found or min(found) <= 0:
        raise BadInput(f"variant {name}: {key} is a list of positive numbers, not {values!r}")
    return found
