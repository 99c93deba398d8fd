"""Breaks what the service stands on while it is under load, and says how its callers fared.

    .venv/bin/python -m tests.bench.faults [--only hang] [--only kill]

Under a steady load, of users in the cache, of others for the first time (`on_error=default` and `retry`) and of
copies to be renewed (`Cache-Control: no-cache`), the emulated Amplitude fails for 30 seconds in one way after the
other; Redis is stopped and started; the service is told to stop (SIGTERM) and started again; a worker is killed.
About ten minutes in all. Prints a Markdown table, then each promise that was broken; exit code 1 when there is one.

An answer is whole when it is a 200 with `ok: true` and no older copy stands in for a fresh one. "Whole again" is the
time from the fault's end to the last request that was not answered so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from proxy.sandbox.faults import Fault
from proxy.sandbox.user_data import Documented
from tests.bench.course import HEAD, PER_MINUTE, Course, hold, hold_to_redis, row
from tests.bench.load import PATIENCE, table
from tests.bench.options import command_line
from tests.bench.processes import SandboxProcess, Service
from tests.bench.steady import RENEWED, Asked, Load
from tests.support.redis_server import RedisServer

BEFORE_SECONDS = 5.0
FAULT_SECONDS = 30.0
REDIS_GONE_SECONDS = 70.0  # a minute without calls, and then some with a share of the quota
WATCHED_SECONDS = 15.0
WHOLE_WITHIN_SECONDS = 10.0
WHOLE_AFTER_STAND_BACK_SECONDS = 5.0
RETRY_AFTER = 12  # with the emulated Amplitude's 429; the last stand-back thus outlasts the fault
CROSSING_SECONDS = 0.05  # a request sent so shortly before its connection is closed may cross that on the way
UPSTREAM = {
    "hang": (Fault("hang", seconds=FAULT_SECONDS), "upstream_timeout"),
    "drip-body": (Fault("drip-body", seconds=FAULT_SECONDS), "upstream_timeout"),
    "drip-headers": (Fault("drip-headers", seconds=FAULT_SECONDS), "upstream_timeout"),
    "reset": (Fault("reset"), "upstream_unavailable"),
    "status-500": (Fault("status", status=500), "upstream_unavailable"),
    "quota": (Fault("quota"), "quota_exhausted"),
    "broken-json": (Fault("broken-json"), "upstream_invalid"),
}


async def _upstream(name: str, course: Course, running: ExitStack) -> None:
    documented = Documented(retry_after=RETRY_AFTER)
    sandbox = running.enter_context(SandboxProcess(per_minute=PER_MINUTE, latency=0.15, documented=documented))
    service = running.enter_context(Service(sandbox))
    fault, word = UPSTREAM[name]
    async with course.observer, Load(service.port) as load:
        course.asked = load.asked
        await asyncio.sleep(BEFORE_SECONDS)
        course.began = time.monotonic()
        sandbox.break_with(fault)
        await asyncio.sleep(FAULT_SECONDS)
        sandbox.break_with(None)
        course.ended = time.monotonic()
        course.whole_from = course.ended + WHOLE_WITHIN_SECONDS
        if name == "quota":
            last = max(moment for moment, _ in sandbox.seen().calls if moment < course.ended)
            stand_back_ends = last + RETRY_AFTER + 0.15
            course.whole_from = max(course.ended, stand_back_ends) + WHOLE_AFTER_STAND_BACK_SECONDS
        await asyncio.sleep(course.whole_from - course.ended + WATCHED_SECONDS - WHOLE_WITHIN_SECONDS)
    seen = sandbox.seen()
    hold(course, seen, {word}, refusals=name == "quota")
    course.promise(any(one.word for one in course.during("missed")), "the fault was felt (else this tells nothing)")


async def _redis(course: Course, running: ExitStack) -> None:
    sandbox, redis, service = _shared(course, running)
    async with course.observer, Load(service.port, service.workers()) as load:
        course.asked = load.asked
        await asyncio.sleep(BEFORE_SECONDS)
        course.began = time.monotonic()
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(REDIS_GONE_SECONDS)
        await asyncio.to_thread(redis.start)
        course.ended = time.monotonic()
        course.whole_from = course.ended + WHOLE_WITHIN_SECONDS
        await asyncio.sleep(WATCHED_SECONDS)
    hold(course, sandbox.seen(), {"quota_exhausted"})


async def _sigterm(course: Course, running: ExitStack) -> None:
    sandbox, _, service = _shared(course, running)
    async with course.observer, Load(service.port, service.workers()) as load:
        course.asked = load.asked
        await asyncio.sleep(BEFORE_SECONDS)
        course.began = time.monotonic()
        await asyncio.to_thread(service.stop)
        stopped = time.monotonic()
        await asyncio.to_thread(service.start)
        course.ended = time.monotonic()
        course.whole_from = course.ended + WHOLE_WITHIN_SECONDS
        lately = {one.user for one in load.asked if one.kind == "missed" and course.began - 3 < one.began < stopped}
        await asyncio.gather(*(load.ask("missed", user, "profile") for user in lately))
        await asyncio.sleep(WATCHED_SECONDS)
    seen = sandbox.seen()
    print(f"  the service ended {stopped - course.began:.1f} s after the signal", file=sys.stderr)

    def excused(one: Asked) -> bool:
        # It may refuse connections from the signal on, but what comes on those it has is to be answered.
        if one.status == "refused":
            return course.began <= one.began <= course.ended
        return abs(one.began - course.began) < CROSSING_SECONDS or -CROSSING_SECONDS < one.began - stopped < 0

    hold(course, seen, {"quota_exhausted", "upstream_timeout"}, excused=excused)
    hold_to_redis(course, seen)
    twice = {user for user, times in Counter(user for _, user in seen.calls).items() if times > 1} - set(RENEWED)
    course.promise(not twice, f"what was sent is kept: {len(twice)} users were fetched again")


async def _kill(course: Course, running: ExitStack) -> None:
    sandbox, _, service = _shared(course, running)
    async with course.observer, Load(service.port, service.workers()) as load:
        course.asked = load.asked
        await asyncio.sleep(BEFORE_SECONDS)
        course.began = course.ended = time.monotonic()
        os.kill(service.workers()[0], signal.SIGKILL)
        course.whole_from = course.ended + WHOLE_WITHIN_SECONDS
        await asyncio.sleep(WATCHED_SECONDS + 5)
    seen = sandbox.seen()
    # What the killed worker was about to answer is lost with it; from then on its connections are known to be gone.
    hold(
        course,
        seen,
        {"quota_exhausted", "upstream_timeout"},
        excused=lambda one: one.status == "cut off" and -PATIENCE < one.began - course.began < CROSSING_SECONDS,
    )
    hold_to_redis(course, seen)


def _shared(course: Course, running: ExitStack) -> tuple[SandboxProcess, RedisServer, Service]:
    """Start two workers with Redis, before an Amplitude so slow that some call is always on its way."""
    sandbox = running.enter_context(SandboxProcess(per_minute=PER_MINUTE, latency=0.8))
    redis = running.enter_context(RedisServer())
    service = running.enter_context(Service(sandbox, REDIS_URL=redis.url, WEB_CONCURRENCY="2"))
    course.promise(len(service.workers()) == 2, f"two workers run with Redis: {len(service.workers())}")
    return sandbox, redis, service


RUNS: dict[str, Callable[[Course, ExitStack], Awaitable[None]]] = {
    **{name: lambda course, running: _upstream(course.name, course, running) for name in UPSTREAM},
    "redis": _redis,
    "sigterm": _sigterm,
    "kill": _kill,
}


def main() -> int:
    """Run the faults one after the other, print a table and what was broken, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--only", choices=list(RUNS), action="append", help="only this fault; may be repeated (default: all)"
    )
    courses = []
    for name in parser.parse_args().only or RUNS:
        print(f"{name}:", file=sys.stderr, flush=True)
        course = Course(name)
        with ExitStack() as running:
            asyncio.run(_run(course, running))
        for promise in course.broken:
            print(f"  BROKEN: {promise}", file=sys.stderr, flush=True)
        courses.append(course)
    print(table(HEAD, [row(course) for course in courses]))
    for course in courses:
        for promise in course.broken:
            print(f"\nBROKEN, {course.name}: {promise}")
    return 1 if any(course.broken for course in courses) else 0


async def _run(course: Course, running: ExitStack) -> None:
    await RUNS[course.name](course, running)


if __name__ == "__main__":
    sys.exit(main())
