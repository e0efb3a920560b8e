"""The forms that an answer may be held to: a schema, a regular expression, a choice, a grammar.

vLLM makes an automaton of each before it writes. A small text can describe one that takes all
memory, which ends the engine for everybody: so what it counts up to is bounded here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import unquote

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_FORM = 20_000  # characters of any of them
MAX_REGEX = 2_000
MAX_CHOICES = 200
MAX_DEPTH = 20  # of a schema
MAX_COUNT = 1_000  # of what a schema or an expression asks to repeat
_IN_A_ROW = 50  # references, each of which is another one
_DATA = ("const", "enum", "default", "examples")  # values, in which nothing is a schema
_REPEAT = re.compile(r"\{(\d*),?(\d*)\}")
_COUNTS = ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")


def is_text(value: str) -> str:
    """JSON can hold halves of characters, which no other program takes as text."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode text") from None
    return value


def check_schema(schema: Any) -> Any:
    """The schema; raises ValueError for what is none, or is too large to be held to."""
    try:
        found = orjson.loads(schema) if isinstance(schema, str) else schema
        size = len(orjson.dumps(found))
    except (TypeError, ValueError):
        raise ValueError("the schema cannot be read") from None
    if not isinstance(found, dict):
        raise ValueError("a schema is an object")
    if size > MAX_FORM:
        raise ValueError(f"the schema is longer than {MAX_FORM} characters")
    _walk(found, 0)
    _check_references(found, found, set())
    return schema


def check_regex(text: str) -> str:
    """The expression; raises ValueError for what is none, or repeats too much."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the expression cannot be read: {error}") from None
    product = 1
    for least, most in _REPEAT.findall(text):
        product *= max(1, *(int(number) for number in (least, most) if number))
    if product > MAX_COUNT:
        raise ValueError(f"the expression repeats more than {MAX_COUNT} times, all taken together")
    return text


Schema = Annotated[dict[str, Any] | str, AfterValidator(check_schema)]
Regex = Annotated[
    str, Field(max_length=MAX_REGEX), AfterValidator(is_text), AfterValidator(check_regex)
]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=500), AfterValidator(is_text)]],
    Field(min_length=1, max_length=MAX_CHOICES),
]
Grammar = Annotated[str, Field(max_length=MAX_FORM), AfterValidator(is_text)]


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`; exactly one form."""

    model_config = ConfigDict(extra="forbid")

    json_: Schema | None = Field(default=None, alias="json")
    regex: Regex | None = None
    choice: Choices | None = None
    grammar: Grammar | None = None
    json_object: bool | None = None

    @model_validator(mode="after")
    def _is_one(self) -> StructuredOutputs:
        if len(self.sent()) != 1:
            raise ValueError("name exactly one of json, regex, choice, grammar, json_object")
        return self

    def sent(self) -> dict[str, Any]:
        """The same as vLLM reads it."""
        return self.model_dump(by_alias=True, exclude_none=True)


def _walk(part: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"the schema is nested deeper than {MAX_DEPTH}")
    if isinstance(part, list):
        for one in part:
            _walk(one, depth + 1)
    if not isinstance(part, dict):
        return
    for name, value in part.items():
        counted = name in _COUNTS and isinstance(value, (int, float))
        if counted and not isinstance(value, bool) and value > MAX_COUNT:
            raise ValueError(f"{name} in the schema is above {MAX_COUNT}")
        if name == "pattern" and isinstance(value, str):
            check_regex(value)
        _walk(value, depth + 1)


def _check_references(part: Any, schema: dict[str, Any], whole: set[int]) -> None:
    """Raise ValueError where a part refers to what is not there, or to nothing but itself.

    vLLM answers such a schema with an error of its own, or never. One that holds itself in a
    property or an item is read: a value stands between. whole: parts that lead nowhere back.
    """
    if isinstance(part, list):
        for one in part:
            _check_references(one, schema, whole)
    if isinstance(part, dict):
        _follow(part, schema, (), whole)
        for name, value in part.items():
            if name not in _DATA:
                _check_references(value, schema, whole)


def _follow(part: Any, schema: dict[str, Any], above: tuple[int, ...], whole: set[int]) -> None:
    if id(part) in above:
        raise ValueError("a $ref in the schema leads back to itself, with no value between")
    if len(above) > _IN_A_ROW:
        raise ValueError(f"more than {_IN_A_ROW} $ref in the schema follow each other")
    if isinstance(part, dict) and id(part) not in whole:
        for one in _same_value(part, schema):
            _follow(one, schema, (*above, id(part)), whole)
        whole.add(id(part))


def _same_value(part: dict[str, Any], schema: dict[str, Any]) -> Iterator[Any]:
    """The schemas that the value of this one is held to as well."""
    for name in ("$dynamicRef", "$recursiveRef"):
        if isinstance(part.get(name), str):
            raise ValueError(f"{name} in the schema: only $ref is followed")
    if isinstance(part.get("$ref"), str):
        yield _referred(part["$ref"], schema)
    for name in ("allOf", "anyOf", "oneOf"):
        if isinstance(part.get(name), list):
            yield from part[name]
    yield from (part[name] for name in ("not", "if", "then", "else") if name in part)


def _referred(reference: str, schema: dict[str, Any]) -> Any:
    place, *names = unquote(reference).split("/")
    if place != "#":
        raise ValueError(
            f"$ref in the schema: {reference[:100]!r} is no path in it, such as '#/$defs/name'"
        )
    found: Any = schema
    for name in names:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            raise ValueError(f"$ref in the schema: {reference[:100]!r} is not there")
    return found
