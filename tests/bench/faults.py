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

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Literal

from proxy.sandbox.answers import Documented
from proxy.sandbox.faults import Fault
from proxy.sandbox.population import find
from tests.bench.load import PATIENCE, Connections, Observer, milliseconds, table
from tests.bench.processes import SandboxProcess, Seen, Service
from tests.conftest import SECRET
from tests.redis_server import RedisServer

PER_MINUTE = 600
CONNECTIONS = 41  # a prime: whoever asks in turn comes upon each of them, and with them upon each worker
BEFORE_SECONDS = 5.0
FAULT_SECONDS = 30.0
REDIS_GONE_SECONDS = 70.0  # a minute without calls, and then some with a share of the quota
WATCHED_SECONDS = 15.0
WHOLE_WITHIN_SECONDS = 10.0
WHOLE_AFTER_STAND_BACK_SECONDS = 5.0
RETRY_AFTER = 12  # with the emulated Amplitude's 429; the last stand-back thus outlasts the fault
CROSSING_SECONDS = 0.05  # a request sent so shortly before its connection is closed may cross that on the way

Kind = Literal["cached", "renewed", "missed", "retried"]
RATES: dict[Kind, float] = {"cached": 100, "renewed": 1, "missed": 2, "retried": 0.5}
"""Requests a second. Even if each retry cost a call, all were within the quota: it must not hide the fault."""
_EXISTING = [f"user-{number}" for number in islice((one for one in count(1) if find(f"user-{one}", None)), 40)]
CACHED, RENEWED = _EXISTING[:30], _EXISTING[30:]
UPSTREAM = {
    "hang": (Fault("hang", seconds=FAULT_SECONDS), "upstream_timeout"),
    "drip-body": (Fault("drip-body", seconds=FAULT_SECONDS), "upstream_timeout"),
    "drip-headers": (Fault("drip-headers", seconds=FAULT_SECONDS), "upstream_timeout"),
    "reset": (Fault("reset"), "upstream_unavailable"),
    "status-500": (Fault("status", status=500), "upstream_unavailable"),
    "quota": (Fault("quota"), "quota_exhausted"),
    "broken-json": (Fault("broken-json"), "upstream_invalid"),
}


@dataclass(frozen=True)
class Asked:
    """One request and what came of it: a status, or why there was none."""

    kind: Kind
    user: str
    began: float
    took: float
    status: int | Literal["refused", "cut off", "gave up"]
    ok: bool = False
    word: str | None = None
    """The error word: of the body, or for which an older copy stands in."""

    @property
    def whole(self) -> bool:
        """Say whether it was answered in full."""
        return self.status == 200 and self.ok and self.word is None


class Load:
    """A steady load of all kinds for the time of an `async with`."""

    def __init__(self, port: int) -> None:
        self._connections = Connections(port, f"X-API-Key: {SECRET}", least=CONNECTIONS)
        self._tasks: set[asyncio.Future[object]] = set()
        self.asked: list[Asked] = []

    async def __aenter__(self) -> Load:
        for _ in range(CONNECTIONS):  # so that each worker holds a copy of its own
            await asyncio.gather(*(self.ask("cached", user, "properties") for user in CACHED + RENEWED))
        asks: dict[Kind, Callable[[int], Awaitable[object]]] = {
            "cached": lambda number: self.ask("cached", CACHED[number % len(CACHED)], "properties"),
            "renewed": lambda number: self.ask("renewed", RENEWED[number % len(RENEWED)], "properties"),
            "missed": lambda number: self.ask("missed", f"user-{1_000_000 + number}", "profile"),
            "retried": lambda number: self._with_retries(f"user-{2_000_000 + number}"),
        }
        self._kinds = [asyncio.create_task(self._steadily(RATES[kind], ask)) for kind, ask in asks.items()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for kind in self._kinds:
            kind.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._kinds, *self._tasks, return_exceptions=True)
        self._connections.close()

    async def ask(self, kind: Kind, user: str, route: str) -> Asked:
        """Ask once; note and return what came of it."""
        rest = {"profile": "&include=properties,cohorts", "recommendations": "&rec_id=homepage"}.get(route, "")
        rest += "&on_error=retry" if kind == "retried" else ""
        headers = ["Cache-Control: no-cache"] if kind == "renewed" else []
        began = time.monotonic()
        status: int | Literal["refused", "cut off", "gave up"]
        ok, word = False, None
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await self._connections.get(f"/v1/{route}?user_id={user}{rest}", *headers)
        except TimeoutError:
            status = "gave up"
        except ConnectionRefusedError:
            status = "refused"
        except (OSError, EOFError):
            status = "cut off"
        else:
            status = answer.status
            body = json.loads(answer.body)
            ok, word = body.get("ok") is True, body.get("error")
            standing_in = (answer.header("cache-status") or "").partition("detail=")[2]
            word = word or standing_in or None
        asked = Asked(kind, user, began, time.monotonic() - began, status, ok, word)
        self.asked.append(asked)
        return asked

    async def _with_retries(self, user: str) -> None:
        for wait in (1, 2, 4, 8, 16, 0):
            if (await self.ask("retried", user, "recommendations")).status == 200:
                return
            await asyncio.sleep(wait)

    async def _steadily(self, rate: float, ask: Callable[[int], Awaitable[object]]) -> None:
        began = time.monotonic()
        for number in count():
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            task = asyncio.ensure_future(ask(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


@dataclass
class Course:
    """How one run went: when the fault began and ended, and from when on every answer must be whole."""

    name: str
    asked: list[Asked] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    whole_from: float = 0.0
    calls: int = 0
    """Calls to Amplitude while the fault lasted."""
    observer: Observer = field(default_factory=Observer)
    broken: list[str] = field(default_factory=list)

    def promise(self, kept: bool, text: str) -> None:
        """Note a promise that was not kept."""
        if not kept:
            self.broken.append(text)

    def during(self, *kinds: Kind) -> list[Asked]:
        """Return what was asked while the fault lasted, and until all had to be whole again."""
        return [one for one in self.asked if self.began <= one.began < self.whole_from and one.kind in kinds]

    @property
    def whole_again(self) -> float:
        """Return the seconds from the fault's end to the last request after it that was not answered in full."""
        return max(
            (one.began - self.ended for one in self.asked if one.began > self.ended and not one.whole), default=0
        )


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
    _always(course, seen, {word}, refusals=name == "quota")
    course.promise(any(one.word for one in course.during("missed")), "the fault was felt (else this tells nothing)")


async def _redis(course: Course, running: ExitStack) -> None:
    sandbox, redis, service = _shared(running)
    async with course.observer, Load(service.port) as load:
        course.asked = load.asked
        await asyncio.sleep(BEFORE_SECONDS)
        course.began = time.monotonic()
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(REDIS_GONE_SECONDS)
        await asyncio.to_thread(redis.start)
        course.ended = time.monotonic()
        course.whole_from = course.ended + WHOLE_WITHIN_SECONDS
        await asyncio.sleep(WATCHED_SECONDS)
    _always(course, sandbox.seen(), {"quota_exhausted"})


async def _sigterm(course: Course, running: ExitStack) -> None:
    sandbox, _, service = _shared(running)
    async with course.observer, Load(service.port) as load:
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

    _always(course, seen, {"quota_exhausted", "upstream_timeout"}, excused=excused)
    _kept_in_redis(course, seen)
    twice = {user for user, times in Counter(user for _, user in seen.calls).items() if times > 1} - set(RENEWED)
    course.promise(not twice, f"what was sent is kept: {len(twice)} users were fetched again")


async def _kill(course: Course, running: ExitStack) -> None:
    sandbox, _, service = _shared(running)
    async with course.observer, Load(service.port) as load:
        course.asked = load.asked
        await asyncio.sleep(BEFORE_SECONDS)
        course.began = course.ended = time.monotonic()
        os.kill(service.workers()[0], signal.SIGKILL)
        course.whole_from = course.ended + WHOLE_WITHIN_SECONDS
        await asyncio.sleep(WATCHED_SECONDS + 5)
    seen = sandbox.seen()
    # What the killed worker was about to answer is lost with it; from then on its connections are known to be gone.
    _always(
        course,
        seen,
        {"quota_exhausted", "upstream_timeout"},
        excused=lambda one: one.status == "cut off" and -PATIENCE < one.began - course.began < CROSSING_SECONDS,
    )
    _kept_in_redis(course, seen)


def _shared(running: ExitStack) -> tuple[SandboxProcess, RedisServer, Service]:
    """Start two workers with Redis, before an Amplitude so slow that some call is always on its way."""
    sandbox = running.enter_context(SandboxProcess(per_minute=PER_MINUTE, latency=0.8))
    redis = running.enter_context(RedisServer())
    service = running.enter_context(Service(sandbox, REDIS_URL=redis.url, WEB_CONCURRENCY="2"))
    if (workers := len(service.workers())) != 2:
        print(f"  {workers} worker runs where 2 should", file=sys.stderr)
    return sandbox, redis, service


def _always(
    course: Course,
    seen: Seen,
    words: set[str],
    *,
    refusals: bool = False,
    excused: Callable[[Asked], bool] = lambda one: False,
) -> None:
    """Hold the run to what is promised whatever breaks. Who is `excused` need not have been answered."""
    course.calls = sum(course.began <= moment < course.ended for moment, _ in seen.calls)
    before = [one for one in course.asked if one.began < course.began - PATIENCE]
    course.promise(all(one.whole for one in before), "answers were whole before the fault (else this tells nothing)")
    unanswered = [one for one in course.asked if isinstance(one.status, str) and not excused(one)]
    course.promise(not unanswered, f"every request is answered: {_counted(one.status for one in unanswered)}")
    answered = [one for one in course.asked if isinstance(one.status, int)]
    odd = [one.status for one in answered if one.status != 200 and not (one.kind == "retried" and one.status == 500)]
    course.promise(not odd, f"200, or with retry 500: {_counted(odd)}")
    kept = [one for one in answered if one.kind in ("cached", "renewed") and not one.ok]
    course.promise(not kept, f"who is in the cache is answered from it: {_counted(one.word for one in kept)}")
    wrong = [one.word for one in course.asked if one.word and one.word not in words]
    course.promise(not wrong, f"no word but {' and '.join(sorted(words))}: {_counted(wrong)}")
    late = [one.took for one in answered if one.took > PATIENCE]
    course.promise(not late, f"no answer over {PATIENCE:g} s: {len(late)}")
    unwhole = [one for one in course.asked if one.began >= course.whole_from and not one.whole]
    course.promise(
        not unwhole, f"whole again {course.whole_from - course.ended:.0f} s after the end: {len(unwhole)} were not"
    )
    course.promise(seen.worst_minute <= PER_MINUTE, f"{seen.worst_minute} calls in a minute")
    course.promise(refusals or not seen.statuses.get(429), f"no 429: {seen.statuses.get(429)}")


def _kept_in_redis(course: Course, seen: Seen) -> None:
    again = {user for moment, user in seen.calls if moment > course.began and user in CACHED}
    course.promise(not again, f"what is in Redis outlives the process: {len(again)} users were fetched again")


def _counted(values: Iterable[object]) -> str:
    return ", ".join(f"{value}: {times}" for value, times in sorted(Counter(map(str, values)).items()))


RUNS: dict[str, Callable[[Course, ExitStack], Awaitable[None]]] = {
    **{name: lambda course, running: _upstream(course.name, course, running) for name in UPSTREAM},
    "redis": _redis,
    "sigterm": _sigterm,
    "kill": _kill,
}


def row(course: Course) -> list[str]:
    """Return a run's line of the table."""
    answers = [one for one in course.during("cached", "renewed", "missed", "retried") if isinstance(one.status, int)]
    missed = course.during("missed", "renewed")
    return [
        course.name,
        _counted(one.status for one in course.during("cached", "renewed", "missed") if isinstance(one.status, int)),
        _counted(one.status for one in course.during("retried") if isinstance(one.status, int)),
        _counted(one.status for one in course.asked if isinstance(one.status, str)),
        f"{sum(one.ok for one in missed)} of {len(missed)}",
        f"{course.calls}",
        _counted(one.word for one in course.during("missed", "renewed", "retried") if one.word),
        milliseconds(max((one.took for one in answers), default=0.0)),
        f"{course.whole_again:.1f} s",
        milliseconds(course.observer.lag) + (" (**too busy to tell**)" if course.observer.too_busy else ""),
    ]


HEAD = [
    "fault", "statuses, `default`", "statuses, `retry`", "unanswered", "answered though not in the cache",
    "calls while it lasted", "error words", "slowest", "whole again after", "generator late at p99",
]  # fmt: skip


def main() -> int:
    """Run the faults one after the other, print a table and what was broken, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(RUNS), action="append", help="only this fault; may be repeated")
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
