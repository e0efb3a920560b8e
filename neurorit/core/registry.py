"""What researchers replace: named parts of the method, ours, registered ones, and entry points.

A part is named by its kind and its name. Ours are imported when they are first used; others are
registered by a decorator, or stand in an installed package as an entry point of the group
`neurorit.KIND`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

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
    """The parts of one kind. own: name -> `module:object` of those that come with the package."""

    def __init__(self, kind: str, own: Mapping[str, str]) -> None:
        _check_kind(kind)
        self.kind, self._own = kind, dict(own)
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

        Raises BadInput as `check` does, and for an entry point that cannot be loaded.
        """
        self.check(name, where or self.kind)
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            part: Part = getattr(import_module(module), attribute)
            return part
        if name in _REGISTERED[self.kind]:
            part = _REGISTERED[self.kind][name]
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
        return part

    def _entries(self) -> dict[str, EntryPoint]:
        return _installed(f"neurorit.{self.kind}", _places())


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
