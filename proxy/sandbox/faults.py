"""The faults that the sandbox can emulate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

FaultKind = Literal[
    "slow", "hang", "drip-headers", "drip-body", "reset", "status", "quota", "broken-json", "wrong-shape",
    "wrong-types", "oversize", "redirect", "not-utf-8", "bad-header", "another-user",
    "cohort-429", "cohort-500", "cohort-stuck", "cohort-cut-off", "cohort-expired", "cohort-loop", "cohort-elsewhere",
    "cohort-gzip", "cohort-gzip-cut", "cohort-unbounded", "cohort-unbounded-cut", "cohort-file-429",
    "cohort-storage-429", "cohort-nowhere", "cohort-two-columns",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """A fault of the next `times` calls (0: until cleared), optionally only for the calls of `user_id`.

    Kinds that begin with `cohort-` affect the download of cohorts. All other kinds affect the calls for users.
    """

    kind: FaultKind
    seconds: float = 1.4
    """The delay of `slow`, the duration of `hang` and the drips, or the Retry-After of a cohort's 429."""
    status: int = 500
    times: int = 0
    user_id: str | None = None

    @property
    def of_a_cohort(self) -> bool:
        """Return whether the fault affects the download of cohorts."""
        return self.kind.startswith("cohort-")


def fault_from(query: Mapping[str, str]) -> Fault:
    """Return the fault for a query. Raises ValueError, whose text names the fix, for an invalid query."""
    kind = query.get("kind", "")
    if kind not in get_args(FaultKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(FaultKind))}")
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
