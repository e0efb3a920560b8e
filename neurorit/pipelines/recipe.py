"""Settings from a recipe file and from options; the options win.

A recipe is YAML with the sections `mix`, `mix-eval`, `mine`, `tune`, and `tune-METHOD` for what
one method wants otherwise. It knows settings only as dataclasses, whose fields give name and type.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from neurorit.core.errors import BadInput
from neurorit.tuning.settings import METHODS

Settings = TypeVar("Settings")
LAB_RECIPE = Path(__file__).parents[1] / "recipes" / "lab.yaml"
_SECTIONS = ("mix", "mix-eval", "mine", "tune")


class Recipe:
    """The sections of a recipe file; empty ones where the file says nothing.

    Raises BadInput naming the file and the section or the line that is wrong.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = None if path is None else find_recipe(path)
        self._sections: dict[str, dict[str, Any]] = {} if self.path is None else _read(self.path)

    def settings(
        self, kind: type[Settings], section: str, options: Mapping[str, Any], method: str = ""
    ) -> Settings:
        """The dataclass `kind` from a section, its `-METHOD` variant, and options that are given.

        options: name -> value, None meaning not given. Raises BadInput for an unknown name or a
        value of another type.
        """
        merged: dict[str, tuple[Any, str]] = {}
        for name in (section, f"{section}-{method}"):
            for key, value in self._sections.get(name, {}).items():
                merged[key] = (value, f"{self.path}: {name}.{key}")
        for key, value in options.items():
            if value is not None:
                merged[key] = (value, f"option {key}")
        return _made(kind, merged, section)


def find_recipe(path: str | Path) -> Path:
    """A recipe file; `lab` or `llama-3-8b-instruct` are those that come with the package."""
    packaged = LAB_RECIPE.parent / f"{path}.yaml"
    return packaged if not Path(path).exists() and packaged.is_file() else Path(path)


def fit(kind: type[Settings], document: Mapping[str, Any], where: str) -> Settings:
    """The dataclass `kind` from a YAML document read at `where`.

    Raises BadInput for an unknown name or a value of another type.
    """
    return _made(kind, {k: (v, f"{where}: {k}") for k, v in document.items()}, where)


def read_yaml(path: Path, what: str, top: str = "NAME: VALUE lines") -> dict[str, Any]:
    """The mapping in a YAML file; raises BadInput naming the file where it is none.

    what, top: the kind of file, and what stands at its top, for the message.
    """
    import yaml

    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not {what}: {_line(error)}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{path}: {what} has {top} at its top")
    return document


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """NAME=VALUE options as a mapping; a value is read as YAML reads it.

    Raises BadInput for an option without a name or without '='.
    """
    import yaml

    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not name or not equals:
            raise BadInput(f"--set {assignment}: write NAME=VALUE")
        try:
            values[name.strip().replace("-", "_")] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise BadInput(f"--set {assignment}: the value is no YAML: {_line(error)}") from error
    return values


def _made(kind: type[Settings], given: Mapping[str, tuple[Any, str]], section: str) -> Settings:
    """The dataclass from name -> (value, where it was said)."""
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, (value, where) in given.items():
        if key not in known:
            raise BadInput(f"{where} is no setting of {section}; known: {', '.join(known)}")
        values[key] = _fit(value, hints[key], where)
    return kind(**values)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    document = read_yaml(path, "a recipe", f"the sections {', '.join(_SECTIONS)}")
    for name, section in document.items():
        method = str(name).removeprefix("tune-")
        if name not in _SECTIONS and (method == name or method not in METHODS):
            known = ", ".join(_SECTIONS)
            raise BadInput(
                f"{path}: unknown section {name!r}; known: {known}, and tune-METHOD with one of "
                f"{', '.join(METHODS)}"
            )
        if not isinstance(section, dict):
            raise BadInput(f"{path}: section {name!r} must hold NAME: VALUE lines")
    return document


def _fit(value: Any, hint: Any, where: str) -> Any:
    """The value as the field's type wants it: a whole number is a float too, a list a tuple."""
    fitted, ok = _convert(value, hint)
    if not ok:
        wanted = getattr(hint, "__name__", None) if get_origin(hint) is None else str(hint)
        raise BadInput(f"{where} is {value!r}, but it must be {wanted or hint}")
    return fitted


def _convert(value: Any, hint: Any) -> tuple[Any, bool]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value, True
    if origin is Literal:
        return value, value in inner
    if origin in (Union, types.UnionType):
        for choice in inner:
            fitted, ok = _convert(value, choice)
            if ok:
                return fitted, True
        return value, False
    if origin in (tuple, list, Sequence):
        if not isinstance(value, (list, tuple)):
            return value, False
        parts = [_convert(item, inner[0] if inner else Any) for item in value]
        made = tuple(p for p, _ in parts) if origin is tuple else [p for p, _ in parts]
        return made, all(ok for _, ok in parts)
    if origin in (dict, Mapping):
        return value, isinstance(value, dict)
    if hint is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        return (float(value) if good else value), good
    if hint is int:
        return value, isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return Path(str(value)), isinstance(value, (str, Path))
    return value, isinstance(value, hint)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
