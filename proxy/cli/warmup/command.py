"""The warm command: fills the cache of a running service, or a shared Redis, before a send."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from threading import Event
from typing import BinaryIO

import click

from proxy.amplitude.cohort_export import CohortExport, NotDownloaded
from proxy.api.user_rows import Row
from proxy.cli.client import (
    ServiceUnavailable,
    json_object,
    own_service_with_redis,
    own_settings,
    require_access,
    require_credentials,
    require_profile_api,
    running_service,
    service_options,
)
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.user_file import UnreadableFile, file_name, read_user_file
from proxy.cli.user_ids import UserIds
from proxy.cli.warmup.audience import Audience, DiskFull
from proxy.cli.warmup.estimate import Plan, quota_options
from proxy.cli.warmup.progress import WarmupProgress, progress_report
from proxy.cli.warmup.runner import Warmer
from proxy.liquid.types import Ask, Request
from proxy.profile.parts import SECTIONS
from proxy.profile.values import split_list

CONNECTIONS = 16
_REQUIRED_IDS = {"recommendations": "rec_id", "propensities": "prediction_id"}
_LOST = "Redis does not answer, so fetched data would be lost"
_FULL = "Redis is full, so fetched data would be lost; raise maxmemory"


@click.command()
@click.argument("users", required=False, type=click.File("rb"))
@click.option("--column", help="Column with the user ids, if USERS is a CSV table.")
@click.option("--cohort", metavar="ID", help="Amplitude cohort to download, instead of USERS.")
@click.option(
    "--api-key",
    envvar="AMPLITUDE_API_KEY",
    show_envvar=True,
    metavar="KEY",
    help="API key of the Amplitude project. --cohort needs this key and AMPLITUDE_SECRET_KEY.",
)
@click.option(
    "--include",
    default="properties,cohorts",
    show_default=True,
    help="Sections of /v1/profile to fetch, comma-separated.",
)
@click.option("--rec-id", default="", help="Recommendation ids, comma-separated.")
@click.option("--rec-type", default="", help="Type of the recommendations, as in the message.")
@click.option("--comp-id", default="", help="Computation ids, comma-separated; default: all.")
@click.option("--prediction-id", default="", help="Prediction ids, comma-separated.")
@click.option("--propensity-type", default="", help="`score` or `pct`.")
@click.option("--log-exposures", is_flag=True, help="Confirm that each fetched recommendation logs an exposure.")
@service_options("URL of a running service whose cache to fill, instead of the Redis at REDIS_URL.", "read")
@quota_options("warming")
def warm(
    users: BinaryIO | None,
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
    """Fetch the data of users into the cache before a send.

    USERS is a file, or - for stdin, with one user id per line; with --column, a CSV table. The file may be compressed
    with gzip or zip. Instead of USERS, --cohort names an Amplitude cohort. Fetched data stays fresh for
    CACHE_WARM_SECONDS. Requests from Braze take priority.

    Without --url, the command itself fetches the data and stores it in Redis. The command then needs the settings of
    the service in its environment, and shares the quota with the service.

    You can stop the command at any time and run it again: users already cached are skipped.

    Exits with status 1 if the data of some users is missing.
    """
    sections = split_list(include)
    if not sections or not set(sections) <= set(SECTIONS):
        raise click.UsageError(f"--include must name one or more of {', '.join(SECTIONS)}")
    if "recommendations" in sections and not log_exposures:
        raise click.UsageError(
            "--include recommendations logs an exposure in Amplitude for each user, even if the message is never sent; "
            "to confirm this, add --log-exposures"
        )
    for section, parameter in _REQUIRED_IDS.items():
        if section in sections and not split_list(narrowed[parameter]):
            raise click.UsageError(f"--include {section} needs ids; add --{parameter.replace('_', '-')}")
    cohort = (cohort or "").strip()
    if (users is None) is not bool(cohort) or (column and cohort):
        raise click.UsageError("specify either USERS (a file, or - for stdin) or --cohort")
    credentials = require_credentials(url, credentials)
    question = {"include": ",".join(sections), "on_error": "retry"} | {k: v for k, v in narrowed.items() if v}
    # Amplitude returns properties and computations in the same field, so they need two calls.
    calls_a_user = 2 if {"properties", "computations"} <= set(sections) else 1
    audience, ids = Audience(), UserIds()
    click.get_current_context().call_on_close(audience.close)
    try:
        # Check the service before the download, because Amplitude limits the number of downloads.
        ask_functions, loss_reason = _service(url, credentials)
        require_profile_api(ask_functions[0])
        if users is not None:
            audience.add(ids.of(read_user_file(users, column)))
        else:
            _download(cohort, api_key, audience, ids)
        skipped = list(ids.summary(len(audience)))
        for line in skipped:
            _print_status(line)
        if not len(audience):
            source = "the cohort" if users is None else file_name(users)
            raise click.ClickException(f"{source} has no user ids; check its content")
        plan = Plan(len(audience), calls_a_user, quota, share / 100)
        _print_status(
            f"{format_count(len(audience), 'user')}, {format_count(plan.calls, 'call')} at {plan.calls_a_minute:,} "
            f"a minute: about {format_minutes(plan.minutes)}; less if users are already cached"
        )
        with progress_report() as report:
            warmer = Warmer(ask_functions, question, plan.calls_a_minute, report=report, loss_reason=loss_reason)
            _stop_on_signals(warmer.stop)
            progress = warmer.run(audience, len(audience))
    except (UnreadableFile, DiskFull, NotDownloaded) as error:
        raise click.ClickException(str(error)) from None
    _summarise(progress, skipped)
    if warmer.stopped_by is not None:
        click.echo(f"{warmer.stopped_by}; data fetched in the last seconds may be lost too")
    missing = bool(progress.failed or progress.remaining or warmer.stopped_by is not None)
    if missing and (
        progress.finished or warmer.refused is None
    ):  # a service that refused all users will refuse them again
        click.echo(
            f"run the command again with the same {'cohort' if cohort else 'file'}; users already cached are skipped"
        )
    elif ids.unreadable and not missing and not cohort:
        lines = "line" if ids.unreadable == 1 else "lines"
        click.echo(f"correct the unreadable {lines} and run the command again; users already cached are skipped")
    if warmer.refused is not None:
        raise warmer.refused
    if missing or ids.unreadable:
        sys.exit(1)


def _stop_on_signals(stop: Event) -> None:
    """Set `stop` on the first SIGINT or SIGTERM; the second signal ends the process at once."""

    def handle(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)


def _summarise(progress: WarmupProgress, skipped: list[str]) -> None:
    click.echo(
        f"{progress.done:,} fetched, {progress.fresh:,} already cached, {progress.unknown:,} unknown to Amplitude, "
        f"{progress.failed:,} failed, {progress.remaining:,} not requested; {format_count(progress.calls, 'call')}"
    )
    if progress.unknown:
        click.echo(
            "unknown users stay unknown for CACHE_NEGATIVE_SECONDS; the next request after that fetches them again"
        )
    for error, times in sorted(progress.failures.items()):
        click.echo(f"failed: {error}, {format_count(times, 'time')}")
    for line in skipped:
        click.echo(line)


def _print_status(line: str) -> None:
    click.echo(line, err=True)


def _service(url: str | None, credentials: str) -> tuple[list[Ask], Callable[[], str | None]]:
    """Return one request function per thread, and a function that returns why fetched data would be lost.

    The functions send requests to the service at `url`, or to a service in this process that uses the shared Redis.
    """
    if url:
        ask_functions = [require_access(running_service(url, credentials)) for _ in range(CONNECTIONS)]
        monitor = running_service(url, credentials)
        monitor(Request("GET", "/healthz"))  # fails at once if no service runs
        return ask_functions, lambda: _redis_loss_reason(monitor)
    services, ask = own_service_with_redis(os.environ)
    redis = services.redis

    def loss_reason() -> str | None:
        if redis is None:
            return None
        return _LOST if redis.unavailable_since is not None else _FULL if redis.full else None

    return [ask] * CONNECTIONS, loss_reason


def _redis_loss_reason(ask: Ask) -> str | None:
    try:
        word = json_object(ask(Request("GET", "/readyz"))).get("redis", "")
    except ServiceUnavailable:
        return None  # the threads report a service that does not answer
    return {"gone": f"{_LOST} (redis is gone at /readyz)", "full": _FULL}.get(str(word))


def _download(cohort: str, api_key: str | None, audience: Audience, ids: UserIds) -> None:
    """Download the members of a cohort into `audience`."""
    settings, _ = own_settings({**os.environ, "AMPLITUDE_API_KEY": api_key or ""})
    if not settings.amplitude_api_key:
        raise NotDownloaded(
            "--cohort needs the API key of the Amplitude project; add --api-key, or set AMPLITUDE_API_KEY"
        )

    def replace_audience(rows: Iterator[Row]) -> None:
        audience.clear()
        audience.add(ids.of(rows))

    keys = settings.amplitude_api_key, settings.amplitude_secret_key
    CohortExport(settings.amplitude_cohorts_url, *keys, on_progress=_print_status).download(cohort, replace_audience)
