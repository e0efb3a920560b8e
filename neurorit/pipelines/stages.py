"""Stages of a longer run: timed, recorded, and kept when their inputs are the same.

A record holds a hash of the stage's settings and inputs and one of what it wrote; a stage is kept
only if both still hold.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neurorit.core import __version__
from neurorit.core.artifact import hash_path
from neurorit.core.atomic_files import write_text
from neurorit.core.errors import BadInput
from neurorit.core.locks import locked

RECORD = "stages.json"


@contextmanager
def stages_in(out: Path, *, resume: bool, tell: Callable[[str], None]) -> Iterator[Stages]:
    """The stages of the run in `out`, where no other run works for the time of the block.

    resume: keep what a former run made; else it is deleted. Raises BadInput where another run works
    there, and for a directory of something else.
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise _foreign(out)
    out.mkdir(parents=True, exist_ok=True)
    busy = f"‹out={out}›: another demo works there now; wait for it or name another directory"
    with locked(out, busy, folder=True):
        yield Stages(out, _former(out, resume), tell)


class Stages:
    """The stages of the run in `out`. `records` holds, for each, its seconds and its result.

    former: the records of the run before, as far as they may be kept.
    """

    def __init__(
        self, out: Path, former: Mapping[str, dict[str, Any]], tell: Callable[[str], None]
    ) -> None:
        self.out = out
        self.records: dict[str, dict[str, Any]] = {}
        self._tell = tell
        self._former = former

    def run(
        self,
        name: str,
        work: Callable[[], Mapping[str, Any]],
        *,
        inputs: Sequence[Path] = (),
        settings: Mapping[str, Any] | None = None,
        outputs: Sequence[Path] = (),
    ) -> dict[str, Any]:
        """The stage's result: of `work`, or of the former run if nothing changed since."""
        key = _hash([__version__, name, dict(settings or {}), [hash_path(path) for path in inputs]])
        former = self._former.get(name)
        made = outputs and all(path.exists() for path in outputs)
        if former and made and former["key"] == key and former["made"] == _digests(outputs):
            self._tell(f"{name}: kept from the former run")
            self.records[name] = {**former, "kept": True}
        else:
            self._tell(f"{name} ...")
            started = time.perf_counter()
            result = json.loads(json.dumps(dict(work()), default=str))
            seconds = round(time.perf_counter() - started, 2)
            self._tell(f"{name}: done in {seconds:.0f} s")
            self.records[name] = {
                "key": key,
                "made": _digests(outputs),
                "seconds": seconds,
                "kept": False,
                "result": result,
            }
        # Former records of later stages stay until these have run: an interrupted run can go on.
        kept = {**self._former, **self.records}
        write_text(self.out / RECORD, json.dumps(kept, indent=2) + "\n")
        outcome: dict[str, Any] = self.records[name]["result"]
        return outcome

    @property
    def timings(self) -> dict[str, float]:
        """Stage -> seconds of this run; a kept stage took none."""
        return {n: 0.0 if r["kept"] else r["seconds"] for n, r in self.records.items()}


def _former(out: Path, resume: bool) -> dict[str, dict[str, Any]]:
    """The former records if they are to be used; else `out` is emptied."""
    record = out / RECORD
    if not record.is_file() and any(out.iterdir()):
        # Deleting is only for what this command itself has written.
        raise _foreign(out)
    if resume and record.is_file():
        try:
            former: dict[str, dict[str, Any]] = json.loads(record.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(
                f"{record} cannot be read ({error}); run without ‹resume=True›"
            ) from error
        return former
    write_text(record, "{}\n")
    # The directory itself stays: it is locked.
    for path in out.iterdir():
        if path == record:
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return {}


def _foreign(out: Path) -> BadInput:
    return BadInput(f"‹out={out}› exists and is no former demo run; name another directory")


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    return {path.name: hash_path(path) for path in paths}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
