"""What operators see: JSON log lines without ids or secrets, and repeated events once a minute with a count."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from threading import Lock
from types import TracebackType

from pythonjsonlogger.json import JsonFormatter

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class SafeFormatter(JsonFormatter):
    """JSON lines. Of an exception it tells the type and where it was, never the text: that may hold an id."""

    def __init__(self) -> None:
        super().__init__(
            "%(levelname)s %(name)s %(message)s",
            rename_fields={"levelname": "level", "name": "logger", "message": "event"},
            timestamp="time",
        )

    def formatException(self, ei: ExceptionInfo) -> str:
        kind, _, trace = ei
        places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
        return " < ".join([kind.__name__ if kind else "?", *reversed(places)])


class _WithRequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if (current := request_id.get()) is not None and not hasattr(record, "request_id"):
            record.request_id = current
        return True


def configure_logging(level: str) -> None:
    """Send the package's log lines to standard error as JSON, and silence the HTTP library's own."""
    silence_http_library()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter())
    handler.addFilter(_WithRequestId())
    logger = logging.getLogger("proxy")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)


def silence_http_library() -> None:
    """Keep urllib3 from printing URLs, and with them user ids: at DEBUG all, at WARNING those with odd headers."""
    for name in ("urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


class OncePerMinute:
    """Counts events by key and says once a minute how many there were, so that no fault floods the log."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, *, max_keys: int = 1000) -> None:
        self._monotonic = monotonic
        self._max_keys = max_keys
        self._lock = Lock()
        self._seen: dict[str, tuple[float, int]] = {}

    def note(self, key: str) -> int | None:
        """Count one event. Return how many came since the last report when a report is due, else None."""
        with self._lock:
            now = self._monotonic()
            since, count = self._seen.get(key, (float("-inf"), 0))
            if now - since < 60:
                self._seen[key] = (since, count + 1)
                return None
            if key not in self._seen and len(self._seen) >= self._max_keys:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = (now, 0)
            return count + 1
