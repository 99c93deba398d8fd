"""Writes log lines to a stream, and buffers the lines of requests, because there are thousands a second."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from proxy.monitoring.log_format import LINES, LogFormat, SafeFormatter

_BUFFER_BYTES = 4096
"""The system does not mix a piece of this size with the output of other processes (PIPE_BUF in POSIX)."""
_FLUSH_SECONDS = 0.1


class LineHandler(logging.Handler):
    """Writes records at once, and lines of `write_fields` together. All lines are in order. Thread-safe.

    The lines of at most 0.1 seconds are lost if the process is killed.
    """

    def __init__(self, stream: TextIO, log_format: LogFormat) -> None:
        super().__init__()
        self.setFormatter(SafeFormatter(log_format))
        self._line = LINES[log_format]
        self._stream = stream
        self._lines: list[bytes] = []
        self._size = 0
        self._lines_lock = threading.Lock()
        self._has_lines = threading.Event()
        self._flusher: threading.Thread | None = None
        # Otherwise a child process would write the buffered lines again.
        os.register_at_fork(before=self.flush)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record and all buffered lines."""
        try:
            self._write(self.format(record).encode() + b"\n")
            self.flush()
        except Exception:  # noqa: BLE001  # as every handler of the standard library
            self.handleError(record)

    def write_fields(self, level: int, logger: str, event: str, fields: Mapping[str, Any]) -> None:
        """Buffer a line with the level, the logger, the event, the fields and the time."""
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_regularly, name="log", daemon=True)
            self._flusher.start()
        head = {"level": logging.getLevelName(level), "logger": logger, "event": event}
        self._write(self._line({**head, **fields, "time": datetime.now(UTC)}))

    def flush(self) -> None:
        """Write the buffered lines. `logging` calls this method when the process exits."""
        with self._lines_lock:
            self._flush()

    def _write(self, line: bytes) -> None:
        with self._lines_lock:
            if self._size + len(line) > _BUFFER_BYTES:
                self._flush()
            self._lines.append(line)
            self._size += len(line)
            if len(self._lines) == 1:
                self._has_lines.set()

    def _flush(self) -> None:
        if self._lines:
            text = b"".join(self._lines).decode()
            self._lines.clear()
            self._size = 0
            self._stream.write(text)
            self._stream.flush()

    def _flush_regularly(self) -> None:
        while True:
            self._has_lines.wait()
            self._has_lines.clear()
            time.sleep(_FLUSH_SECONDS)
            self.flush()
