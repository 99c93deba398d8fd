"""The plan command: estimates how long warming takes, and how fast a send may be without warming."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from proxy.amplitude.cohort_export import MAX_USERS
from proxy.cli.formats import format_count, format_minutes
from proxy.cli.output import print_row


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls of a send within the quota. `share` is the part of `per_minute` to use, from 0 to 1."""

    recipients: int
    calls_a_user: int
    per_minute: int
    share: float

    @property
    def calls(self) -> int:
        """Return the number of calls for all recipients."""
        return self.recipients * self.calls_a_user

    @property
    def calls_a_minute(self) -> int:
        """Return the number of calls that may be sent in a minute, at least one."""
        return max(1, math.floor(self.per_minute * self.share + 1e-9))

    @property
    def minutes(self) -> int:
        """Return how many minutes all calls take."""
        return math.ceil(self.calls / self.calls_a_minute)

    @property
    def messages_a_minute(self) -> int:
        """Return the maximum messages a minute for which every user's calls fit into the quota.

        Assumes an empty cache. 0 if a minute's quota is less than the calls of one user.
        """
        return self.calls_a_minute // self.calls_a_user


_PREPARE_MINUTES = 1
"""Amplitude takes about a minute to prepare a download."""
_STORED_A_MINUTE = 200_000
"""Users whose properties a slow machine stores in a minute."""


def downloads(recipients: int) -> int:
    """Return the number of cohort downloads for all recipients."""
    return math.ceil(recipients / MAX_USERS)


def export_minutes(recipients: int) -> int:
    """Return how many minutes it takes to download and store all recipients."""
    return downloads(recipients) * _PREPARE_MINUTES + math.ceil(recipients / _STORED_A_MINUTE)


def quota_options(purpose: str) -> Callable[[Any], Any]:
    """Add the options --quota and --share."""
    quota = click.option(
        "--quota",
        type=click.IntRange(1),
        default=600,
        envvar="AMPLITUDE_REQUESTS_PER_MINUTE",
        show_default=True,
        show_envvar=True,
        help="Calls per minute that the service may make.",
    )
    share = click.option(
        "--share",
        type=click.IntRange(1, 100),
        default=80,
        show_default=True,
        help=f"Percentage of the quota to use for {purpose}.",
    )
    return lambda command: quota(share(command))


@click.command()
@click.option("--recipients", type=click.IntRange(1), required=True, help="Number of users that receive the message.")
@click.option(
    "--calls",
    type=click.IntRange(1, 40),
    default=1,
    show_default=True,
    help="Calls per user; 2 for properties together with computations.",
)
@click.option(
    "--tags",
    type=click.IntRange(1, 40),
    default=1,
    show_default=True,
    help="Connected Content tags in the message.",
)
@click.option(
    "--profile-api",
    type=click.Choice(["on", "off"], case_sensitive=False),
    default="on",
    envvar="AMPLITUDE_PROFILE_API",
    show_default=True,
    show_envvar=True,
    help="`off` if the service makes no calls.",
)
@quota_options("this send")
def plan(recipients: int, calls: int, tags: int, profile_api: str, quota: int, share: int) -> None:
    """Estimate how long warming the cache takes. Also estimates how fast a send without warming can be."""
    estimate = Plan(recipients, calls, quota, share / 100)
    if estimate.messages_a_minute:
        cold = f"at most {format_count(estimate.messages_a_minute, 'message')} a minute; set this rate in Braze"
    else:
        cold = "less than one message a minute; warm the cache, or increase --quota or --share"
    requests = recipients * tags
    download = (
        "warming by download",
        f"about {format_minutes(export_minutes(recipients))}: no calls, and {downloads(recipients)} of 500 cohort "
        "downloads a month; properties and cohorts only",
    )
    rows = [
        (
            "requests",
            f"{requests * 2:,} to {requests * 3:,} from Braze to the service ({format_count(tags, 'tag')}, "
            "each requested 2 or 3 times per user)",
        ),
        (
            "warming by calls",
            f"{format_minutes(estimate.minutes)}: {format_count(estimate.calls, 'call')} ({calls} per user), at "
            f"{estimate.calls_a_minute:,} a minute",
        ),
        download,
        ("with warming", "the send may be as fast as Braze allows"),
        ("without warming", cold),
    ]
    if profile_api == "off":
        rows[1:] = [
            ("calls", "0, because AMPLITUDE_PROFILE_API is off"),
            download,
            ("send", "may be as fast as Braze allows; users without pushed or exported data get the default content"),
        ]
    for label, text in rows:
        print_row(label, text, width=21, style="bold")
