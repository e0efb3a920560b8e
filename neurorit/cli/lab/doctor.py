"""Say what this machine can do, what is missing and how to mend it."""

from __future__ import annotations

from pathlib import Path

from neurorit.cli.options import Json, run


def doctor(as_json: Json = False) -> None:
    from neurorit.pipelines import doctor as body

    run(lambda: body.examine(Path.cwd()), as_json, show=body.show)
