"""Artifact directories: written whole or not at all, and checked when they are loaded.

An artifact is a directory with a `manifest.json` that says what kind it is, which command and
settings made it, the seed, and the SHA-256 of every file in it and of every input it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurorit.core.atomic_files import (
    UNFINISHED,
    beside,
    directory_beside,
    followed,
    put_back,
    swap_in,
    sync,
    write_text,
)
from neurorit.core.errors import ArtifactError, BadInput

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds.

    kind: index, examples, atlas, adapter, checkpoint, report; command: the command that made it;
    inputs and files: name -> SHA-256 (hexadecimal); made: free facts about the making; sizes: the
    files' bytes, which every load checks.
    """

    kind: str
    command: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA
    sizes: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def writing(out: Path, manifest: Manifest, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary directory; when the block ends well, seal it and rename it to `out`.

    The manifest's `files` are computed here; `made` and `inputs` may be filled in the block. On an
    error nothing of the new artifact is left, and an older one at `out` is untouched. Raises
    BadInput as `check_place` does, at the end too: of two that write it at once without `overwrite`
    the second to end is refused.
    """
    out = followed(Path(out))
    put_back(out)
    check_place(out, overwrite)
    with directory_beside(out) as temporary:
        yield temporary
        check_place(out, overwrite, "was written by another process meanwhile")
        seal(temporary, manifest, out)


def check_place(out: Path, overwrite: bool, taken: str = "exists already") -> None:
    """Raise BadInput where what lies at `out` may not be replaced.

    Without `overwrite` that is anything (taken: what is said of it); with it, whatever is neither
    an artifact nor an empty directory: nobody else's files are deleted.
    """
    if not out.exists():
        return
    if not overwrite:
        raise BadInput(f"{out} {taken}; name another ‹out› or pass ‹overwrite=True›")
    if not _is_ours(out):
        raise BadInput(
            f"{out} is no artifact of this program and is not replaced; name another ‹out›, or "
            "move it away"
        )


def _is_ours(out: Path) -> bool:
    if not out.is_dir():
        return False
    try:
        _parsed(out / MANIFEST)
    except (OSError, ValueError, TypeError):
        return not any(out.iterdir())
    return True


def seal(made: Path, manifest: Manifest, out: Path, leave: Collection[str] = ()) -> None:
    """Write the manifest of a directory's files, bring all to disk, and rename it to `out`.

    leave: files of the directory that are no part of the artifact. A directory that was sealed but
    not renamed may be sealed again.
    """
    for unfinished in sorted(made.rglob(UNFINISHED)):
        if unfinished.is_file():
            unfinished.unlink()
    names = {path.relative_to(made).as_posix(): path for path in sorted(made.rglob("*"))}
    files = {
        name: hash_file(path)
        for name, path in names.items()
        if path.is_file() and name != MANIFEST and name not in leave
    }
    write_manifest(made, manifest, files)
    sync(made)
    swap_in(made, out)


def write_manifest(directory: Path, manifest: Manifest, files: Mapping[str, str]) -> None:
    """Write `manifest.json` whole, with these files' hashes and sizes."""
    sizes = {name: (directory / name).stat().st_size for name in files}
    document = {**manifest.__dict__, "files": dict(files), "sizes": sizes}
    write_text(directory / MANIFEST, _document(document))


def manifest_digest(manifest: Manifest) -> str:
    """SHA-256 of the `manifest.json` that this manifest was read from, whatever is there now."""
    return hashlib.sha256(_document(manifest.__dict__).encode()).hexdigest()


def _document(fields: Mapping[str, Any]) -> str:
    return json.dumps(dict(fields), indent=2, default=str) + "\n"


def read_manifest(directory: Path, kind: str, *, verify: bool = True) -> Manifest:
    """Read and check the manifest of an artifact of `kind`.

    verify: also hash every file it lists. Raises ArtifactError with one line that says what is
    wrong and how to make the artifact anew.
    """
    directory = Path(directory)
    path = directory / MANIFEST
    if not directory.is_dir():
        former = next(beside(directory, "replaced"), None)
        if former is not None:
            raise ArtifactError(
                f"no {kind} at {directory}: it was being replaced when a process was killed; "
                f"`mv {former} {directory}` brings the former one back"
            )
        raise ArtifactError(f"no {kind} at {directory}: the directory does not exist")
    if not path.is_file():
        raise ArtifactError(f"{directory} is no {kind}: it has no {MANIFEST}")
    try:
        manifest = _parsed(path)
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); make the {kind} again") from error
    if manifest.kind != kind:
        raise ArtifactError(f"{directory} is a {manifest.kind}, but a {kind} is needed")
    if manifest.schema != SCHEMA:
        raise ArtifactError(
            f"{directory} has schema {manifest.schema}, this version reads {SCHEMA}; "
            f"make it again with `{manifest.command}`"
        )
    for name, digest in manifest.files.items():
        if not (directory / name).is_file():
            raise ArtifactError(f"{directory} lacks its file {name}; make the {kind} again")
        size = (directory / name).stat().st_size
        if size != manifest.sizes.get(name) or (verify and hash_file(directory / name) != digest):
            raise ArtifactError(
                f"{directory / name} was changed after it was made; make the {kind} again"
            )
    return manifest


def _parsed(path: Path) -> Manifest:
    """Raises OSError, ValueError or TypeError."""
    return Manifest(**json.loads(path.read_text(encoding="utf-8")))


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_inputs(**paths: Path) -> dict[str, str]:
    """Name -> SHA-256 of each input (`hash_path`); `absent` for one that is not there."""
    return {
        name: hash_path(Path(path)) if Path(path).exists() else "absent"
        for name, path in paths.items()
    }


def hash_path(path: Path) -> str:
    """SHA-256 of a file, of an artifact's manifest, or of every file below another directory."""
    if path.is_file():
        return hash_file(path)
    if (path / MANIFEST).is_file():
        return hash_file(path / MANIFEST)
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        name = file.relative_to(path).as_posix()
        digest.update(f"{name}\0{hash_file(file)}\n".encode("utf-8", "replace"))
    return digest.hexdigest()


def hash_model(model_dir: Path, *extra: str) -> str:
    """Hash of a model folder: of its manifest where it has one, else of configuration and weights.

    extra: more file names to include where they exist. Returns 16 hexadecimal digits.
    """
    model_dir = Path(model_dir)
    files = [model_dir / MANIFEST, *(model_dir / name for name in extra)]
    if not files[0].is_file():
        weights = [p for pattern in ("*.safetensors", "*.bin") for p in model_dir.glob(pattern)]
        files += [*model_dir.glob("*.json"), *weights]
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        if path.is_file():
            digest.update(f"{path.name}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()[:16]
