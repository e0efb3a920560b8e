"""An own vLLM is watched and started again: when it has ended, fails, or no longer answers.

It knows the process and how it answers on `/health`; nothing of models or requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

from neurorit.core.errors import NeuroritError
from neurorit.serving.backends.vllm_server import VllmServer

_WATCH_SECONDS = 1.0
_HEALTH_SECONDS = 5.0
_SICK = 3
_HUNG_SECONDS = 90.0
_RESTARTS = 3
_RESTART_WINDOW = 600.0
_BACK_OFF_SECONDS = 2.0
_log = logging.getLogger("neurorit.serving")


async def keep_running(
    engine: VllmServer, tell: Callable[[str], None], started_again: Callable[[], Awaitable[None]]
) -> None:
    """Start a vLLM again whenever it is down; tells `restarting vLLM` and `ready`.

    A start that fails is tried again, with pauses and on another port. Raises NeuroritError when
    it ended or failed to start four times within ten minutes or in a row.
    """
    ends: deque[float] = deque(maxlen=_RESTARTS + 1)
    while True:
        await until_down(engine)
        ends.append(time.monotonic())
        failed = 0
        while True:
            if len(ends) > _RESTARTS and ends[-1] - ends[0] < _RESTART_WINDOW:
                raise NeuroritError(
                    f"vLLM ended {_RESTARTS + 1} times within {_RESTART_WINDOW / 60:.0f} "
                    f"minutes; see its log: {engine.log}"
                )
            tell("restarting vLLM")
            try:
                await asyncio.to_thread(engine.start, new_port=failed > 0)
                await started_again()
                break
            except (NeuroritError, OSError) as error:  # no memory, no room for a log
                failed += 1
                ends.append(time.monotonic())
                _log.warning("vLLM did not start again: %s", error)
                if failed > _RESTARTS:
                    raise
                await asyncio.sleep(_BACK_OFF_SECONDS * 2**failed)
        tell("ready")


async def until_down(engine: VllmServer) -> None:
    """Return when it has ended, failed three times in a row, or not answered for long."""
    sick, checked = 0, time.monotonic()
    answered = checked
    while engine.alive and sick < _SICK:
        await asyncio.sleep(_WATCH_SECONDS)
        if time.monotonic() - checked < _HEALTH_SECONDS:
            continue
        healthy = await asyncio.to_thread(engine.healthy)
        checked = time.monotonic()
        if healthy is None:
            # Slow is no sickness, as a long prompt may make it so; silent for long is one.
            sick = _SICK if checked - answered > _HUNG_SECONDS else sick
        elif healthy:
            sick, answered = 0, checked
        else:
            sick += 1
