"""Options that commands share, and how a command's result is printed."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import typer
from typer.core import TyperCommand

from neurorit.core.errors import NeuroritError
from neurorit.core.settings import settings_of
from neurorit.core.units import Amount, write_bytes

Body: TypeAlias = Callable[[], Mapping[str, Any]]
_Body = TypeVar("_Body", bound=Callable[..., Any])

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Out = Annotated[Path, typer.Option(help="Directory to write; made whole or not at all.")]
Overwrite = Annotated[bool, typer.Option(help="Replace what is at --out.")]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="YAML file with settings, or a packaged one's name.")
]
Assign = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting; repeatable.")
]
Model = Annotated[Path, typer.Option(help="Checkpoint directory (plain Hugging Face).")]
Examples = Annotated[Path, typer.Option(help="What `mix` wrote, or an examples JSONL file.")]
GateInterval = Annotated[
    bool,
    typer.Option(
        "--gate-interval", help="Hold the worse end of the 95 % interval to --fail-under."
    ),
]
IndexDir = Annotated[Path, typer.Option("--index", help="What `index` wrote.")]

# Of every group of commands.
PLAIN: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,
}


class Command(TyperCommand):
    """A command whose errors name its options where the library's name parameters."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except NeuroritError as error:
            error.args = (error.for_shell(self._option),)
            raise

    def _option(self, name: str) -> str:
        """The option of a parameter; a setting that has none of its own is given by --set."""
        opts = {param.name: param.opts for param in self.params}
        if name in opts:
            return max(opts[name], key=len) if opts[name][0].startswith("-") else name
        return f"--set {name}" if "settings" in opts else f"--{name.replace('_', '-')}"


class App(typer.Typer):
    """A table of such commands."""

    def command(self, *args: Any, **more: Any) -> Callable[[_Body], _Body]:
        return super().command(*args, **{"cls": Command, **more})


def option(kind: type, name: str, *flags: str, **more: Any) -> Any:
    """The option of one setting, with what its field says of it."""
    setting = settings_of(kind)[name]
    repeatable = "; repeatable." if get_origin(_asked(setting.hint)) is list else "."
    shown = {"help": setting.doc.rstrip(".") + repeatable, **more}
    if get_origin(setting.hint) is Literal:
        shown.setdefault("metavar", "|".join(choice for choice in get_args(setting.hint) if choice))
    return typer.Option(*flags, **shown)


def options_from(
    kind: type, *names: str, file: bool = False, **flags: str
) -> Callable[[_Body], _Body]:
    """Give a command, which takes **options, an option for each of some settings.

    names: which; flags: name -> its option, where that is not the name itself. file: what is not
    given comes from a file or is the default, and reaches the command as None.
    """

    def decorate(command: _Body) -> _Body:
        signature = inspect.signature(command, eval_str=True)
        *before, last = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        settings = settings_of(kind)
        for name in dict.fromkeys((*names, *flags)):
            hint, default = _asked(settings[name].hint), settings[name].default
            if hint is None:
                continue
            if isinstance(default, int) and hint is str:
                default = write_bytes(default)
            plain = isinstance(default, (bool, int, float, str)) and default != ""
            more = {"show_default": str(default)} if file and plain else {}
            flag = (flags[name],) if name in flags else ()
            before.append(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=default if not file and (plain or default == "") else None,
                    annotation=Annotated[hint | None, option(kind, name, *flag, **more)],
                )
            )
        command.__signature__ = signature.replace(parameters=[*before, last])  # type: ignore[attr-defined]
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that were left out."""
    return {name: value for name, value in options.items() if value is not None}


def _asked(hint: Any) -> Any:
    """What the shell is asked for a setting of that type; None where no option can say it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return str if isinstance(inner[1], Amount) else inner[0]
    if origin is Literal:
        return str
    if origin in (Union, UnionType):
        return _asked(inner[0])
    if origin is tuple:
        return list[_asked(inner[0])]  # type: ignore[misc]
    return hint if hint in (bool, int, float, str, Path) else None


def run(body: Body, as_json: bool, show: Callable[[Mapping[str, Any]], None] | None = None) -> None:
    """Run a body with stdout kept free for its result, then print that result."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            result = body()
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(result, default=str))
    elif show is not None:
        show(result)
    else:
        for name, value in result.items():
            if isinstance(value, Mapping) and all(map(_is_plain, value.values())):
                value = ", ".join(f"{inner}: {one}" for inner, one in value.items())
            if _is_plain(value) and value != "":
                typer.echo(f"{name.replace('_', ' ')}: {value}")


def _is_plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, Path))


def parse_fields(given: list[str] | None, option: str) -> dict[str, str]:
    """Fields of meta and their values; raises BadInput naming the option."""
    from neurorit.core.errors import BadInput

    pairs = [one.partition("=") for one in given or ()]
    if any(not name or not equals for name, equals, _ in pairs):
        raise BadInput(f"{option}: write FIELD=VALUE")
    return {name: value for name, _, value in pairs}
