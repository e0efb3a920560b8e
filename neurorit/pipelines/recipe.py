"""Settings from a recipe file and from options; the options win.

A recipe is YAML with the sections `mix`, `mix-eval`, `mine`, `tune`, and `tune-METHOD` for what
one method wants otherwise; for the demonstration on a real model also `demo`, `demo-lab` for what
it wants otherwise without data, and `mix-reader` and `tune-reader` for the model that it compares
with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from neurorit.core.errors import BadInput
from neurorit.core.settings import Made, fill, read_yaml
from neurorit.core.yaml_text import load_yaml
from neurorit.tuning.settings import TUNINGS

LAB_RECIPE = Path(__file__).parents[1] / "recipes" / "lab.yaml"
_SECTIONS = ("demo", "demo-lab", "mix", "mix-eval", "mix-reader", "mine", "tune", "tune-reader")


class Recipe:
    """The sections of a recipe file; empty ones where the file says nothing.

    Raises BadInput naming the file and the section or the line that is wrong.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = None if path is None else find_recipe(path)
        self._sections: dict[str, dict[str, Any]] = {} if self.path is None else _read(self.path)

    def section(self, name: str) -> dict[str, Any]:
        """What the file says in a section, as it stands there."""
        return dict(self._sections.get(name, {}))

    def settings(
        self, kind: type[Made], section: str, options: Mapping[str, Any], variant: str = ""
    ) -> Made:
        """The dataclass `kind` from a section, its `-VARIANT`, and options that are given.

        variant: a method's name, reader, or lab.
        options: name -> value, None meaning not given. Raises BadInput as `fit` does.
        """
        merged: dict[str, tuple[Any, str]] = {}
        for name in (section, f"{section}-{variant}"):
            for key, value in self._sections.get(name, {}).items():
                merged[key] = (value, f"{self.path}: {name}.{key}")
        for key, value in options.items():
            if value is not None:
                merged[key] = (value, f"‹{key}›")
        return fill(kind, merged, section)


def find_recipe(path: str | Path) -> Path:
    """A recipe file; `lab` or `llama-3-8b-instruct` are those that come with the package."""
    packaged = LAB_RECIPE.parent / f"{path}.yaml"
    return packaged if not Path(path).is_file() and packaged.is_file() else Path(path)


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE options as a mapping; a value is read as YAML reads it.

    Raises BadInput for an option without a name or without '='.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not name or not equals:
            raise BadInput(f"--set {assignment}: write NAME=VALUE")
        try:
            values[name.strip().replace("-", "_")] = load_yaml(text)
        except ValueError as error:
            raise BadInput(f"--set {assignment}: the value is no YAML: {error}") from error
    return values


def _read(path: Path) -> dict[str, dict[str, Any]]:
    document = read_yaml(path, "a recipe", f"the sections {', '.join(_SECTIONS)}")
    for name, section in document.items():
        method = str(name).removeprefix("tune-")
        if name not in _SECTIONS and (method == name or method not in TUNINGS):
            known = ", ".join(_SECTIONS)
            raise BadInput(
                f"{path}: unknown section {name!r}; known: {known}, and tune-METHOD with one of "
                f"{', '.join(TUNINGS.names())}"
            )
        if not isinstance(section, dict):
            raise BadInput(f"{path}: section {name!r} must hold NAME: VALUE lines")
    return document
