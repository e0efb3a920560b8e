"""Settings: dataclasses filled from YAML and options, and checked by the types of their fields."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from neurorit.core.errors import BadInput

Settings = TypeVar("Settings")


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
