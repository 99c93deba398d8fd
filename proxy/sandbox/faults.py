"""What can be made to go wrong in the sandbox. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

FaultKind = Literal[
    "slow", "hang", "drip-headers", "drip-body", "reset", "status", "quota", "broken-json", "wrong-shape",
    "wrong-types", "oversize", "redirect", "not-utf-8", "bad-header", "another-user",
    "cohort-429", "cohort-500", "cohort-stuck", "cohort-cut-off", "cohort-expired", "cohort-loop", "cohort-elsewhere",
    "cohort-gzip", "cohort-gzip-cut", "cohort-unbounded", "cohort-unbounded-cut", "cohort-file-429",
    "cohort-storage-429", "cohort-nowhere",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next `times` calls (0: until cleared), or with those of one `user_id`.

    Kinds that begin with `cohort-` befall the download of cohorts, all others the questions about users.
    """

    kind: FaultKind
    seconds: float = 1.4
    """How late `slow` answers, how long `hang` and the drips last, or the Retry-After of a cohort's 429."""
    status: int = 500
    times: int = 0
    user_id: str | None = None

    @property
    def of_a_cohort(self) -> bool:
        """Say whether this befalls the download of a cohort."""
        return self.kind.startswith("cohort-")


def fault_from(query: Mapping[str, str]) -> Fault:
    """Return the fault that a query describes. ValueError, with the mend in its text, when it describes none."""
    kind = query.get("kind", "")
    if kind not in get_args(FaultKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(FaultKind))}")
    unknown = query.keys() - {one.name for one in fields(Fault)}
    if unknown:
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
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
        raise ValueError("seconds, status and times are numbers") from None
