"""Pauses in long work, in which others who are served by the same process have their turn."""

from __future__ import annotations

import time

_TURN_SECONDS = 0.001
_SHORTEST_SLEEP = 1e-6
"""After a sleep of nothing gevent looks only each fiftieth time at who has sent something: that took them 100 ms."""


class Checkpoint:
    """Lets others have their turn when called, if a millisecond has passed since they had it."""

    def __init__(self) -> None:
        self._due = 0.0

    def __call__(self) -> None:
        """Let others have their turn, should it be theirs."""
        if time.perf_counter() >= self._due:
            time.sleep(_SHORTEST_SLEEP)
            self._due = time.perf_counter() + _TURN_SECONDS
