"""Runs the calls of the scheduler in threads."""

from __future__ import annotations

import _thread
import logging
from collections import deque
from collections.abc import Callable
from threading import Lock

_log = logging.getLogger(__name__)


class Threads:
    """Runs work in at most `limit` threads. A thread ends when no work is left. The end of the process ends it too.

    Unlike `ThreadPoolExecutor` and `Thread.start`, `run` does not wait until the new thread runs. With gevent, this
    lasts at least one turn of the event loop, and `ThreadPoolExecutor` holds a lock for this time. So the last of 1,000
    callers at once was answered after 7 seconds.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._queue: deque[Callable[[], None]] = deque()
        self._running = 0

    def run(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread as soon as one is free. Raises RuntimeError if no thread can be started."""
        with self._lock:
            if self._running >= self._limit:
                self._queue.append(work)
                return
            self._running += 1
        try:
            _thread.start_new_thread(self._work, (work,))
        except RuntimeError:
            with self._lock:
                self._running -= 1
            raise

    def _work(self, work: Callable[[], None]) -> None:
        while True:
            try:
                work()
            except Exception:  # noqa: BLE001  # queued work must still run
                _log.exception("fetch_failed")
            with self._lock:
                if not self._queue:
                    self._running -= 1
                    return
                work = self._queue.popleft()
