"""Waits for a condition, and reads log lines of a service."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests


def until(condition: Callable[[], object], why: str = "", seconds: float = 10) -> None:
    """Wait until `condition` is true. Fail with the message `why` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.02)


def log_lines(log: Path) -> list[dict[str, Any]]:
    """Return the JSON lines of the log of a service."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def request_lines(log: Path, *answers: requests.Response) -> list[dict[str, Any]]:
    """Return the log line of each answer. The service buffers these lines."""

    def lines() -> list[dict[str, Any]]:
        found = {line["request_id"]: line for line in log_lines(log) if line["event"] == "request"}
        return [found[id] for id in ids if id in found]

    ids = [answer.headers["X-Request-ID"] for answer in answers]
    until(lambda: len(lines()) == len(ids), "a request has no log line")
    return lines()


def milliseconds(log: Path, *answers: requests.Response) -> list[float]:
    """Return the milliseconds for each answer from the log. A busy machine delays the client more than the service."""
    return [line["ms"] for line in request_lines(log, *answers)]
