"""The sync command: writes values from Amplitude to Braze, as custom attributes."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import BinaryIO

import click

from proxy.amplitude.cohort_export import NotDownloaded
from proxy.cli.client import require_credentials, service_options
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.sync.connection import BrazeTarget, braze_target, connect, open_state
from proxy.cli.sync.failures_file import FailuresFile
from proxy.cli.sync.reading import ReadResult, read_answers, read_cohorts, read_file
from proxy.cli.sync.recording import record_run
from proxy.cli.sync.run import Mode, Run, write
from proxy.cli.sync.selection import Selection, parse_renames
from proxy.cli.sync.staging import Staging
from proxy.cli.user_file import UnreadableFile
from proxy.cli.users_options import require_users, users_options
from proxy.cli.warmup.audience import DiskFull
from proxy.cli.warmup.export_run import cohort_client
from proxy.profile.aliases import Aliases
from proxy.profile.values import split_list
from proxy.storage.redis import RedisUnavailable, StateInUse
from proxy.sync.sqlite_state import DEFAULT_PATH, StateUnavailable
from proxy.sync.state import SyncState


@click.command()
@users_options
@click.option("--properties", default="", help="User properties to write, comma-separated.")
@click.option("--computations", default="", help="Computations to write, comma-separated ids or aliases.")
@click.option(
    "--recommendations", default="", help="Recommendations to write as lists, comma-separated ids or aliases."
)
@click.option("--log-exposures", is_flag=True, help="Confirm that fetching recommendations logs exposures.")
@click.option(
    "--membership",
    metavar="NAME",
    help="Attribute that is true for members of the cohort, and false for users who left.",
)
@click.option("--rename", multiple=True, metavar="OLD=NEW", help="Write an attribute under another name.")
@click.option("--dry-run", is_flag=True, help="Read everything and print the costs, but write nothing.")
@click.option(
    "--all",
    "resend_unchanged",
    is_flag=True,
    help="Send unchanged values too. With another endpoint or key, starts a new state.",
)
@click.option("--keep-state", is_flag=True, help="Use the state with a new key of the same workspace.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"File with the state of sent values, if REDIS_URL is not set.  [default: {DEFAULT_PATH}]",
)
@click.option("--allow-reserved", is_flag=True, help="Allow overwriting profile fields of Braze, such as email.")
@click.option("--allow-removals", is_flag=True, help="Allow sending null or false to many users.")
@click.option(
    "--failures",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File for the ids of failed users, with reasons.",
)
@service_options("URL of a running service that makes the calls to Amplitude.", "admin")
@click.option(
    "--quota",
    type=click.IntRange(1, 1_000_000),
    default=600,
    envvar="AMPLITUDE_REQUESTS_PER_MINUTE",
    show_default=True,
    show_envvar=True,
    help="Maximum number of calls to Amplitude a minute.",
)
def sync(
    users: BinaryIO | None,
    column: str | None,
    cohorts: tuple[str, ...],
    properties: str,
    computations: str,
    recommendations: str,
    log_exposures: bool,
    membership: str | None,
    rename: tuple[str, ...],
    dry_run: bool,
    resend_unchanged: bool,
    keep_state: bool,
    state: Path | None,
    allow_reserved: bool,
    allow_removals: bool,
    failures: Path | None,
    url: str | None,
    credentials: str | None,
    quota: int,
) -> None:
    """Write values from Amplitude to Braze as custom attributes.

    Each value becomes a custom attribute of the same name. The users are the members of one or more cohorts, or the
    users in USERS: a file, or - for stdin, with one user id per line; with --column, a CSV table. The command sends
    only values that differ from the values that Braze last accepted.

    With --cohort, properties and membership come from the download of the cohort, without calls. All other values cost
    one call per user. With --url, the service makes these calls. Otherwise, the command makes the calls, within the
    quota in Redis.

    The state of sent values is in Redis, or in a file without REDIS_URL. Two runs cannot use a state at the same time.
    You can stop the command at any time and run it again. Values already sent are skipped.

    Exits with status 1 if values of some users could not be read or sent.
    """
    cohort_ids = require_users(users, column, cohorts)
    selection = Selection(
        _names(properties),
        _names(computations),
        _names(recommendations),
        membership.strip() if membership and membership.strip() else None,
        parse_renames(rename),
        allow_reserved,
    )
    if not (selection.names or selection.computations):
        raise click.UsageError("nothing to write; add --properties, --computations, --recommendations or --membership")
    if selection.recommendations and not log_exposures:
        raise click.UsageError(
            "--recommendations logs an exposure in Amplitude for each user, even if no message is ever sent; to "
            "confirm this, add --log-exposures"
        )
    if selection.membership is not None and len(cohort_ids) != 1:
        raise click.UsageError("--membership needs exactly one --cohort; run the command once for each cohort")
    selection.check()
    if state is not None and os.environ.get("REDIS_URL", "").strip():
        raise click.UsageError("--state is not used with REDIS_URL, because the state is in Redis; remove --state")
    mode = Mode(dry_run, resend_unchanged, keep_state, allow_removals)
    credentials = require_credentials(url, credentials)
    with ExitStack() as stack:
        try:
            question = _question(selection, from_file=users is not None)
            settings, services, ask_functions = connect(url, credentials, question, quota)
            target = braze_target(settings, services)
            client = cohort_client(settings) if cohort_ids else None
            stop, lock_lost = Event(), Event()

            def on_lost() -> None:
                lock_lost.set()
                stop.set()

            path = state or Path(DEFAULT_PATH)
            sent_state = stack.enter_context(open_state(services, path, on_lost, dry_run=dry_run))
            runs = None if services is None or dry_run else services.sync_runs
            record = stack.enter_context(record_run(runs))
            start_over = _check_owner(sent_state, target, mode)
            # Only now, because a run that is refused must not overwrite the file of the run in progress.
            inputs = [path, *([] if users is None else [Path(users.name)])]
            failures_file = FailuresFile(None if dry_run else failures, inputs)
            stack.callback(failures_file.close)
            staging = stack.enter_context(closing(Staging()))
            result = ReadResult()
            if users is not None:
                read_file(users, column, staging, result)
            if client is not None:
                ids = [Aliases(settings.aliases).id_of("cohorts", cohort_id) for cohort_id in cohort_ids]
                read_cohorts(client, ids, selection, settings.text_properties, staging, result)
            _check_rows(result, mode)
            if question and len(staging):
                calls = len(staging) * (
                    2 if {"properties", "computations"} <= set(question["include"].split(",")) else 1
                )
                click.echo(
                    f"{format_count(calls, 'call')} at {quota:,} a minute: about "
                    f"{format_minutes(-(-calls // quota))}; less if users are already cached",
                    err=True,
                )
                read_answers(ask_functions, question, quota, selection, staging, result, failures_file.add)
                selection.check(list(result.computed))
            complete = write(
                Run(
                    selection,
                    mode,
                    settings,
                    target,
                    sent_state,
                    start_over,
                    staging,
                    result,
                    failures_file,
                    stop,
                    lock_lost,
                    record,
                )
            )
            record.complete = complete
        except (UnreadableFile, DiskFull, NotDownloaded, StateUnavailable, StateInUse) as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("stopped; run the command again, and values already sent are skipped")
            sys.exit(1)
        except RedisUnavailable as error:
            raise click.ClickException(
                f"{error or 'Redis does not answer'}; run the command again (values already sent are skipped)"
            ) from None
    if not complete:
        sys.exit(1)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(split_list(text)))


def _question(selection: Selection, *, from_file: bool) -> dict[str, str]:
    """Return the parameters of the calls; empty if the downloads contain all values."""
    sections = {
        "properties": ("keys", selection.properties if from_file else ()),
        "computations": ("comp_id", selection.computations),
        "recommendations": ("rec_id", selection.recommendations),
    }
    sections = {section: ids for section, ids in sections.items() if ids[1]}
    if not sections:
        return {}
    parameters = {parameter: ",".join(names) for parameter, names in sections.values()}
    return {"include": ",".join(sections), "on_error": "retry", **parameters}


def _check_owner(state: SyncState, target: BrazeTarget, mode: Mode) -> bool:
    """Return whether the run starts over. Raises ClickException if the state belongs to another endpoint or key."""
    differing_names = state.compare_owner(target.endpoint, target.api_key)
    if differing_names and not (mode.resend_unchanged or mode.keep_state):
        raise click.ClickException(
            f"the state was written with another {' and another '.join(differing_names)}; add --all to start over, or "
            "--keep-state for a new key of the same workspace"
        )
    return bool(differing_names) and not mode.keep_state


def _check_rows(result: ReadResult, mode: Mode) -> None:
    if result.empty_cohorts and not mode.allow_removals:
        raise click.ClickException(
            f"cohort {result.empty_cohorts[0]} has no user ids, so nothing was sent; check the cohort in Amplitude, or "
            "add --allow-removals"
        )
