"""Settings: frozen dataclasses whose fields say what they take and what they are for.

A field's type is checked by pydantic when the settings are made; the string below it is its
docstring. Help of the command line, messages and docs/settings.md are made of the two.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from neurorit.core.errors import BadInput
from neurorit.core.yaml_text import load_yaml

Made = TypeVar("Made")
_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    Any: "anything",
}


@dataclass(frozen=True)
class Within:
    """The bounds of a number, beside its type in Annotated."""

    least: float | None = None
    most: float | None = None
    above: float | None = None

    def takes(self, kind: str) -> str:
        """What a number of that kind is, in words."""
        bounds = {"at least": self.least, "above": self.above, "at most": self.most}
        said = [f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None]
        return f"{kind}, {' and '.join(said)}"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        bounds = {"ge": self.least, "le": self.most, "gt": self.above}
        return handler(source) | {name: x for name, x in bounds.items() if x is not None}


AtLeastOne = Annotated[int, Within(1)]
Count = Annotated[int, Within(0)]
Positive = Annotated[float, Within(above=0)]
Share = Annotated[float, Within(0, 1)]


class Settings:
    """The base of settings: their values are checked, and converted to the fields' types.

    Raises BadInput naming the setting. What no type says (settings that do not go together) is for
    the `__post_init__` of a class, after this one's.
    """

    def __post_init__(self) -> None:
        for name, hint in hints(type(self)).items():
            value = convert(getattr(self, name), hint, f"‹{name}›")
            object.__setattr__(self, name, value)


class Setting(NamedTuple):
    """One field of settings, as a person reads of it."""

    name: str
    hint: Any
    default: Any  # MISSING where it must be given; of a mapping or of other settings, their type
    doc: str


def settings_of(kind: type) -> dict[str, Setting]:
    """Name -> setting of a dataclass, in its order."""
    docs: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if is_dataclass(cls):
            docs |= _docs(cls.__module__).get(cls.__name__, {})
    return {
        field.name: Setting(field.name, hint, _default(field), docs.get(field.name, ""))
        for field, hint in zip(fields(kind), hints(kind).values(), strict=True)
    }


def fit(kind: type[Made], document: Mapping[str, Any], where: str) -> Made:
    """The dataclass `kind` from a YAML document read at `where`.

    Raises BadInput for an unknown name, a missing one, or a value that its setting does not take.
    """
    return fill(kind, {name: (v, f"{where}: {name}") for name, v in document.items()}, where)


def fill(kind: type[Made], given: Mapping[str, tuple[Any, str]], section: str) -> Made:
    """The dataclass from name -> (value, where it was said); raises BadInput as `fit` does."""
    known = hints(kind)
    values = {}
    for name, (value, where) in given.items():
        if name not in known:
            raise BadInput(f"{where} is no setting of {section}; known: {', '.join(known)}")
        values[name] = convert(value, known[name], where)
    for name, setting in settings_of(kind).items():
        if name not in values and setting.default is MISSING:
            raise BadInput(f"{section}: `{name}` is missing")
    try:
        return kind(**values)
    except BadInput as error:
        raise BadInput(f"{section}: {error.marked}") from error


def convert(value: Any, hint: Any, where: str) -> Any:
    """The value as a field of that type holds it; raises BadInput saying what it takes."""
    try:
        # True is 1 to pydantic, as to Python; to a person it is no number.
        if _holds_bool(value) and not {bool, Any} & _parts(hint):
            raise ValueError
        return _adapter(hint).validate_python(value)
    except (ValueError, BadInput) as error:
        raise BadInput(f"{where} is {value!r}, but it must be {takes(hint)}") from error


def takes(hint: Any) -> str:
    """What a field of that type takes, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str(inner[1].takes(takes(inner[0])))
    if origin is Literal:
        return f"one of {', '.join(str(choice) for choice in inner if choice != '')}"
    if origin in (Union, UnionType):
        return " or ".join(takes(choice) for choice in inner if choice is not NoneType)
    if origin is tuple and ... not in inner:
        return f"a list of {len(inner)}"
    if origin in (tuple, list, Sequence):
        return f"a list, each {takes(inner[0])}"
    if origin in (dict, Mapping) or is_dataclass(hint):
        return "NAME: VALUE lines"
    return _WORDS.get(hint, str(hint))


def read_yaml(path: Path, what: str, top: str = "NAME: VALUE lines") -> dict[str, Any]:
    """The mapping in a YAML file; raises BadInput naming the file where it is none.

    what, top: the kind of file, and what stands at its top, for the message.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    try:
        document = load_yaml(path.read_text(encoding="utf-8")) or {}
    except ValueError as error:
        raise BadInput(f"{path}: not {what}: {error}") from error
    if not isinstance(document, dict):
        raise BadInput(f"{path}: {what} has {top} at its top")
    return document


def _hints(kind: Any) -> dict[str, Any]:
    """Name -> type of each field, with what is said beside it."""
    named = get_type_hints(kind, include_extras=True)
    return {field.name: named[field.name] for field in fields(kind)}


hints: Callable[[Any], dict[str, Any]] = cache(_hints)


@cache
def _docs(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> docstring, of a module's source: Python itself forgets these strings."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.ClassDef):
            docs[node.name] = {
                field.target.id: " ".join(below.value.value.split())
                for field, below in zip(node.body, node.body[1:], strict=False)
                if isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            }
    return docs


@cache
def _adapter(hint: Any) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    if is_dataclass(hint):
        return TypeAdapter(hint)
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory


def _holds_bool(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_bool, value))
    return isinstance(value, bool)


def _parts(hint: Any) -> set[Any]:
    return {hint}.union(*map(_parts, get_args(hint))) if get_origin(hint) is not Literal else set()
