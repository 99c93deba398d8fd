"""Downloads several cohorts one after the other, stores the data, and summarises each cohort."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from threading import Event
from typing import NamedTuple

import click

from proxy.amplitude.cohort_export import CohortExport, NotDownloaded
from proxy.api.bodies.changes import CacheState
from proxy.cli.client import own_settings
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.warmup.audience import Audience
from proxy.cli.warmup.destination import Destination
from proxy.cli.warmup.estimate import export_minutes
from proxy.cli.warmup.export import Content, Exporter, ExportResult
from proxy.cli.warmup.fetching import set_by_signals
from proxy.cli.warmup.progress import progress_report
from proxy.profile.aliases import Aliases
from proxy.settings import Settings

_EXAMPLE_MEMBERS = 100_000


def announce(cohort_ids: Sequence[str], content: Content, calls_a_user: int) -> None:
    """Print the number of downloads and calls, and the expected time."""
    calls = f"{format_count(calls_a_user, 'call')} per member" if calls_a_user else "no calls"
    minutes = len(cohort_ids) * export_minutes(_EXAMPLE_MEMBERS)
    print_status(
        f"{format_count(len(cohort_ids), 'download')} and {calls}; the downloads take about {format_minutes(minutes)} "
        f"for cohorts of {_EXAMPLE_MEMBERS:,} members"
    )
    if content.properties and content.keys is None:
        print_status(
            "Amplitude may time out while it exports all properties; name the properties of the message with --keys"
        )


class ExportOutcome(NamedTuple):
    """The outcome of all cohorts.

    `complete`: whether all data of members with a readable id is in the cache. `interrupted`: whether the user or a
    problem of Redis ended the run. `skipped`: lines about the skipped rows.
    """

    complete: bool
    interrupted: bool
    skipped: list[str]


def export_cohorts(
    cohort_ids: Sequence[str],
    api_key: str | None,
    destination: Destination,
    content: Content,
    audience: Audience | None,
) -> ExportOutcome:
    """Download and store the cohorts, and print a summary. `audience` receives the members; None without later calls.

    A cohort whose download fails does not stop the others. Raises NotDownloaded if the keys of the project are missing
    or no cohort was downloaded, DiskFull and ServiceUnavailable.
    """
    settings, _ = own_settings({**os.environ, "AMPLITUDE_API_KEY": api_key or ""})
    client = cohort_client(settings, "add --api-key, or ")
    aliases, stop = Aliases(settings.aliases), Event()
    before = destination.cache_state() if content.properties else None
    results: list[ExportResult] = []
    failed: list[str] = []
    with closing(Audience()) as staged:
        exporter = Exporter(client, destination, content, settings.text_properties, staged, print_status=print_status)
        for cohort_id in cohort_ids:
            try:
                results.append(_export(exporter, aliases.id_of("cohorts", cohort_id), before, stop))
            except NotDownloaded as error:
                failed.append(cohort_id)
                if len(failed) == len(cohort_ids):
                    raise
                click.echo(f"Error: {error}", err=True)
                continue
            if audience is not None:
                audience.add(staged)
            if results[-1].interrupted:
                break
    fits = True
    if content.properties:
        stored = sum(result.stored for result in results)
        fits = _report_memory(destination, before, stored, exporter.needed_mib)
    interrupted = results[-1].interrupted
    if interrupted:
        click.echo("run the command again with the same options; it downloads the cohorts again")
    elif content.properties and not destination.has_redis:
        click.echo("without Redis, a restart of the service loses this data")
    if failed:
        noun = "cohort" if len(failed) == 1 else "cohorts"
        click.echo(f"{noun} {', '.join(failed)} failed; correct the errors above, and run the command again")
    complete = fits and not failed and all(result.complete for result in results)
    return ExportOutcome(complete, interrupted, [line for result in results for line in result.skipped_rows()])


def cohort_client(settings: Settings, key_option: str = "") -> CohortExport:
    """Return the client for the downloads. Raises NotDownloaded without the keys of the Amplitude project.

    `key_option`: how else to pass the API key, for the error.
    """
    for name, value, option in (
        ("AMPLITUDE_API_KEY", settings.amplitude_api_key, key_option),
        ("AMPLITUDE_SECRET_KEY", settings.amplitude_secret_key, ""),
    ):
        if not value:
            raise NotDownloaded(f"--cohort needs {name} of the Amplitude project; {option}set {name}")
    keys = settings.amplitude_api_key or "", settings.amplitude_secret_key
    return CohortExport(settings.amplitude_cohorts_url, *keys, on_progress=print_status)


def _export(exporter: Exporter, cohort_id: str, cache: CacheState | None, stop: Event) -> ExportResult:
    print_status(f"cohort {cohort_id}:")
    result, requested_at = exporter.download(cohort_id)
    for line in result.skipped_rows():
        print_status(line)
    if not result.members:
        raise NotDownloaded(f"cohort {cohort_id} has no user ids; check the cohort in Amplitude")
    if result.names:
        limit = f"; CACHE_MAX_MB is {_max_mib(cache)}" if cache else ""
        print_status(f"the properties need CACHE_MAX_MB={exporter.needed_mib:,} or more{limit}")
    try:
        with set_by_signals(stop), progress_report() as report:
            exporter.store(result, requested_at, stop, report)
    finally:
        for line in result.lines():
            click.echo(line)
    return result


def _report_memory(destination: Destination, before: CacheState | None, stored: int, needed_mib: int) -> bool:
    """Print how many users did not fit into the memory of the service. Return whether all users fitted.

    `stored`: the number of stored users. A user of several cohorts counts once for each.
    """
    if destination.has_redis:
        return True
    after = destination.cache_state()
    if before is None or after is None:
        click.echo(
            "the service did not report its cache, so users that did not fit into CACHE_MAX_MB are not counted; set "
            f"CACHE_MAX_MB={needed_mib:,} or more"
        )
        return True
    evicted = after["evictions"] - before["evictions"]
    # Evicted users may not be members, and may be stored again later. Then only the number of cached users counts.
    missing = min(evicted, stored - after["records"])
    if missing > 0:
        click.echo(
            f"{format_count(missing, 'user')} did not fit into CACHE_MAX_MB ({_max_mib(after)}); set "
            f"CACHE_MAX_MB={needed_mib:,} or more, and run the command again"
        )
        return False
    if evicted > 0:
        click.echo(f"removed {format_count(evicted, 'other user')} from the cache to make room for the members")
    else:
        click.echo("all users fitted into CACHE_MAX_MB")
    return True


def _max_mib(cache: CacheState) -> str:
    return f"{cache['max_bytes'] / 2**20:,.0f}"


def print_status(line: str) -> None:
    """Print a line of progress."""
    click.echo(line, err=True)
