"""Records the result of a run in Redis, for `/metrics` and the status page."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from proxy.cli.sync.sending import SendProgress
from proxy.cli.warmup.export_run import print_status
from proxy.monitoring.sync_runs import RunResult, SyncRun
from proxy.storage.redis import RedisUnavailable

if TYPE_CHECKING:
    from proxy.storage.redis.sync_runs import RedisSyncRuns


@dataclass(slots=True)
class RunRecord:
    """The progress of a run."""

    progress: SendProgress | None = None
    users_unchanged: int = 0
    complete: bool = False


@contextmanager
def record_run(runs: RedisSyncRuns | None) -> Iterator[RunRecord]:
    """Record the run when the `with` block ends, also with an error. `runs`: None to record nothing."""
    record = RunRecord()
    error = ""
    try:
        yield record
    except click.ClickException as raised:
        error = raised.message
        raise
    finally:
        if runs is not None:
            try:
                runs.record_run(_run(record, error))
            except RedisUnavailable:
                print_status("warning: the run is not in /metrics, because Redis does not answer")


def _run(record: RunRecord, error: str) -> SyncRun:
    result: RunResult = "failed" if error else "complete" if record.complete else "incomplete"
    progress = record.progress or SendProgress(0)
    return SyncRun(
        time.time(),
        result,
        error,
        users_sent=progress.sent,
        users_unchanged=record.users_unchanged,
        users_failed=progress.failed,
        values=progress.values,
        requests=progress.requests,
    )
