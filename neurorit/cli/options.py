"""Options that commands share, and how a command's result is printed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

Body: TypeAlias = Callable[[], Mapping[str, Any]]

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
            if isinstance(value, (str, int, float, Path)):
                typer.echo(f"{name.replace('_', ' ')}: {value}")


def parse_fields(given: list[str] | None, option: str) -> dict[str, str]:
    """Fields of meta and their values; raises BadInput naming the option."""
    from neurorit.core.errors import BadInput

    pairs = [one.partition("=") for one in given or ()]
    if any(not name or not equals for name, equals, _ in pairs):
        raise BadInput(f"{option}: write FIELD=VALUE")
    return {name: value for name, _, value in pairs}
