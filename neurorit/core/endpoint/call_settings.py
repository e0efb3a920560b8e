"""How servers are called, apart from the client itself, which imports much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from neurorit.core.settings import AtLeastOne, Count, Positive, Settings, Within


@dataclass(frozen=True)
class CallSettings(Settings):
    """How servers are called."""

    timeout: Positive = 60.0
    """Seconds without a byte, after which a call is tried again."""
    retries: Count = 5
    """Further attempts after the first."""
    pause: Annotated[float, Within(0)] = 0.5
    """Seconds before the second attempt, doubled for each further one; a random half is left out,
    so that many callers do not come back at once."""
    concurrency: AtLeastOne = 8
    """Calls at the same time."""
