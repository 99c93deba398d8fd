"""Helpers for tests that deliver changes to Braze."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from proxy.monitoring.clock import Clock
from proxy.sync.delivery import Change


class SteppingClock(Clock):
    """A clock that a sleeping thread advances at once. Requests take no time."""

    def __init__(self, start: float = 1_764_000_000.0) -> None:
        super().__init__(now=self, monotonic=self, sleep=self.advance)
        self._seconds = start
        self._lock = threading.Lock()
        self.slept = 0.0

    def __call__(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._seconds += seconds
            self.slept += seconds
        time.sleep(0)


class Outcomes:
    """Records what a delivery reports."""

    def __init__(self) -> None:
        self.accepted: list[Change] = []
        self.failed: dict[str, str] = {}
        self.requests = 0
        self.uncertain = 0

    def on_request(self) -> None:
        self.requests += 1

    def on_failed(self, change: Change, reason: str) -> None:
        self.failed[change.user_id] = reason

    def on_uncertain(self, changes: Sequence[Change]) -> None:
        self.uncertain += len(changes)

    @property
    def accepted_users(self) -> list[str]:
        return sorted(change.user_id for change in self.accepted)


def changes(count: int, **attributes: Any) -> list[Change]:
    return [Change(f"user-{number:03}", attributes or {"plan": "gold"}, 0.0) for number in range(count)]
