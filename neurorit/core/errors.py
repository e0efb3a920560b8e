"""Every error that this project raises on purpose; the command line maps each to an exit code.

A message says what happened, where (file:line, option), and what to do about it.
"""


class NeuroritError(Exception):
    """The work failed. Exit code 1."""

    exit_code = 1


class BadInput(NeuroritError):
    """The user's file, option or setting cannot be used. Exit code 2."""

    exit_code = 2


class ArtifactError(BadInput):
    """An artifact directory is missing, of another kind, incomplete or changed. Exit code 2."""


class MissingExtra(NeuroritError):
    """An optional dependency is not installed; the message names the extra. Exit code 2."""

    exit_code = 2

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"'{module}' is not installed; it comes with the extra '{extra}': "
            f"pip install 'neurorit-rag[{extra}]'"
        )


class GateMissed(NeuroritError):
    """A --fail-under gate was not reached. Exit code 3."""

    exit_code = 3
