"""The warm command: fills the cache of a running service, or a shared Redis, before a send."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import BinaryIO

import click

from proxy.amplitude.cohort_export import NotDownloaded
from proxy.cli.client import require_credentials, service_options
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.user_file import UnreadableFile, file_name, read_user_file
from proxy.cli.user_ids import UserIds
from proxy.cli.users_options import require_users, users_options
from proxy.cli.warmup.audience import Audience, DiskFull
from proxy.cli.warmup.destination import Destination, require_scopes, running, shared_redis
from proxy.cli.warmup.estimate import Plan, quota_options
from proxy.cli.warmup.export import Content
from proxy.cli.warmup.export_run import announce, export_cohorts
from proxy.cli.warmup.fetching import fetch
from proxy.profile.parts import SECTIONS
from proxy.profile.values import split_list

_REQUIRED_IDS = {"recommendations": "rec_id", "propensities": "prediction_id"}
_EXPORTED = ("properties", "cohorts")


@click.command()
@users_options
@click.option(
    "--keys", multiple=True, help="Properties to download with --cohort, comma-separated or repeated; default: all."
)
@click.option(
    "--no-export", is_flag=True, help="Download only the user ids, and fetch properties and cohorts by calls."
)
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
    help="Sections of /v1/profile, comma-separated.",
)
@click.option("--rec-id", default="", help="Recommendation ids, comma-separated.")
@click.option("--rec-type", default="", help="Type of the recommendations, as in the message.")
@click.option("--comp-id", default="", help="Computation ids, comma-separated; default: all.")
@click.option("--prediction-id", default="", help="Prediction ids, comma-separated.")
@click.option("--propensity-type", default="", help="`score` or `pct`.")
@click.option("--log-exposures", is_flag=True, help="Confirm that each fetched recommendation logs an exposure.")
@service_options(
    "URL of a running service. The command fills the cache of this service instead of the Redis at REDIS_URL.",
    "read for USERS and --no-export, push for --cohort, and admin if --cohort also makes calls",
)
@quota_options("warming")
def warm(
    users: BinaryIO | None,
    column: str | None,
    cohorts: tuple[str, ...],
    keys: tuple[str, ...],
    no_export: bool,
    api_key: str | None,
    include: str,
    log_exposures: bool,
    url: str | None,
    credentials: str | None,
    quota: int,
    share: int,
    **narrowed: str,
) -> None:
    """Fill the cache with the data of users before a send.

    USERS is a file, or - for stdin, with one user id per line; with --column, a CSV table. The file may be compressed
    with gzip or zip. Each user costs one or two calls. Fetched data stays fresh for CACHE_WARM_SECONDS. Requests from
    Braze take priority.

    Instead of USERS, --cohort names an Amplitude cohort. One download of the cohort replaces all calls for properties
    and cohorts. This data stays fresh for CACHE_PUSHED_SECONDS.

    Without --url, the command stores the data in Redis. The command then needs the settings of the service in its
    environment, and shares the quota with the service.

    You can stop the command at any time and run it again. Users already fetched are skipped; cohorts are downloaded
    again.

    Exits with status 1 if the data of some users is missing.
    """
    sections = split_list(include)
    _check_sections(sections, narrowed, log_exposures=log_exposures)
    cohort_ids = require_users(users, column, cohorts)
    if no_export and not cohort_ids:
        raise click.UsageError("--no-export needs --cohort; remove --no-export")
    exported = [section for section in sections if section in _EXPORTED and cohort_ids and not no_export]
    names = tuple(dict.fromkeys(split_list(",".join(keys))))
    if names and "properties" not in exported:
        raise click.UsageError(
            "--keys needs a download of properties; add --cohort, add properties to --include, and remove --no-export"
        )
    content = Content("cohorts" in exported, "properties" in exported, names or None)
    fetched = [section for section in sections if section not in exported]
    credentials = require_credentials(url, credentials)
    # Amplitude returns properties and computations in the same field, so they need two calls.
    calls_a_user = 2 if {"properties", "computations"} <= set(fetched) else 1 if fetched else 0
    question = {"include": ",".join(fetched), "on_error": "retry"} | {k: v for k, v in narrowed.items() if v}
    interrupted, unreadable = False, 0
    with closing(Audience()) as audience:
        try:
            # Check the service before the download, because Amplitude limits the number of downloads.
            destination = running(url, credentials) if url else shared_redis()
            _require_profile_api(destination, fetched)
            if users is not None:
                unreadable, skipped = _read_users(users, column, audience)
                complete = not unreadable
            else:
                if url:
                    require_scopes(destination.ask_functions[0], push=bool(exported), read=bool(fetched))
                announce(cohort_ids, content, calls_a_user)
                complete, interrupted, skipped = export_cohorts(
                    cohort_ids, api_key, destination, content, audience if fetched else None
                )
            if not fetched or interrupted:
                sys.exit(0 if complete else 1)
            plan = Plan(len(audience), calls_a_user, quota, share / 100)
            click.echo(
                f"{format_count(len(audience), 'user')}, {format_count(plan.calls, 'call')} at {plan.calls_a_minute:,} "
                f"a minute: about {format_minutes(plan.minutes)}; less if users are already cached",
                err=True,
            )
            result = fetch(audience, question, plan.calls_a_minute, destination)
        except (UnreadableFile, DiskFull, NotDownloaded) as error:
            raise click.ClickException(str(error)) from None
    for line in (*result.lines(), *skipped):
        click.echo(line)
    result.print_advice("file" if users else "cohort")
    if unreadable and not result.missing:
        lines = "line" if unreadable == 1 else "lines"
        click.echo(f"correct the unreadable {lines} and run the command again; users already cached are skipped")
    if result.refused is not None:
        raise result.refused
    if result.missing or not complete:
        sys.exit(1)


def _check_sections(sections: Sequence[str], narrowed: Mapping[str, str], *, log_exposures: bool) -> None:
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


def _require_profile_api(destination: Destination, fetched: Sequence[str]) -> None:
    if fetched and not destination.profile_api:
        raise click.ClickException(
            f"{', '.join(fetched)} cannot be fetched, because AMPLITUDE_PROFILE_API is off; use --cohort with "
            "--include properties,cohorts and without --no-export"
        )


def _read_users(users: BinaryIO, column: str | None, audience: Audience) -> tuple[int, list[str]]:
    """Read the file. Return the number of unreadable lines, and the summary of the skipped lines."""
    ids = UserIds()
    audience.add(ids.of(read_user_file(users, column)))
    skipped = list(ids.summary(len(audience)))
    for line in skipped:
        click.echo(line, err=True)
    if not len(audience):
        raise click.ClickException(f"{file_name(users)} has no user ids; check its content")
    return ids.unreadable, skipped
