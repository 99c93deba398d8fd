"""Warms the cache of a running service ahead of a send, or the Redis of several."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TextIO

import click

from proxy.amplitude.cohort_export import CohortExport, NotDownloaded
from proxy.api.keys import entry, generate
from proxy.api.user_rows import NoColumn, Row, read
from proxy.cli.client import (
    NoService,
    own_application,
    require_access,
    require_credentials,
    running_service,
    service_options,
)
from proxy.cli.text import counted, spoken
from proxy.cli.warmup.audience import Audience, NoRoom
from proxy.cli.warmup.estimate import Plan
from proxy.cli.warmup.progress import Count
from proxy.cli.warmup.runner import Warmer
from proxy.liquid.types import Ask, Request
from proxy.monitoring.logs import silence_http_library
from proxy.profile.parts import SECTIONS
from proxy.profile.values import split_list
from proxy.settings import Settings, SettingsError
from proxy.storage.redis import RedisUnavailable
from proxy.web.services import installed

CONNECTIONS = 16
_LISTED = 20
_NEEDED = {"recommendations": "rec_id", "propensities": "prediction_id"}
_LOST = "Redis does not answer: what is fetched now would be lost"

quota_option = click.option(
    "--quota",
    type=click.IntRange(1),
    default=600,
    envvar="AMPLITUDE_REQUESTS_PER_MINUTE",
    show_default=True,
    show_envvar=True,
    help="Calls a minute that the service may make.",
)


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
@quota_option
@click.option(
    "--share", type=click.IntRange(1, 100), default=80, show_default=True, help="Percent of it to spend on warming."
)
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
    for section, needed in _NEEDED.items():
        if section in sections and not narrowed[needed].strip(" ,"):
            raise click.UsageError(f"--include {section} needs --{needed.replace('_', '-')}: name one or more")
    cohort = (cohort or "").strip()
    if (users is None) is not bool(cohort) or (column and cohort):
        raise click.UsageError("who? Give USERS, a file or - for standard input, or --cohort, and not both")
    silence_http_library()
    credentials = require_credentials(url, credentials)
    question = {"include": ",".join(sections), "on_error": "retry"} | {k: v for k, v in narrowed.items() if v}
    # Properties and computations come in one field of Amplitude's answer, so never in one call.
    calls_a_user = 2 if {"properties", "computations"} <= set(sections) else 1
    audience, listing = Audience(), _Listing()
    click.get_current_context().call_on_close(audience.close)
    try:
        # Before a download, of which Amplitude allows only so many.
        asks, lost = _service(url, credentials)
        if users is not None:
            audience.add(listing.readable(read(users, column)))
        else:
            _download(cohort, api_key, audience, listing)
        if not len(audience):
            raise click.ClickException("nobody is named there")
        plan = Plan(len(audience), calls_a_user, quota, share / 100)
        _tell(
            f"{counted(len(audience), 'user')}, {counted(plan.calls, 'call')} at {plan.calls_a_minute:,} a minute: "
            f"{spoken(plan.minutes)}, less for those that are warm already"
        )
        warmer = Warmer(asks, question, plan.calls_a_minute, tell=_tell, lost=lost)
        count = warmer.run(audience, len(audience))
    except (NoService, NoColumn, NoRoom, NotDownloaded, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    _summarise(count, listing.unreadable)
    if warmer.stopped_by is not None:
        click.echo(f"{warmer.stopped_by}; what was fetched in the last seconds may be lost too")
    missing = bool(count.failed or count.left or warmer.stopped_by is not None)
    if missing and (count.through or warmer.refused is None):  # who was refused at once would be so again
        click.echo(f"run it again with the same {'cohort' if cohort else 'file'}: who is warm is passed over")
    elif listing.unreadable and not missing and not cohort:
        them = "it" if listing.unreadable == 1 else "them"
        click.echo(f"mend {them}, and run it again: who is warm is passed over")
    if warmer.refused is not None:
        raise click.ClickException(str(warmer.refused))
    if missing or listing.unreadable:
        sys.exit(1)


def _summarise(count: Count, unreadable: int) -> None:
    click.echo(
        f"{count.done:,} done, {count.fresh:,} fresh already, {count.unknown:,} unknown to Amplitude, "
        f"{count.failed:,} failed, {count.left:,} not asked; {counted(count.calls, 'call')}"
    )
    if count.unknown:
        click.echo("who is unknown is believed to be so for CACHE_NEGATIVE_SECONDS only, and then asked about again")
    for word, times in sorted(count.why.items()):
        click.echo(f"failed: {word}, {counted(times, 'time')}")
    if unreadable:
        click.echo(f"{counted(unreadable, 'line')} could not be read: nobody there was asked about")


def _tell(line: str) -> None:
    click.echo(line, err=True)


def _service(url: str | None, credentials: str) -> tuple[list[Ask], Callable[[], str | None]]:
    """Return what asks, for each thread, and what says why what it is told is lost.

    That is the service at `url`, or one made for the moment that shares the Redis of the services.
    """
    if url:
        asks = [require_access(running_service(url, credentials)) for _ in range(CONNECTIONS)]
        beside = running_service(url, credentials)
        beside(Request("GET", "/healthz"))  # or everybody would be tried at a URL where nothing is
        return asks, lambda: _redis_of(beside)
    if not os.environ.get("REDIS_URL", "").strip():
        raise NoService("no REDIS_URL: a service without Redis keeps what it knows to itself; give its --url")
    app, ask = own_application(os.environ)
    redis = installed(app).redis
    if redis is None:
        raise NoService("REDIS_URL names no Redis")
    try:
        redis.hash(b"connected-content-proxy-warm")
    except RedisUnavailable:
        raise NoService(f"{_LOST}. Look at REDIS_URL, and REDIS_TLS_VERIFY") from None
    return [ask] * CONNECTIONS, lambda: None if redis.unavailable_since is None else _LOST


def _redis_of(ask: Ask) -> str | None:
    try:
        words = json.loads(ask(Request("GET", "/readyz")).body)
    except (NoService, ValueError):
        return None  # of a service that is gone others hear enough
    gone = isinstance(words, dict) and words.get("redis") == "gone"
    return f"the service has lost its Redis, says its /readyz. {_LOST}" if gone else None


class _Listing:
    """Who is named in lines, and how many lines could not be read; one that names nobody is none of those."""

    def __init__(self) -> None:
        self.unreadable = 0

    def readable(self, rows: Iterable[Row]) -> Iterator[str]:
        """Yield the readable rows' ids, tell of the other rows, and count them anew."""
        self.unreadable = 0
        more = []
        told = 0
        for row in rows:
            if not row.fault:
                yield row.user_id
                continue
            self.unreadable += not row.blank
            told += 1
            if told <= _LISTED:
                _tell(f"line {row.line}: {row.fault}")
            else:
                more.append(str(row.line))
        if more:
            _tell(f"and so {'is line' if len(more) == 1 else 'are lines'} {', '.join(more)}")


def _download(cohort: str, api_key: str | None, audience: Audience, listing: _Listing) -> None:
    """Put the members of a cohort into `audience`."""
    # Of the settings it is only about Amplitude's, whatever else is set or missing.
    ours = {"PROXY_API_KEYS": entry("warm", generate()), "AMPLITUDE_API_KEY": api_key or ""}
    settings = Settings.from_env({**os.environ, **ours})
    if not settings.amplitude_api_key:
        raise NotDownloaded(
            "cohorts are downloaded with the project's API key too: give it by --api-key, or set AMPLITUDE_API_KEY"
        )
    blank = 0

    def take(rows: Iterator[Row]) -> None:
        nonlocal blank
        blank = 0
        audience.clear()
        audience.add(listing.readable(named(rows)))

    def named(rows: Iterator[Row]) -> Iterator[Row]:
        nonlocal blank
        for row in rows:
            blank += row.blank
            if not row.blank:
                yield row

    keys = settings.amplitude_api_key, settings.amplitude_secret_key
    CohortExport(settings.amplitude_cohorts_url, *keys, tell=_tell).download(cohort, take)
    if blank:
        _tell(f"{counted(blank, 'member')} without a user id passed over")
