"""Every error that this project raises on purpose; the command line maps each to an exit code.

A message says what happened, where (file:line, parameter), and what to do about it. Parameters
stand between ‹ and ›: ‹encoder=x› reads encoder=x from Python and --encoder x in the shell.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_PARAMETER = re.compile("‹([a-z][a-z0-9_]*)(?:=(.*?))?›", re.DOTALL)


class NeuroritError(Exception):
    """The work failed. Exit code 1."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        # As it was written, for a message that takes this one in.
        self.marked = message
        super().__init__(_PARAMETER.sub(lambda found: found[0][1:-1], message))

    def for_shell(self, option: Callable[[str], str]) -> str:
        """The message with options for parameters; option: the option of a parameter's name."""

        def shown(found: re.Match[str]) -> str:
            flag, value = option(found[1]), found[2]
            if value in (None, "True"):
                return flag
            return f"{flag}={value}" if flag.startswith("--set ") else f"{flag} {value}"

        return _PARAMETER.sub(shown, self.marked)


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


def is_out_of_memory(error: BaseException) -> bool:
    """True where an error of Python, torch, FAISS or OpenVINO says that there is no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(
        words in said
        for words in ("can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")
    )


class GateMissed(NeuroritError):
    """A --fail-under gate was not reached. Exit code 3."""

    exit_code = 3
