"""So many of something a minute for each client: a bucket of tokens each."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_CLIENTS = 10_000


class TokenBuckets:
    """Buckets that fill with `per_minute` tokens a minute; a minute's may be spent at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = float(per_minute)
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def spend(self, client: str) -> float:
        """Take a token; the seconds until there is one, when there is none."""
        now = self._clock()
        tokens, since = self._buckets.pop(client, (self.most, now))
        tokens = min(self.most, tokens + max(0.0, now - since) * self.most / 60)
        spent = tokens >= 1
        self._buckets[client] = (tokens - 1 if spent else tokens, now)
        if len(self._buckets) > _MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if spent else (1 - tokens) * 60 / self.most
