"""A run: plans and sends the changes, and prints the costs and the summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

import click

from proxy.cli.formats import format_count
from proxy.cli.sync.connection import BrazeTarget
from proxy.cli.sync.failures_file import FailuresFile
from proxy.cli.sync.planning import forecast, limit_lines, plan
from proxy.cli.sync.reading import ReadResult
from proxy.cli.sync.recording import RunRecord
from proxy.cli.sync.selection import Selection
from proxy.cli.sync.sending import Sender
from proxy.cli.sync.staging import Staging
from proxy.cli.warmup.export_run import print_status
from proxy.settings import Settings
from proxy.sync.changes import too_many_removals
from proxy.sync.state import SyncState


@dataclass(frozen=True, slots=True)
class Mode:
    """The options that determine which values are sent."""

    dry_run: bool
    resend_unchanged: bool
    keep_state: bool
    allow_removals: bool


@dataclass(frozen=True, slots=True)
class Run:
    """The inputs for planning and sending. `start_over`: ignore the values in the state."""

    selection: Selection
    mode: Mode
    settings: Settings
    target: BrazeTarget
    state: SyncState
    start_over: bool
    staging: Staging
    result: ReadResult
    failures: FailuresFile
    stop: Event
    lock_lost: Event
    """Set if another run took over the lock of the state."""
    record: RunRecord


def write(run: Run) -> bool:
    """Plan and send the changes, and print the forecast and the summary. Return whether all values were sent."""
    result, mode, state, selection = run.result, run.mode, run.state, run.selection
    notes = [*result.lines, *result.skipped_lines()]
    if result.refused is not None or result.stopped:
        _print(notes)
        if result.refused is not None:
            raise result.refused
        click.echo("stopped before anything was sent; run the command again")
        return False
    state_users = 0 if run.start_over else state.count()
    membership = None if selection.membership is None else selection.attribute(selection.membership)
    if membership is not None and result.unreadable and not mode.allow_removals:
        notes.append(
            f"{membership}: not set to false, because a user of a skipped line may still be in the cohort; correct the "
            "lines, or add --allow-removals"
        )
        membership = None
    counts = plan(
        run.staging,
        state,
        computed=[selection.attribute(name) for name in result.computed],
        membership=membership,
        at=result.at,
        resend_unchanged=mode.resend_unchanged,
        start_over=run.start_over,
    )
    costs = forecast(len(run.staging), counts, run.settings.braze_batch_objects)
    notes += limit_lines(counts)
    if counts.removals:
        notes.append(f"null or false: {format_count(counts.removals, 'user')}")
    if too_many_removals(counts.removals, state_users) and not mode.allow_removals:
        _print([*notes, costs])
        raise click.ClickException(
            f"{format_count(counts.removals, 'user')} of {state_users:,} in the state would get null or false, so "
            "nothing was sent; check the cohort and the properties in Amplitude, or add --allow-removals"
        )
    if mode.dry_run:
        _print([*notes, costs, "dry run: nothing was sent"])
        return result.complete
    print_status(costs)
    sender = Sender(
        run.staging,
        state,
        run.target.client,
        run.target.limiter,
        users=counts.users,
        batch_objects=run.settings.braze_batch_objects,
        claim=lambda: state.claim(run.target.endpoint, run.target.api_key, clear=run.start_over),
        failures=run.failures,
    )
    run.record.progress = sender.progress
    run.record.users_unchanged = max(0, len(run.staging) - counts.users)  # `counts` also has users who left a cohort
    error = sender.run(run.stop)
    _print([*notes, *sender.progress.lines(counts.unchanged)])
    if run.failures.error is not None:
        print_status(f"Error: {run.failures.error}")
    if error is not None:
        raise click.ClickException(str(error))
    if run.lock_lost.is_set():
        raise click.ClickException(
            "another run took over the state in Redis; wait until that run ends, and run the command again"
        )
    if sender.progress.finished < counts.users:
        click.echo("stopped before all values were sent; run the command again (values already sent are skipped)")
        return False
    return result.complete and not sender.progress.failed


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)
