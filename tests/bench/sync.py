"""Measures `sync` by the counts of the emulated Braze: `python -m tests.bench.sync`.

Sends three attributes of 100,000 users, then the 2 % that changed, with at most 600 requests a minute. Then sends all
users to an empty Braze, with `kill -9` after a third and after two thirds. Once with a state file, and once with Redis.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import click

from proxy.sandbox import cohort_api
from proxy.sandbox.request_log import ReceivedRequest, RequestLog
from proxy.sandbox.server import Sandbox
from proxy.sandbox.user_data import Documented
from tests.support.redis_server import RedisServer
from tests.support.service import ROOT

_COHORT = "c1"
_OPTIONS = ("--cohort", _COHORT, "--properties", "plan,points,vip")
_IN_USE = "is in use by another run"


class Campaign:
    """Runs `sync` for a cohort of `users`. The first `changed` users have another plan."""

    def __init__(self, sandbox: Sandbox, users: int, per_minute: int, state: Sequence[str], redis_url: str) -> None:
        self._braze = sandbox.braze
        self._users = users
        self._state = state
        self._environment = os.environ | {
            "AMPLITUDE_COHORTS_URL": sandbox.url,
            "AMPLITUDE_API_KEY": sandbox.api_key,
            "AMPLITUDE_SECRET_KEY": sandbox.secret_key,
            "BRAZE_REST_ENDPOINT": sandbox.url,
            "BRAZE_API_KEY": sandbox.braze.key,
            "BRAZE_REQUESTS_PER_MINUTE": str(per_minute),
            "REDIS_URL": redis_url,
        }
        self.changed = 0

    def table(self, *_: object, **__: object) -> bytes:
        """Return the download of the cohort."""
        plans = ("silver" if number <= self.changed else "gold" for number in range(1, self._users + 1))
        rows = (f"user-{number},{plan},{number},true" for number, plan in enumerate(plans, start=1))
        return "\n".join(("user_id,plan,points,vip", *rows, "")).encode()

    def run(self, kill_after: float | None = None) -> str:
        """Run the command, and kill it when Braze has this share of the users. Return a line about the run."""
        before, began = len(self._braze.log.requests), time.monotonic()
        with subprocess.Popen(
            [sys.executable, "-m", "proxy", "sync", *_OPTIONS, *self._state],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while kill_after is not None and process.poll() is None:
                if len(self._braze.profiles.attributes) >= kill_after * self._users:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.05)
            _, errors = process.communicate()
        if _IN_USE in errors:  # of the killed run, whose lock in Redis lasts 30 seconds
            time.sleep(2)
            return self.run(kill_after)
        requests = self._braze.log.requests[before:]
        end = "killed" if process.returncode == -signal.SIGKILL else f"exit code {process.returncode}"
        return (
            f"{end}, {time.monotonic() - began:.0f} s: {len(requests):,} requests, "
            f"{sum(request.objects for request in requests):,} objects, worst minute {_worst_minute(requests):,}"
        )

    def lost(self) -> int:
        """Return the number of users whose attributes at Braze are not those of the cohort."""
        expected = {
            f"user-{number}": {"plan": "silver" if number <= self.changed else "gold", "points": number, "vip": True}
            for number in range(1, self._users + 1)
        }
        return sum(self._braze.attributes(user) != attributes for user, attributes in expected.items())

    def repeated(self) -> tuple[int, int]:
        """Return the number of requests with users that an earlier request had, and the number of these users."""
        seen: set[str] = set()
        requests = users = 0
        for request in self._braze.log.requests:
            ids = {item["external_id"] for item in request.payload["attributes"]}
            requests += not ids.isdisjoint(seen)
            users += len(ids & seen)
            seen |= ids
        return requests, users


def _worst_minute(requests: list[ReceivedRequest]) -> int:
    log = RequestLog()
    log.requests = requests
    return int(log.report()["worst_minute"]["requests"])


@contextmanager
def campaign(users: int, per_minute: int, *, with_redis: bool) -> Iterator[tuple[Campaign, Sandbox]]:
    """Yield a campaign with an empty state, and its emulated Amplitude and Braze."""
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(documented=Documented(cohort_polls=0)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis_url = stack.enter_context(RedisServer()).url if with_redis else ""
        state = [] if with_redis else ["--state", str(folder / "state.sqlite3")]
        runs = Campaign(sandbox, users, per_minute, state, redis_url)
        stack.enter_context(mock.patch.object(cohort_api, "table", runs.table))
        yield runs, sandbox


def measure(users: int, per_minute: int, *, with_redis: bool) -> Iterator[str]:
    """Yield the lines of the result."""
    with campaign(users, per_minute, with_redis=with_redis) as (runs, sandbox):
        yield f"first run: {runs.run()}"
        runs.changed = users // 50
        yield f"2 % changed: {runs.run()}"
        report = sandbox.braze.report()
        yield (
            f"unchanged values sent again: {report['unchanged_values']:,}, users with wrong attributes: {runs.lost():,}"
            + (f", worst minute of both runs: {report['worst_minute']['requests']:,}" if with_redis else "")
        )
    with campaign(users, per_minute, with_redis=with_redis) as (runs, sandbox):
        for share in (1 / 3, 2 / 3, None):
            yield f"interrupted: {runs.run(share)}"
        requests, repeated = runs.repeated()
        worst = sandbox.braze.report()["worst_minute"]["requests"]
        yield (
            f"users with wrong attributes: {runs.lost():,}, repeated: {repeated:,} users in {requests:,} requests"
            + (f", worst minute of all runs: {worst:,}" if with_redis else "")
        )


@click.command()
@click.option("--users", default=100_000, show_default=True)
@click.option("--per-minute", default=600, show_default=True, help="BRAZE_REQUESTS_PER_MINUTE.")
def main(users: int, per_minute: int) -> None:
    """Measure the sync command."""
    for with_redis in (False, True):
        click.echo("with Redis:" if with_redis else "with a state file:")
        for line in measure(users, per_minute, with_redis=with_redis):
            click.echo(f"  {line}")


if __name__ == "__main__":
    main()
