"""The result of a run of `sync`, and the totals of all runs. `storage/redis` stores the totals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

RunResult = Literal["complete", "incomplete", "failed"]
"""`complete`: exit status 0. `incomplete`: some users were not read or sent, or the run was stopped. `failed`: the run
ended with an error."""


@dataclass(frozen=True, slots=True)
class SyncRun:
    """A run that has ended.

    ended_at: Unix seconds. error: the error of a failed run, without ids and secrets. users_sent, users_unchanged,
    users_failed: the number of users by outcome. values: the number of sent values. requests: the number of requests.
    """

    ended_at: float
    result: RunResult
    error: str = ""
    users_sent: int = 0
    users_unchanged: int = 0
    users_failed: int = 0
    values: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class SyncRuns:
    """The last run, and the totals of all runs. runs: the number of runs by result. users: by outcome."""

    last: SyncRun
    runs: Mapping[str, int] = field(default_factory=dict)
    users: Mapping[str, int] = field(default_factory=dict)
    values: int = 0
    requests: int = 0


def add_run(runs: SyncRuns | None, run: SyncRun) -> SyncRuns:
    """Return the totals with another run. `runs`: None before the first run."""
    users = {"sent": run.users_sent, "unchanged": run.users_unchanged, "failed": run.users_failed}
    if runs is None:
        return SyncRuns(run, {run.result: 1}, users, run.values, run.requests)
    return SyncRuns(
        run,
        dict(Counter(runs.runs) + Counter({run.result: 1})),
        {outcome: runs.users.get(outcome, 0) + number for outcome, number in users.items()},
        runs.values + run.values,
        runs.requests + run.requests,
    )
