"""The warm command: fills the cache of a running service, or the Redis of several, before a send."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from threading import Event
from typing import TextIO

import click

from proxy.amplitude.cohort_export import CohortExport, NotDownloaded
from proxy.api.user_rows import NoColumn, Row, read
from proxy.cli.client import (
    ServiceUnavailable,
    json_object,
    own_service_with_redis,
    own_settings,
    require_access,
    require_credentials,
    running_service,
    service_options,
)
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.warmup.audience import Audience, DiskFull
from proxy.cli.warmup.estimate import Plan, quota_options
from proxy.cli.warmup.progress import WarmupProgress, progress_report
from proxy.cli.warmup.runner import Warmer
from proxy.liquid.types import Ask, Request
from proxy.profile.parts import SECTIONS
from proxy.profile.values import split_list
from proxy.storage.redis import RedisUnavailable

CONNECTIONS = 16
_MAX_PRINTED = 20
"""Unreadable rows whose fault is printed."""
_REQUIRED_IDS = {"recommendations": "rec_id", "propensities": "prediction_id"}
_LOST = "Redis does not answer: what is fetched now would be lost"


@click.command()
@click.argument("users", required=False, type=click.File("r", encoding="utf-8-sig", errors="surrogateescape"))
@click.option("--column", help="USERS is a CSV table, and this the column of the user ids.")
@click.option("--cohort", metavar="ID", help="Instead of USERS: the members of this cohort, downloaded from Amplitude.")
@click.option(
    "--api-key",
    envvar="AMPLITUDE_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="The project's API key, for --cohort, which needs AMPLITUDE_SECRET_KEY too.",
)
@click.option(
    "--include", default="properties,cohorts", show_default=True, help="The sections, as /v1/profile names them."
)
@click.option("--rec-id", default="", help="The recommendations, comma separated.")
@click.option("--rec-type", default="", help="Their type, as the message will ask for them.")
@click.option("--comp-id", default="", help="The computations, comma separated; without it, all.")
@click.option("--prediction-id", default="", help="The predictions, comma separated.")
@click.option("--propensity-type", default="", help="`score` or `pct`.")
@click.option("--log-exposures", is_flag=True, help="Fetch recommendations, although each logs an exposure.")
@service_options("The service whose cache is to be warm; without it, Redis at REDIS_URL.")
@quota_options("warming")
def warm(
    users: TextIO | None,
    column: str | None,
    cohort: str | None,
    api_key: str | None,
    include: str,
    log_exposures: bool,
    url: str | None,
    credentials: str | None,
    quota: int,
    share: int,
    **narrowed: str,
) -> None:
    """Fetch what a message will ask about USERS (a file, - is standard input), so that the send finds it.

    One user id a line, or a CSV table with --column, or --cohort. Without --url it fetches by itself, into Redis and
    within the quota that is shared there, with the settings of the environment, with which the services run. What is
    fetched is fresh for CACHE_WARM_SECONDS. Live questions go first. Stopped at any moment, it may be run again with
    the same users: who is warm is passed over.

    Exits with 1 when users are missing.
    """
    sections = split_list(include)
    if not sections or not set(sections) <= set(SECTIONS):
        raise click.UsageError(f"--include takes {', '.join(SECTIONS)}")
    if "recommendations" in sections and not log_exposures:
        raise click.UsageError(
            "each recommendation that is fetched logs an exposure in Amplitude for that user, whether or not the "
            "message is ever sent, and spoils what it measures; with --log-exposures they are fetched all the same"
        )
    for section, parameter in _REQUIRED_IDS.items():
        if section in sections and not split_list(narrowed[parameter]):
            raise click.UsageError(f"--include {section} needs --{parameter.replace('_', '-')}: name one or more")
    cohort = (cohort or "").strip()
    if (users is None) is not bool(cohort) or (column and cohort):
        raise click.UsageError("who? Give USERS, a file or - for standard input, or --cohort, and not both")
    credentials = require_credentials(url, credentials)
    question = {"include": ",".join(sections), "on_error": "retry"} | {k: v for k, v in narrowed.items() if v}
    # Properties and computations are in the same field of Amplitude's answer, so they take two calls.
    calls_a_user = 2 if {"properties", "computations"} <= set(sections) else 1
    audience, rows = Audience(), _RowReader(report_blank=not cohort)
    click.get_current_context().call_on_close(audience.close)
    try:
        # Before a download: Amplitude limits their number.
        asks, lost = _service(url, credentials)
        if users is not None:
            audience.add(rows.user_ids(read(users, column)))
        else:
            _download(cohort, api_key, audience, rows)
        if not len(audience):
            raise click.ClickException("nobody is named there")
        plan = Plan(len(audience), calls_a_user, quota, share / 100)
        _print_status(
            f"{format_count(len(audience), 'user')}, {format_count(plan.calls, 'call')} at {plan.calls_a_minute:,} "
            f"a minute: {format_minutes(plan.minutes)}, less for those that are warm already"
        )
        with progress_report() as report:
            warmer = Warmer(asks, question, plan.calls_a_minute, report=report, lost=lost)
            _stop_on_signals(warmer.stop)
            progress = warmer.run(audience, len(audience))
    except (NoColumn, DiskFull, NotDownloaded) as error:
        raise click.ClickException(str(error)) from None
    _summarise(progress, rows.unreadable)
    if warmer.stopped_by is not None:
        click.echo(f"{warmer.stopped_by}; what was fetched in the last seconds may be lost too")
    missing = bool(progress.failed or progress.remaining or warmer.stopped_by is not None)
    if missing and (progress.finished or warmer.refused is None):  # a service that refused all users will do so again
        click.echo(f"run it again with the same {'cohort' if cohort else 'file'}: who is warm is passed over")
    elif rows.unreadable and not missing and not cohort:
        them = "it" if rows.unreadable == 1 else "them"
        click.echo(f"mend {them}, and run it again: who is warm is passed over")
    if warmer.refused is not None:
        raise warmer.refused
    if missing or rows.unreadable:
        sys.exit(1)


def _stop_on_signals(stop: Event) -> None:
    """Set `stop` on the first signal to end; a second one ends the process at once."""

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _summarise(progress: WarmupProgress, unreadable: int) -> None:
    click.echo(
        f"{progress.done:,} done, {progress.fresh:,} fresh already, {progress.unknown:,} unknown to Amplitude, "
        f"{progress.failed:,} failed, {progress.remaining:,} not asked; {format_count(progress.calls, 'call')}"
    )
    if progress.unknown:
        click.echo("who is unknown is believed to be so for CACHE_NEGATIVE_SECONDS only, and then asked about again")
    for error, times in sorted(progress.failures.items()):
        click.echo(f"failed: {error}, {format_count(times, 'time')}")
    if unreadable:
        click.echo(f"{format_count(unreadable, 'line')} could not be read: nobody there was asked about")


def _print_status(line: str) -> None:
    click.echo(line, err=True)


def _service(url: str | None, credentials: str) -> tuple[list[Ask], Callable[[], str | None]]:
    """Return a function for each thread that sends requests, and a function that returns why answers would be lost.

    The service is the one at `url`, or one in this process that uses the Redis of the services.
    """
    if url:
        asks = [require_access(running_service(url, credentials)) for _ in range(CONNECTIONS)]
        monitor = running_service(url, credentials)
        monitor(Request("GET", "/healthz"))  # fails at once where no service runs
        return asks, lambda: _lost_redis(monitor)
    try:
        services, ask = own_service_with_redis(os.environ)
    except RedisUnavailable:
        raise ServiceUnavailable(f"{_LOST}. Look at REDIS_URL, and REDIS_TLS_VERIFY") from None
    redis = services.redis
    return [ask] * CONNECTIONS, lambda: _LOST if redis is not None and redis.unavailable_since is not None else None


def _lost_redis(ask: Ask) -> str | None:
    try:
        lost = json_object(ask(Request("GET", "/readyz"))).get("redis") == "gone"
    except ServiceUnavailable:
        return None  # the threads report a service that does not answer
    return f"the service has lost its Redis, says its /readyz. {_LOST}" if lost else None


class _RowReader:
    """Reads the user ids of rows, and reports and counts the rows without a readable one.

    `report_blank`: whether rows with a blank id are reported, too.
    """

    def __init__(self, *, report_blank: bool) -> None:
        self._report_blank = report_blank
        self.unreadable = 0
        """The unreadable rows of the last `user_ids`, without blank ones."""
        self.blank = 0

    def user_ids(self, rows: Iterable[Row]) -> Iterator[str]:
        """Yield the readable ids. Print the faults of the first other rows, and the line numbers of the rest."""
        self.unreadable = self.blank = 0
        faulty: list[int] = []
        for row in rows:
            if not row.fault:
                yield row.user_id
                continue
            self.blank += row.blank
            self.unreadable += not row.blank
            if row.blank and not self._report_blank:
                continue
            faulty.append(row.line)
            if len(faulty) <= _MAX_PRINTED:
                _print_status(f"line {row.line}: {row.fault}")
        if more := faulty[_MAX_PRINTED:]:
            _print_status(f"and so {'is line' if len(more) == 1 else 'are lines'} {', '.join(map(str, more))}")


def _download(cohort: str, api_key: str | None, audience: Audience, reader: _RowReader) -> None:
    """Put the members of a cohort into `audience`."""
    settings, _ = own_settings({**os.environ, "AMPLITUDE_API_KEY": api_key or ""})
    if not settings.amplitude_api_key:
        raise NotDownloaded(
            "cohorts are downloaded with the project's API key too: give it by --api-key, or set AMPLITUDE_API_KEY"
        )

    def replace_audience(rows: Iterator[Row]) -> None:
        audience.clear()
        audience.add(reader.user_ids(rows))

    keys = settings.amplitude_api_key, settings.amplitude_secret_key
    CohortExport(settings.amplitude_cohorts_url, *keys, on_progress=_print_status).download(cohort, replace_audience)
    if reader.blank:
        _print_status(f"{format_count(reader.blank, 'member')} without a user id passed over")
