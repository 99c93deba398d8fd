"""The log of requests to an emulated API that receives data, and its counts."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_WINDOW_SECONDS = 60.0


@dataclass
class ReceivedRequest:
    """A request: its arrival in epoch seconds, its body, the number of its objects, and the status of the answer."""

    arrived: float
    body: bytes
    objects: int = 0
    status: int = 0
    """0 if the connection ended without an answer."""

    @property
    def payload(self) -> Any:
        """Return the parsed body; None if it is not JSON."""
        return parse_body(self.body)

    def as_json(self) -> dict[str, Any]:
        """Return the values for the JSON of the emulator."""
        return {"arrived": self.arrived, "objects": self.objects, "status": self.status, "payload": self.payload}


class RequestLog:
    """All requests in the order of their arrival. The caller holds a lock."""

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []

    def add(self, arrived: float, body: bytes) -> ReceivedRequest:
        """Add a request and return it."""
        request = ReceivedRequest(arrived, body)
        self.requests.append(request)
        return request

    def report(self) -> dict[str, Any]:
        """Return counts of requests, objects and statuses, and the largest counts in any 60 seconds."""
        return {
            "requests": len(self.requests),
            "objects": sum(request.objects for request in self.requests),
            "statuses": {
                str(status): count for status, count in sorted(Counter(each.status for each in self.requests).items())
            },
            "worst_minute": {
                "requests": _worst_minute((request.arrived, 1) for request in self.requests),
                "objects": _worst_minute((request.arrived, request.objects) for request in self.requests),
            },
        }


def parse_body(body: bytes) -> Any:
    """Return the value of a JSON body; None if it is not JSON. NaN and Infinity are not JSON."""
    try:
        return json.loads(body, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return None


def _reject_constant(name: str) -> None:
    raise ValueError(name)


def _worst_minute(weighted: Iterable[tuple[float, int]]) -> int:
    """Return the largest sum of weights in any 60 seconds. `weighted` has times in order, and weights."""
    window: deque[tuple[float, int]] = deque()
    total = worst = 0
    for moment, weight in weighted:
        window.append((moment, weight))
        total += weight
        while window[0][0] <= moment - _WINDOW_SECONDS:
            total -= window.popleft()[1]
        worst = max(worst, total)
    return worst
