"""Measures how long this process is delayed: under gevent, the time since the event loop could last resume a thread."""

from __future__ import annotations

import time
from threading import Lock, Thread

_INTERVAL_SECONDS = 0.02


class LagMeter:
    """Measures the delay of a thread that sleeps again and again. Thread-safe. Starts its thread with the first use."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._due = float("inf")

    def seconds(self) -> float:
        """Return the seconds for which the thread is overdue; 0 if it is not."""
        if self._thread is None:
            self._start()
        return max(0.0, time.monotonic() - self._due)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                thread = Thread(target=self._measure, name="lag", daemon=True)
                thread.start()
                self._thread = thread  # after `start`, which raises RuntimeError if no thread can be created

    def _measure(self) -> None:
        while True:
            self._due = time.monotonic() + _INTERVAL_SECONDS
            time.sleep(_INTERVAL_SECONDS)
