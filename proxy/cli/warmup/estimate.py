"""The plan command: how long warming the cache takes, and how fast a send may be without it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from proxy.cli.formats import format_count, format_minutes
from proxy.cli.output import print_row


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls of a send within the quota. `share` is the part of `per_minute` to spend, from 0 to 1."""

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
        """Return the minutes that all calls take."""
        return math.ceil(self.calls / self.calls_a_minute)

    @property
    def messages_a_minute(self) -> int:
        """Return the fastest send in which every user's calls can be made with a cold cache.

        0 where a minute's quota is less than the calls of one user.
        """
        return self.calls_a_minute // self.calls_a_user


def quota_options(purpose: str) -> Callable[[Any], Any]:
    """Add the options --quota and --share."""
    quota = click.option(
        "--quota",
        type=click.IntRange(1),
        default=600,
        envvar="AMPLITUDE_REQUESTS_PER_MINUTE",
        show_default=True,
        show_envvar=True,
        help="Calls a minute that the service may make.",
    )
    share = click.option(
        "--share",
        type=click.IntRange(1, 100),
        default=80,
        show_default=True,
        help=f"Percent of it to spend on {purpose}.",
    )
    return lambda command: quota(share(command))


@click.command()
@click.option("--recipients", type=click.IntRange(1), required=True, help="How many users the message goes to.")
@click.option(
    "--calls", type=click.IntRange(1, 40), default=1, show_default=True, help="Calls a user: /v1/profile says how many."
)
@quota_options("this send")
def plan(recipients: int, calls: int, quota: int, share: int) -> None:
    """Say how long warming the cache for a send takes, or how fast the send may go without."""
    estimate = Plan(recipients, calls, quota, share / 100)
    if estimate.messages_a_minute:
        cold = f"send {format_count(estimate.messages_a_minute, 'message')} a minute at most: set that in Braze"
    else:
        cold = "not even one message a minute: the quota is too small for a send that is cold"
    for label, text in (
        ("calls", f"{estimate.calls:,} ({calls} a user), at {estimate.calls_a_minute:,} a minute"),
        (
            "to warm the cache",
            f"{format_minutes(estimate.minutes)}, before the send, which then may be as fast as Braze can",
        ),
        ("or, without that", cold),
    ):
        print_row(label, text, width=19, style="bold")
