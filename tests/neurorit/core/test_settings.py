"""Settings: what a field takes, how it is said, and where its help comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from neurorit.core.errors import BadInput
from neurorit.core.settings import (
    AtLeastOne,
    Count,
    Settings,
    Share,
    Within,
    fit,
    settings_of,
    takes,
)
from neurorit.core.units import Amount


@dataclass(frozen=True)
class Kiln(Settings):
    """How pots are burnt."""

    wood: Path
    """Where the wood
    lies."""
    pots: AtLeastOne = 3
    """Pots at once."""
    glaze: Literal["", "ash", "salt"] = "ash"
    """What they shine with."""
    heat: Annotated[float, Within(above=0)] = 1e3
    share: Share | None = None
    shelves: tuple[Count, ...] = (1,)
    room: Annotated[int, Amount(10**6)] = 10**9
    notes: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[str | tuple[str, str], ...] | str = ()
    open: bool = False


@dataclass(frozen=True)
class Oven(Kiln):
    """A kiln with a door."""

    pots: AtLeastOne = 1
    door: Literal["left", "right"] = "left"
    """On which side."""


def test_values_become_what_the_fields_hold() -> None:
    kiln = Kiln("wood", heat="1e-3", shelves=[2, 0], room="2GiB", pairs=[["a", "b"], "c"])  # type: ignore[arg-type]
    assert (kiln.wood, kiln.heat, kiln.shelves) == (Path("wood"), 1e-3, (2, 0))
    assert (kiln.room, kiln.pairs) == (2**31, (("a", "b"), "c"))


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("wood", 3, "a path"),
        ("pots", 0, "a whole number, at least 1"),
        ("pots", "many", "a whole number, at least 1"),
        ("pots", True, "a whole number, at least 1"),
        ("pots", 2.5, "a whole number, at least 1"),
        ("glaze", "lead", "one of ash, salt"),
        ("heat", 0, "a number, above 0"),
        ("heat", float("nan"), "a number, above 0"),
        ("heat", float("inf"), "a number, above 0"),
        ("share", 2, "a number, at least 0 and at most 1"),
        ("shelves", [1, -1], "a list, each a whole number, at least 0"),
        ("shelves", [True], "a list, each a whole number, at least 0"),
        ("shelves", 4, "a list, each a whole number, at least 0"),
        ("room", "much", "an amount such as 512MB or 2GiB, at least 1MB"),
        ("room", "3kB", "an amount such as 512MB or 2GiB, at least 1MB"),
        ("notes", 3, "NAME: VALUE lines"),
        ("open", "perhaps", "true or false"),
    ],
)
def test_what_a_setting_does_not_take_is_said_in_words(name: str, value: Any, wanted: str) -> None:
    said = f"{name} is {value!r}, but it must be {wanted}"
    given: dict[str, Any] = {"wood": Path("w"), name: value}
    with pytest.raises(BadInput) as error:
        Kiln(**given)
    assert str(error.value) == said
    with pytest.raises(BadInput) as error:
        replace(Kiln(Path("w")), **{name: value})
    assert str(error.value) == said
    with pytest.raises(BadInput) as error:
        fit(Kiln, given, "kiln.yaml")
    assert str(error.value) == f"kiln.yaml: {said}"
    assert error.value.for_shell(lambda name: f"--{name}") == f"kiln.yaml: {said}"


def test_a_file_names_what_is_missing_and_what_is_unknown() -> None:
    with pytest.raises(BadInput, match=r"kiln\.yaml: `wood` is missing"):
        fit(Kiln, {}, "kiln.yaml")
    with pytest.raises(
        BadInput, match=r"kiln\.yaml: clay is no setting of kiln\.yaml; known: wood,"
    ):
        fit(Kiln, {"wood": "w", "clay": 1}, "kiln.yaml")


def test_a_docstring_stands_below_its_field_and_is_inherited() -> None:
    settings = settings_of(Oven)
    assert [*settings][-1] == "door" and "wood" in settings
    assert settings["wood"].doc == "Where the wood lies." and settings["wood"].default is MISSING
    assert settings["door"].doc == "On which side." and settings["heat"].doc == ""
    assert (settings["pots"].default, settings["pots"].doc) == (1, "Pots at once.")
    assert takes(settings["glaze"].hint) == "one of ash, salt"
