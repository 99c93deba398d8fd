"""Breaks Amplitude, Redis and the service under load: `python -m tests.bench.faults [--only hang]`.

The load has requests for cached users, new users (with and without retries), and requests with `no-cache`. The emulated
Amplitude has each fault for 30 seconds. Redis and the service are stopped and started, and a worker is killed. Takes
ten minutes. Prints a table, then each broken promise. Exit code 1: a promise was broken.

An answer is complete if it has status 200, `ok: true` and fresh data. "complete again after" is the time from the end
of the fault to the last incomplete answer.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from proxy.sandbox.faults import Fault
from proxy.sandbox.user_data import Documented
from tests.bench.load import TIMEOUT_SECONDS, Observer, command_line, milliseconds, table
from tests.bench.processes import Report, SandboxProcess, Service
from tests.bench.steady import CACHED, RENEWED, Kind, Load, Outcome
from tests.support.redis_server import RedisServer

PER_MINUTE = 600
BEFORE_SECONDS = 5.0
REDIS_STOPPED_SECONDS = 70.0  # a minute without calls, then ten seconds with a part of the quota
WATCHED_SECONDS = 15.0
COMPLETE_WITHIN_SECONDS = 10.0
COMPLETE_AFTER_PAUSE_SECONDS = 5.0
RETRY_AFTER = 12  # of the emulated Amplitude's 429; so the last pause ends after the fault
CROSSING_SECONDS = 0.05  # a request sent within this time before its connection is closed may stay unanswered
UPSTREAM = {
    "hang": (Fault("hang", seconds=30), "upstream_timeout"),
    "drip-body": (Fault("drip-body", seconds=30), "upstream_timeout"),
    "drip-headers": (Fault("drip-headers", seconds=30), "upstream_timeout"),
    "reset": (Fault("reset"), "upstream_unavailable"),
    "status-500": (Fault("status", status=500), "upstream_unavailable"),
    "quota": (Fault("quota"), "quota_exhausted"),
    "broken-json": (Fault("broken-json"), "upstream_invalid"),
}


@dataclass
class Run:
    """A fault under load: its start and end, and the time after which every answer must be complete."""

    name: str
    seconds: float
    """Duration of Amplitude's fault."""
    outcomes: list[Outcome] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0
    complete_from: float = 0.0
    calls: int = 0
    """Calls to Amplitude during the fault."""
    observer: Observer = field(default_factory=Observer)
    broken: list[str] = field(default_factory=list)

    def promise(self, is_kept: bool, text: str) -> None:
        """Record a promise that is broken."""
        if not is_kept:
            self.broken.append(text)

    def during(self, *kinds: Kind) -> list[Outcome]:
        """Return the outcomes from the start of the fault until all answers must be complete again."""
        return [
            outcome
            for outcome in self.outcomes
            if self.began <= outcome.began < self.complete_from and outcome.kind in kinds
        ]

    def end(self) -> None:
        """Record the end of the fault."""
        self.ended = time.monotonic()
        self.complete_from = self.ended + COMPLETE_WITHIN_SECONDS

    def check(
        self,
        report: Report,
        errors: set[str],
        *,
        refusals: bool = False,
        excused: Callable[[Outcome], bool] = lambda outcome: False,
    ) -> None:
        """Check the promises for every fault.

        refusals: Amplitude may answer 429. excused: whether a request may stay unanswered.
        """
        self.calls = sum(self.began <= moment < self.ended for moment, _ in report.calls)
        before = [outcome for outcome in self.outcomes if outcome.began < self.began - TIMEOUT_SECONDS]
        self.promise(all(outcome.complete for outcome in before), "all answers are complete before the fault")
        unanswered = [outcome for outcome in self.outcomes if isinstance(outcome.status, str) and not excused(outcome)]
        self.promise(not unanswered, f"every request is answered: {_counts(outcome.status for outcome in unanswered)}")
        answered = [outcome for outcome in self.outcomes if isinstance(outcome.status, int)]
        allowed = {"retried": (200, 500)}
        unexpected = [outcome.status for outcome in answered if outcome.status not in allowed.get(outcome.kind, (200,))]
        self.promise(not unexpected, f"the status is 200, or 500 with on_error=retry: {_counts(unexpected)}")
        missing = [outcome.error for outcome in answered if outcome.kind in ("cached", "renewed") and not outcome.ok]
        self.promise(not missing, f"cached users are answered from the cache: {_counts(missing)}")
        wrong = [outcome.error for outcome in self.outcomes if outcome.error and outcome.error not in errors]
        self.promise(not wrong, f"no error except {' and '.join(sorted(errors))}: {_counts(wrong)}")
        late = sum(outcome.seconds > TIMEOUT_SECONDS for outcome in answered)
        self.promise(not late, f"no answer over {TIMEOUT_SECONDS:g} s: {late}")
        incomplete = sum(outcome.began >= self.complete_from and not outcome.complete for outcome in self.outcomes)
        after = self.complete_from - self.ended
        self.promise(not incomplete, f"answers are complete {after:.0f} s after the end: {incomplete} were incomplete")
        self.promise(
            report.worst_minute <= PER_MINUTE, f"at most {PER_MINUTE} calls in a minute: {report.worst_minute}"
        )
        self.promise(refusals or not report.statuses.get(429), f"no 429: {report.statuses.get(429)}")

    def check_redis(self, report: Report) -> None:
        """Check that data in Redis is used after a process ends."""
        refetched = {user for moment, user in report.calls if moment > self.began and user in CACHED}
        self.promise(not refetched, f"data in Redis is used after a restart: {len(refetched)} users were fetched again")

    def row(self) -> list[str]:
        """Return the row of the table."""
        during = self.during("cached", "renewed", "missed", "retried")
        answers = [outcome for outcome in during if isinstance(outcome.status, int)]
        not_cached = self.during("missed", "renewed")
        after = (
            outcome.began - self.ended
            for outcome in self.outcomes
            if outcome.began > self.ended and not outcome.complete
        )
        return [
            self.name,
            _counts(outcome.status for outcome in answers if outcome.kind != "retried"),
            _counts(outcome.status for outcome in answers if outcome.kind == "retried"),
            _counts(outcome.status for outcome in self.outcomes if isinstance(outcome.status, str)),
            f"{sum(outcome.ok for outcome in not_cached)} of {len(not_cached)}",
            f"{self.calls}",
            _counts(outcome.error for outcome in during if outcome.kind != "cached" and outcome.error),
            milliseconds(max((outcome.seconds for outcome in answers), default=0.0)),
            f"{max(after, default=0):.1f} s",
            milliseconds(self.observer.lag) + " (**too busy**)" * self.observer.too_busy,
        ]


HEAD = [
    "fault", "statuses, `default`", "statuses, `retry`", "unanswered", "complete answers without cached data",
    "calls during the fault", "errors", "slowest answer", "complete again after", "generator delay, p99",
]  # fmt: skip


def _counts(values: Iterable[object]) -> str:
    return ", ".join(f"{value}: {times}" for value, times in sorted(Counter(map(str, values)).items()))


async def _upstream(run: Run, running: ExitStack) -> None:
    documented = Documented(retry_after=RETRY_AFTER)
    sandbox = running.enter_context(SandboxProcess(per_minute=PER_MINUTE, latency=0.15, documented=documented))
    service = running.enter_context(Service(sandbox))
    fault, error = UPSTREAM[run.name]
    async with run.observer, Load(service.port) as load:
        run.outcomes = load.outcomes
        await asyncio.sleep(BEFORE_SECONDS)
        run.began = time.monotonic()
        sandbox.break_with(fault)
        await asyncio.sleep(run.seconds)
        sandbox.break_with(None)
        run.end()
        if run.name == "quota":
            last = max(moment for moment, _ in sandbox.report().calls if moment < run.ended)
            run.complete_from = max(run.ended, last + RETRY_AFTER + 0.15) + COMPLETE_AFTER_PAUSE_SECONDS
        await asyncio.sleep(run.complete_from - run.ended + WATCHED_SECONDS - COMPLETE_WITHIN_SECONDS)
    run.check(sandbox.report(), {error}, refusals=run.name == "quota")
    run.promise(any(outcome.error for outcome in run.during("missed")), "the fault had an effect")


async def _redis(run: Run, running: ExitStack) -> None:
    sandbox, redis, service = _two_workers(run, running)
    async with run.observer, Load(service.port, _pids(service)) as load:
        run.outcomes = load.outcomes
        await asyncio.sleep(BEFORE_SECONDS)
        run.began = time.monotonic()
        await asyncio.to_thread(redis.stop)
        await asyncio.sleep(REDIS_STOPPED_SECONDS)
        await asyncio.to_thread(redis.start)
        run.end()
        await asyncio.sleep(WATCHED_SECONDS)
    run.check(sandbox.report(), {"quota_exhausted"})


async def _sigterm(run: Run, running: ExitStack) -> None:
    sandbox, _, service = _two_workers(run, running)
    async with run.observer, Load(service.port, _pids(service)) as load:
        run.outcomes = load.outcomes
        await asyncio.sleep(BEFORE_SECONDS)
        run.began = time.monotonic()
        await asyncio.to_thread(service.stop)
        stopped = time.monotonic()
        await asyncio.to_thread(service.start)
        run.end()
        recent = {
            outcome.user
            for outcome in load.outcomes
            if outcome.kind == "missed" and run.began - 3 < outcome.began < stopped
        }
        await asyncio.gather(*(load.request("missed", user, "profile") for user in recent))
        await asyncio.sleep(WATCHED_SECONDS)
    report = sandbox.report()
    print(f"  the service ended {stopped - run.began:.1f} s after the signal", file=sys.stderr)

    def excused(outcome: Outcome) -> bool:
        # After the signal, the service may refuse connections. It still answers requests on open connections.
        if outcome.status == "refused":
            return run.began <= outcome.began <= run.ended
        return abs(outcome.began - run.began) < CROSSING_SECONDS or -CROSSING_SECONDS < outcome.began - stopped < 0

    run.check(report, {"quota_exhausted", "upstream_timeout"}, excused=excused)
    run.check_redis(report)
    refetched = {user for user, times in Counter(user for _, user in report.calls).items() if times > 1} - set(RENEWED)
    run.promise(not refetched, f"answers to calls in flight are stored: {len(refetched)} users were fetched again")


async def _kill(run: Run, running: ExitStack) -> None:
    sandbox, _, service = _two_workers(run, running)
    async with run.observer, Load(service.port, _pids(service)) as load:
        run.outcomes = load.outcomes
        await asyncio.sleep(BEFORE_SECONDS)
        run.began = time.monotonic()
        service.workers()[0].kill()
        run.end()
        run.ended = run.began
        await asyncio.sleep(WATCHED_SECONDS + 5)
    report = sandbox.report()
    # The killed worker answers no requests, including requests sent before the client sees the closed connection.
    run.check(
        report,
        {"quota_exhausted", "upstream_timeout"},
        excused=lambda outcome: (
            outcome.status == "closed" and -TIMEOUT_SECONDS < outcome.began - run.began < CROSSING_SECONDS
        ),
    )
    run.check_redis(report)


def _two_workers(run: Run, running: ExitStack) -> tuple[SandboxProcess, RedisServer, Service]:
    """Start two workers with Redis, and a slow Amplitude, so that a call is always in flight."""
    sandbox = running.enter_context(SandboxProcess(per_minute=PER_MINUTE, latency=0.8))
    redis = running.enter_context(RedisServer())
    service = running.enter_context(Service(sandbox, REDIS_URL=redis.url, WEB_CONCURRENCY="2"))
    run.promise(len(service.workers()) == 2, f"two workers run with Redis: {len(service.workers())}")
    return sandbox, redis, service


def _pids(service: Service) -> list[int]:
    return [worker.pid for worker in service.workers()]


RUNS: dict[str, Callable[[Run, ExitStack], Awaitable[None]]] = {
    **dict.fromkeys(UPSTREAM, _upstream),
    "redis": _redis,
    "sigterm": _sigterm,
    "kill": _kill,
}


async def _run(run: Run, running: ExitStack) -> None:
    await RUNS[run.name](run, running)


def main() -> int:
    """Run the faults one after another, print a table and the broken promises, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--only", choices=list(RUNS), action="append", help="may be repeated (default: all)")
    parser.add_argument("--seconds", type=float, default=30, help="duration of Amplitude's fault")
    options = parser.parse_args()
    runs = [Run(name, options.seconds) for name in options.only or RUNS]
    for run in runs:
        print(f"{run.name}:", file=sys.stderr, flush=True)
        with ExitStack() as running:
            asyncio.run(_run(run, running))
    print(table(HEAD, [run.row() for run in runs]))
    for run in runs:
        for promise in run.broken:
            print(f"\nBROKEN, {run.name}: {promise}")
    return 1 if any(run.broken for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
