"""gunicorn's worker classes under the connections of a Braze send: `python -m tests.bench.workers`.

The shipped worker and others take turns, round by round. Cached answers are requested 1,000 times a second over 1,000
and 2,000 connections; beside ten upstream calls a second that take 1.5 s, each awaited by nine callers; and beside
1,000 clients that send a byte of their headers now and then. Last, 64 connections ask as fast as they are answered.
Prints latencies and the service's processor time per answer, which other programs hardly change. Needs wrk.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.sandbox.faults import Fault
from tests.bench.load import Observer, command_line, get_request, offer, percentile, table
from tests.bench.processes import AUTHORIZATION, LASTING, SandboxProcess, Service, warm
from tests.bench.wrk import PATH, Wrk, known_users, require_wrk

SHIPPED = "shipped"
_ALIKE = ("--worker-connections", "4000", "--backlog", "4096", "--keep-alive", "100", "--no-control-socket")
WORKERS: dict[str, tuple[str, ...]] = {
    SHIPPED: (),
    "gevent": ("-c", os.devnull, "--worker-class", "gevent", *_ALIKE),
    "gthread": ("-c", os.devnull, "--worker-class", "gthread", "--threads", "208", *_ALIKE),
    "gevent_pywsgi": ("-c", os.devnull, "--worker-class", "gevent_pywsgi", *_ALIKE),
}
USUAL = [SHIPPED, "gevent", "gthread"]
RATE = 1000
LATENCY_SECONDS = 1.5
CALLERS_PER_MISS = 9


@dataclass(frozen=True)
class Case:
    """A load of cached answers, and what disturbs it. No connections: as fast as 64 connections are answered."""

    name: str
    connections: int = 0
    misses_a_second: int = 0
    slow_clients: int = 0


CASES = [
    Case("1,000 connections", 1000),
    Case("2,000 connections", 2000),
    Case("2,000, slow misses", 2000, misses_a_second=10 * CALLERS_PER_MISS),
    Case("1,000, slow clients", 1000, slow_clients=1000),
    Case("64, flat out"),
]


@contextlib.asynccontextmanager
async def slow_clients(port: int, count: int) -> AsyncIterator[None]:
    """Keep clients that send a byte of their headers every two seconds, and come again when they are cut off."""

    async def client(number: int) -> None:
        await asyncio.sleep(2 * number / count)
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /v1/cohorts?user_id=ava HTTP/1.1\r\nX-Slow: ")
                while not writer.is_closing():
                    await asyncio.sleep(2)
                    writer.write(b"x")
                    await writer.drain()

    tasks = [asyncio.create_task(client(number)) for number in range(count)]
    await asyncio.sleep(2 if count else 0)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Rounds:
    """The figures of one worker class in one case, round by round: milliseconds, answers, and microseconds."""

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    unanswered: int = 0


async def measure(service: Service, case: Case, users: list[int], seconds: int, misses: itertools.count[int]) -> Rounds:
    """Run one case and return its figures."""
    header = f"Authorization: {AUTHORIZATION}"
    before = service.processor_seconds()
    async with slow_clients(service.port, case.slow_clients):
        try:
            offered = await offer(
                service.port,
                (get_request(f"{PATH}{number}", header) for number in itertools.cycle(users)),
                (get_request(f"{PATH}{next(misses) // CALLERS_PER_MISS}", header) for _ in itertools.count()),
                rate=RATE,
                misses_a_second=case.misses_a_second,
                connections=case.connections,
                seconds=seconds,
            )
        except TimeoutError:
            return Rounds([float("inf")], [float("inf")], [0], [float("inf")], RATE * seconds)
    spent = 1e6 * (service.processor_seconds() - before)
    hits = offered.hits
    return Rounds(
        [percentile(hits, 0.5)],
        [percentile(hits, 0.99)],
        [len(hits) / seconds],
        [spent / max(1, len(hits))],
        offered.unanswered,
    )


def flat_out(service: Service, wrk: Wrk, seconds: int) -> Rounds:
    """Request cached answers over 64 connections as fast as they come."""
    before = service.processor_seconds()
    run = wrk.run(service.url, "other users", connections=64, seconds=seconds)
    spent = 1e6 * (service.processor_seconds() - before)
    return Rounds([run.p50], [run.p99], [run.rate], [spent / max(1, run.rate * seconds)], run.lost)


def main() -> None:
    """Run every case for every worker class in turn and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="in which the worker classes take turns")
    parser.add_argument("--seconds", type=int, default=5, help="of each case")
    parser.add_argument("--worker", choices=list(WORKERS), action="append", help=f"default: {', '.join(USUAL)}")
    options = parser.parse_args()
    workers = options.worker or USUAL
    require_wrk()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    users = list(itertools.islice(known_users(), 20))
    misses = itertools.count(10_000_000)
    results = {(case.name, worker): Rounds() for case in CASES for worker in workers}
    observers = []
    for number in range(options.rounds):
        for worker in workers if number % 2 else reversed(workers):
            gunicorn = ("--log-level", "critical", *WORKERS[worker])
            with (
                tempfile.TemporaryDirectory() as folder,
                SandboxProcess() as sandbox,
                Service(sandbox, options=gunicorn, **LASTING | {"LOG_LEVEL": "ERROR"}) as service,
            ):
                warm(service.port, [f"{PATH}{user}" for user in users])
                sandbox.break_with(Fault("slow", seconds=LATENCY_SECONDS))
                wrk = Wrk(Path(folder), users)

                async def observed(case: Case, service: Service = service) -> tuple[Observer, Rounds]:
                    async with Observer() as observer:
                        return observer, await measure(service, case, users, options.seconds, misses)

                for case in CASES:
                    if case.connections:
                        observer, measured = asyncio.run(observed(case))
                        observers.append(observer)
                        print(f"  {worker}, {case.name}: {observer}", file=sys.stderr, flush=True)
                    else:
                        measured = flat_out(service, wrk, options.seconds)
                    rounds = results[case.name, worker]
                    rounds.p50 += measured.p50
                    rounds.p99 += measured.p99
                    rounds.per_second += measured.per_second
                    rounds.microseconds += measured.microseconds
                    rounds.unanswered += measured.unanswered
    rows = []
    for (name, worker), rounds in results.items():
        row = [name, worker]
        for values in (rounds.p50, rounds.p99, rounds.per_second, rounds.microseconds):
            row.append(f"{statistics.median(values):.0f}")
        rows.append([*row, str(rounds.unanswered)])
    print(table(["case", "worker", "p50 ms", "p99 ms", "answers/s", "µs an answer", "unanswered"], rows))
    if any(observer.too_busy for observer in observers):
        sys.exit("The generator was late: the machine was too busy for these figures to count.")


if __name__ == "__main__":
    main()
