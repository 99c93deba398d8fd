"""The faults that the sandbox can emulate."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

FaultKind = Literal[
    "slow", "hang", "drip-headers", "drip-body", "reset", "status", "quota", "broken-json", "wrong-shape",
    "wrong-types", "oversize", "redirect", "not-utf-8", "bad-header", "another-user",
    "cohort-429", "cohort-500", "cohort-stuck", "cohort-cut-off", "cohort-expired", "cohort-loop", "cohort-elsewhere",
    "cohort-gzip", "cohort-gzip-cut", "cohort-unbounded", "cohort-unbounded-cut", "cohort-file-429",
    "cohort-storage-429", "cohort-nowhere", "cohort-two-columns",
]  # fmt: skip
BrazeFaultKind = Literal[
    "slow", "hang", "hang-accepted", "reset", "uncertain", "status", "status-text", "broken-json",
    "429-retry-after", "429-reset-epoch", "429-reset-remaining", "429-no-time", "queued", "message", "object-errors",
    "wrong-key", "wrong-instance", "no-permission", "maintenance", "too-long",
]  # fmt: skip
"""Faults of the emulated Braze.

hang, reset: the connection ends before the body is read. hang-accepted, uncertain: the request is accepted, and the
connection ends without an answer, after `seconds` or at once. status, status-text: `status` with JSON or HTML.
message: 201 with another message, and nothing is accepted. too-long: 400 Max Input Length Exceeded.
"""
BatchFaultKind = Literal[
    "slow", "hang", "hang-accepted", "reset", "uncertain", "status", "status-text", "broken-json",
    "throttled", "daily-quota-users", "daily-quota-devices", "silenced", "wrong-key", "invalid-fields",
    "missing-fields", "bad-request", "too-large",
]  # fmt: skip
"""Faults of the emulated Batch API. bad-request: 400 without indexes."""


@dataclass(frozen=True)
class Fault:
    """A fault of the next `times` calls (0: until cleared), optionally only for the calls of `user_id`.

    Kinds that begin with `cohort-` affect the download of cohorts. The other kinds of `FaultKind` affect the calls for
    users.
    """

    kind: FaultKind | BrazeFaultKind | BatchFaultKind
    seconds: float = 1.4
    """The delay of `slow`, the duration of `hang` and the drips, or the waiting time in a 429."""
    status: int = 500
    times: int = 0
    user_id: str | None = None
    """One or more user ids, separated by commas. None for all users."""

    @property
    def of_a_cohort(self) -> bool:
        """Return whether the fault affects the download of cohorts."""
        return self.kind.startswith("cohort-")

    def concerns(self, user_id: str | None) -> bool:
        """Return whether the fault affects this user."""
        return self.user_id is None or (user_id is not None and user_id in self.user_id.split(","))


class FaultSwitch:
    """The current fault of an emulated API. Thread-safe."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._faulty_calls = 0

    @property
    def current(self) -> Fault | None:
        """Return the fault of future calls."""
        return self._fault

    def set(self, fault: Fault | None) -> None:
        """Set the fault of future calls; None clears it."""
        with self._lock:
            self._fault = fault
            self._faulty_calls = 0

    def take(self, applies: Callable[[Fault], bool]) -> Fault | None:
        """Return the fault if it applies to a call, and count the faulty call."""
        with self._lock:
            fault = self._fault
            if fault is None or not applies(fault):
                return None
            if fault.times:
                self._faulty_calls += 1
                if self._faulty_calls >= fault.times:
                    self._fault = None
            return fault


def fault_from(query: Mapping[str, str], kinds: tuple[str, ...] = get_args(FaultKind)) -> Fault:
    """Return the fault for a query. Raises ValueError, whose text names the fix, for an invalid query."""
    kind = query.get("kind", "")
    if kind not in kinds:
        raise ValueError(f"kind must be one of {', '.join(kinds)}")
    unknown = query.keys() - {field.name for field in fields(Fault)}
    if unknown:
        raise ValueError(f"unknown parameters: {', '.join(sorted(unknown))}; remove them")
    fault = Fault(kind)  # type: ignore[arg-type]  # checked just above
    try:
        return replace(
            fault,
            seconds=float(query.get("seconds", fault.seconds)),
            status=int(query.get("status", fault.status)),
            times=int(query.get("times", fault.times)),
            user_id=query.get("user_id"),
        )
    except ValueError:
        raise ValueError("seconds, status and times must be numbers") from None
