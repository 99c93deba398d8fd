"""Sends more requests than the quota allows to two services that share a Redis: `python -m tests.bench.shared_quota`.

In each case, something happens to the services or to Redis. The emulated Amplitude accepts every call. Its log shows
the maximum number of calls in any 60 seconds, and the longest time without a call in the 20 seconds after the event.
Takes eight minutes; `--only` runs one case. The exit code is 1 if the calls exceed the quota, or stop for more than
five seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import redis

from tests.bench.load import TIMEOUT_SECONDS, Connections, Observer, command_line, milliseconds, paced, table
from tests.bench.processes import AUTHORIZATION, Report, SandboxProcess, Service
from tests.support.redis_server import RedisServer, SteppedRedisServer, faketime

PER_MINUTE = 120
REQUESTS_A_SECOND = 3  # to each service; the quota allows two calls a second in all
BEFORE_SECONDS = 20.0
AFTER_SECONDS = 70.0
RESTART_SECONDS = 5.0
LONGEST_GAP_SECONDS = 5.0
WATCHED_SECONDS = 20.0
FORMER_SECRET = "former-secret-key"  # accepted only by the sandbox
API_KEY = "sandbox-api-key"
HEAD = ["case", "calls", "most calls in 60 s", "quota", "longest time without a call", "generator delay, p99"]


@dataclass
class Setup:
    """The processes of a case."""

    services: tuple[Service, Service]
    redis: RedisServer


Event = Callable[[Setup], Awaitable[None]]


async def _nothing(setup: Setup) -> None:
    pass


async def _change_secret(setup: Setup) -> None:
    for service in setup.services:
        await asyncio.to_thread(service.stop)
        service.change(AMPLITUDE_SECRET_KEY="sandbox-secret-key")
        await asyncio.to_thread(service.start)
        await asyncio.sleep(RESTART_SECONDS)


async def _flush(setup: Setup) -> None:
    with redis.Redis.from_url(setup.redis.url) as operator:
        operator.flushall()


def _step(seconds: float) -> Event:
    async def step(setup: Setup) -> None:
        assert isinstance(setup.redis, SteppedRedisServer)
        setup.redis.set_clock(seconds)

    return step


@dataclass(frozen=True)
class Case:
    """The settings of the two services at first, and what happens during the load."""

    event: Event
    settings: tuple[dict[str, str], dict[str, str]] = ({}, {})
    steps_clock: bool = False


FORMER = {"AMPLITUDE_SECRET_KEY": FORMER_SECRET}
CASES = {
    "the secret changes, one service after the other": Case(_change_secret, (FORMER, FORMER)),
    "AMPLITUDE_API_KEY on one service": Case(_nothing, ({}, {"AMPLITUDE_API_KEY": API_KEY})),
    "the clock of Redis steps by +70 s": Case(_step(70), steps_clock=True),
    "the clock of Redis steps by -300 s": Case(_step(-300), steps_clock=True),
    "FLUSHALL": Case(_flush),
}


async def _load(service: Service, first_user: int) -> None:
    """Request new users at a constant rate. Requests that fail during a restart are ignored."""
    connections = Connections(service.port, f"Authorization: {AUTHORIZATION}")
    seconds = BEFORE_SECONDS + AFTER_SECONDS
    tasks = set()

    async def request(user: int) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await connections.get(f"/v1/properties?user_id=user-{user}")
        except (TimeoutError, OSError):
            pass

    async for number, _ in paced(int(REQUESTS_A_SECOND * seconds), seconds):
        task = asyncio.create_task(request(first_user + number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    connections.close()


async def _run(case: Case, running: ExitStack) -> tuple[Report, float, Observer]:
    """Run a case. Return the calls, the longest time without a call, and the observer of the load."""
    sandbox = running.enter_context(SandboxProcess(latency=0.1, former_secret_key=FORMER_SECRET))
    server = running.enter_context(SteppedRedisServer() if case.steps_clock else RedisServer())
    shared = {"REDIS_URL": server.url, "AMPLITUDE_REQUESTS_PER_MINUTE": f"{PER_MINUTE}", "LOG_LEVEL": "WARNING"}
    first, second = (running.enter_context(Service(sandbox, **shared | own)) for own in case.settings)
    observer = Observer()
    async with observer:
        loads = [asyncio.create_task(_load(first, 1_000_000)), asyncio.create_task(_load(second, 2_000_000))]
        await asyncio.sleep(BEFORE_SECONDS)
        began = time.monotonic()
        await case.event(Setup((first, second), server))
        ended = time.monotonic() + WATCHED_SECONDS
        await asyncio.gather(*loads)
    report = sandbox.report()
    moments = [began, *(moment for moment, _ in report.calls if began < moment < ended), ended]
    return report, max(later - earlier for earlier, later in pairwise(moments)), observer


def main() -> int:
    """Run the cases one after another, print a table, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--only", choices=list(CASES), action="append", help="may be repeated (default: all)")
    rows, broken = [], False
    for name in parser.parse_args().only or CASES:
        if CASES[name].steps_clock and not faketime():
            print(f"{name}: skipped, because libfaketime is not installed; run apt-get install faketime")
            continue
        print(f"{name}:", file=sys.stderr, flush=True)
        with ExitStack() as running:
            report, gap, observer = asyncio.run(_run(CASES[name], running))
        delay = milliseconds(observer.lag) + " (**too busy**)" * observer.too_busy
        rows.append([name, f"{len(report.calls)}", f"{report.worst_minute}", f"{PER_MINUTE}", f"{gap:.1f} s", delay])
        broken = broken or report.worst_minute > PER_MINUTE or gap > LONGEST_GAP_SECONDS
    print(table(HEAD, rows))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
