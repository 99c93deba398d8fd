"""Cooperative yielding for long loops under gevent."""

from __future__ import annotations

import time

_INTERVAL_SECONDS = 0.001
_SHORTEST_SLEEP = 1e-6
"""Not 0, because gevent polls its sockets only after every fiftieth `sleep(0)`. This delayed other requests by 100
ms."""


class Checkpoint:
    """Yields to other greenlets when called, at most once per millisecond."""

    def __init__(self) -> None:
        self._due = time.perf_counter() + _INTERVAL_SECONDS

    def __call__(self) -> None:
        """Yield if the last yield was at least a millisecond ago."""
        if time.perf_counter() >= self._due:
            time.sleep(_SHORTEST_SLEEP)
            self._due = time.perf_counter() + _INTERVAL_SECONDS
