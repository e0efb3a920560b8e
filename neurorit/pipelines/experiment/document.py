"""An experiment file: what is tuned, in which variants, with which seeds, and what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from neurorit.core.errors import BadInput
from neurorit.core.settings import AtLeastOne, Settings, Within, fit, read_yaml
from neurorit.eval.conditions import distractor_conditions, parse_condition
from neurorit.eval.metrics.settings import BASE

if TYPE_CHECKING:
    from neurorit.pipelines.evaluation.retention import RetentionSettings

_OF_VARIANT = ("method", "settings", "mine", "examples", "learning_rates", "against")


@dataclass(frozen=True)
class Variant:
    """A named way to tune: a method, settings over the recipe's, examples of its own.

    against: the variant that it is compared with, beside the base and the first one.
    """

    name: str
    method: str
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
    (the variant once for each, named NAME@RATE), against (another variant that it is compared
    with)}."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of mining and tuning."""
    conditions: tuple[str, ...] = ("clean", "distractor-1", "distractor-2", "distractor-4")
    """Conditions of the evaluation."""
    limit: AtLeastOne | None = None
    """So many questions."""
    max_tokens: AtLeastOne = 32
    """Tokens of an answer at most."""
    select: Mapping[str, Any] = field(default_factory=dict)
    """The rule {clean_within, refused_clean}: of each method's variants the one with the best mean
    over the distractor conditions is chosen, among those whose exact match on clean is within
    `clean_within` of the base's and whose refusals there are at most `refused_clean`."""
    test: Path | None = None
    """Examples for the chosen, asked once."""
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
        unknown = set(made.select) - {"clean_within", "refused_clean"}
        if unknown:
            raise BadInput(f"{path}: select knows clean_within and refused_clean, not {unknown}")
        if made.test is not None and not made.select:
            raise BadInput(f"{path}: `test` is for the chosen; declare the rule under `select`")
        if len(set(made.seeds)) < len(made.seeds):
            raise BadInput(f"{path}: seeds: one stands there twice")
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

    def retention_settings(self) -> RetentionSettings | None:
        """What retention is measured on, where it is asked for."""
        if self.retention is None:
            return None
        from neurorit.pipelines.evaluation.retention import RetentionSettings

        return fit(RetentionSettings, self.retention, "retention")

    def families(self) -> dict[str, str]:
        """Run -> what it shares with those of other learning rates, where there are several."""
        return {
            f"{name}@{rate:g}-{seed}": f"{name}-{seed}"
            for name, given in self.variants.items()
            for rate in _rates(name, given) or ()
            for seed in self.seeds
        }

    def all_variants(self) -> list[Variant]:
        """Methods under their own names, then the variants."""
        made = [Variant(method, method) for method in self.methods]
        for name, given in self.variants.items():
            if not isinstance(given, Mapping) or "method" not in given:
                raise BadInput(f"variant {name}: write {{method: ..., settings: ...}}")
            unknown = set(given) - set(_OF_VARIANT)
            if unknown:
                raise BadInput(f"variant {name}: it has {', '.join(_OF_VARIANT)}, not {unknown}")
            own = Path(given["examples"]) if given.get("examples") else None
            settings, mining = dict(given.get("settings", {})), dict(given.get("mine", {}))
            method, rates = str(given["method"]), _rates(name, given)
            rival = str(given.get("against", ""))
            if rates is None:
                made.append(Variant(str(name), method, settings, mining, own, rival))
                continue
            made += [
                Variant(
                    f"{name}@{rate:g}",
                    method,
                    settings | {"learning_rate": rate},
                    mining,
                    own,
                    rival,
                )
                for rate in rates
            ]
        named = [variant.name for variant in made]
        for name in named:
            if name == BASE or named.count(name) > 1:
                why = "the untuned model" if name == BASE else "another variant"
                raise BadInput(f"variant {name}: that is the name of {why}; choose another")
        names = set(named)
        for variant in made:
            if variant.against and variant.against not in names - {variant.name}:
                raise BadInput(
                    f"variant {variant.name}: against {variant.against!r} is no other variant"
                )
        return made


def _rates(name: str, given: Mapping[str, Any]) -> list[float] | None:
    """The learning rates of a variant; None where it has the one of its settings."""
    rates = given.get("learning_rates")
    if rates is None:
        return None
    try:
        # YAML takes 1e-4 for a text.
        found = [float(rate) for rate in rates] if isinstance(rates, list) else []
    except (TypeError, ValueError):
        found = []
    if not found:
        raise BadInput(f"variant {name}: learning_rates is a list of numbers, not {rates!r}")
    return found
