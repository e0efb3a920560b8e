"""YAML that may come from anybody: what stands for more than it is long is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

_VALUES = 100_000  # that a text may stand for, each alias counted as what it repeats
_DEPTH = 50


def load_yaml(text: str) -> Any:
    """What a YAML text says; raises ValueError, in one line, for what is none or grows too large.

    A few lines of aliases can stand for billions of values: whoever walks them never comes back.
    """
    import yaml

    try:
        return yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except ValueError as error:  # a date that does not exist, a number of too many digits
        raise ValueError(" ".join(str(error).split())) from error


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Counts the values that a text stands for while its nodes are put together."""

        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._values: dict[int, int] = {}  # of each node that is whole
            self._counted = self._deep = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            again = self.check_event(yaml.AliasEvent)
            before = self._counted
            self._deep += 1
            if self._deep > _DEPTH:
                raise yaml.YAMLError(f"nested deeper than {_DEPTH}")
            node = super().compose_node(parent, index)
            self._deep -= 1
            if again and id(node) not in self._values:
                raise yaml.YAMLError("an alias stands within what it repeats")
            self._counted += self._values[id(node)] if again else 1
            if self._counted > _VALUES:
                raise yaml.YAMLError(f"it stands for more than {_VALUES} values")
            if not again:
                self._values[id(node)] = self._counted - before
            return node

    return Loader
