"""The argument and options that name the users of a command: a file, or cohorts of Amplitude."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar

import click

from proxy.profile.values import split_list

_Command = TypeVar("_Command", bound=Callable[..., Any])


def users_options(command: _Command) -> _Command:
    """Add the argument USERS, and the options --column and --cohort."""
    users = click.argument("users", required=False, type=click.File("rb"))
    column = click.option("--column", help="Column with the user ids, if USERS is a CSV table.")
    cohorts = click.option(
        "--cohort",
        "cohorts",
        metavar="ID",
        multiple=True,
        help="Amplitude cohort to download, instead of USERS. May be repeated.",
    )
    return users(column(cohorts(command)))


def require_users(users: BinaryIO | None, column: str | None, cohorts: Sequence[str]) -> list[str]:
    """Return the ids of the cohorts, without duplicates; empty if the users come from a file.

    Raises UsageError unless there is either a file or a cohort.
    """
    cohort_ids = list(dict.fromkeys(cohort.strip() for cohort in cohorts if cohort.strip()))
    if (users is None) is not bool(cohort_ids) or (column and cohort_ids):
        raise click.UsageError("specify either USERS (a file, or - for stdin) or --cohort")
    if listed := next((cohort for cohort in cohort_ids if "," in cohort), None):
        options = " ".join(f"--cohort {cohort}" for cohort in split_list(listed))
        raise click.UsageError(f"--cohort takes one id; write {options}")
    return cohort_ids
