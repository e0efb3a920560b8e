"""What researchers replace: named parts of the method, ours, registered ones, and entry points.

A part is named by its kind and its name. Ours are imported when they are first used; others are
registered by a decorator, or stand in an installed package as an entry point of the group
`neurorit.KIND`.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar
from uuid import uuid4

from neurorit.core.errors import BadInput

KINDS = {
    "attribution": "how a neuron's part in an answer is measured",
    "selection": "which neurons are chosen, from what mining kept",
    "site": "where in a model its neurons are",
    "loss": "a term of what tuning minimises",
    "tuning": "what is trained, in which stages",
    "noise": "a kind of passage that is mixed in",
    "judge": "who decides whether an answer is right",
}

Part = TypeVar("Part")
_REGISTERED: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_OWN: dict[str, frozenset[str]] = {}
_UNSEEN = uuid4().hex  # in the place of a source that cannot be read: another in every process


def register(kind: str, name: str) -> Callable[[Part], Part]:
    """Decorator: let settings name this part; one registered before under the name is replaced.

    Raises BadInput for a kind that there is not, and for a name of our own.
    """
    _check_kind(kind)
    if name in _OWN.get(kind, ()):
        raise BadInput(f"{kind} {name!r} is built in; register yours under another name")

    def keep(part: Part) -> Part:
        _REGISTERED[kind][name] = part
        return part

    return keep


class Registry(Generic[Part]):
    """The parts of one kind.

    own: name -> `module:object` of those that come with the package. form: `module:class` that a
    part is an object of; without, it is what can be called.
    """

    def __init__(self, kind: str, own: Mapping[str, str], form: str = "") -> None:
        _check_kind(kind)
        self.kind, self._own, self._form = kind, dict(own), form
        _OWN[kind] = frozenset(own)
        if taken := _OWN[kind] & _REGISTERED[kind].keys():
            raise BadInput(f"{kind} {min(taken)!r} is built in; register yours under another name")

    def names(self) -> tuple[str, ...]:
        """Every name there is: ours first, then those of others; nothing is imported."""
        others = {*_REGISTERED[self.kind], *self._entries()}
        return (*self._own, *sorted(others - self._own.keys()))

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in _REGISTERED[self.kind] or name in self._entries()

    def check(self, name: str, where: str) -> None:
        """Raise BadInput, naming `where` it was said, for a name that there is not."""
        if name not in self:
            raise BadInput(f"{where} {name!r}: it is one of {', '.join(self.names())}")

    def get(self, name: str, where: str = "") -> Part:
        """The part of that name.

        Raises BadInput as `check` does, for an entry point that cannot be loaded, and for what is
        no part of this kind.
        """
        self.check(name, where or self.kind)
        if name in self._own:
            part: Part = _at(self._own[name])
            return part
        if name in _REGISTERED[self.kind]:
            part = _REGISTERED[self.kind][name]
            self._check_form(part, name)
            return part
        entry = self._entries()[name]
        try:
            part = entry.load()
        except Exception as error:  # another's code may fail in any way
            package = f" of the package {entry.dist.name}" if entry.dist else ""
            raise BadInput(
                f"{where or self.kind} {name!r}: the entry point {entry.value}{package} cannot be "
                f"loaded: {type(error).__name__}: {error}"
            ) from error
        self._check_form(part, name)
        return part

    def revision(self, name: str) -> str:
        """What tells a part from what it was before it was edited; empty for one of ours.

        It is made of the part's own source and its package's version; what that calls elsewhere is
        not looked at.
        """
        if name in self._own:
            return ""
        told = _sources(self.get(name))
        if name not in _REGISTERED[self.kind] and (dist := self._entries()[name].dist):
            told.append(dist.version)
        return hashlib.sha256("\n".join(told).encode()).hexdigest()

    def _check_form(self, part: Any, name: str) -> None:
        if not self._form and not callable(part):
            raise BadInput(f"{self.kind} {name!r}: {type(part).__name__} is nothing to be called")
        if self._form and not isinstance(part, _at(self._form)):
            form = self._form.replace(":", ".")
            raise BadInput(
                f"{self.kind} {name!r}: it is a {type(part).__name__}; register a {form}, which "
                "holds the function"
            )

    def _entries(self) -> dict[str, EntryPoint]:
        return _installed(f"neurorit.{self.kind}", _places())


def _at(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def _sources(part: Any) -> list[str]:
    """The source of a function or a class, or of all that an object holds."""
    if is_dataclass(part) and not isinstance(part, type):
        held = ((field.name, getattr(part, field.name)) for field in fields(part))
        return [f"{name} {source}" for name, value in held for source in _sources(value)]
    if not callable(part):
        return [repr(part)]
    try:
        return [inspect.getsource(inspect.unwrap(part))]
    except (OSError, TypeError):
        return [_UNSEEN]


def _places() -> tuple[tuple[str, int], ...]:
    """Where packages may stand, and when each place has changed: an installation is a change."""
    found = []
    for place in sys.path:
        try:
            found.append((place, os.stat(place or ".").st_mtime_ns))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=len(KINDS))
def _installed(group: str, places: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """Name -> entry point; a file of every package is read for it, which takes 15 ms and more."""
    return {entry.name: entry for entry in entry_points(group=group)}


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise BadInput(f"no part is a {kind!r}: the kinds are {', '.join(KINDS)}")
