"""Compares gunicorn's worker classes under the load of a Braze send: `python -m tests.bench.workers`.

The worker classes take turns in each round. Clients request 1,000 cached answers a second over 1,000 and 2,000
connections. One case adds ten upstream calls a second that take 1.5 s, with nine callers waiting for each. Another case
adds 1,000 clients that send their headers slowly. The last case has 64 connections at full speed. Prints latencies, and
the processor time per answer, which hardly depends on other programs. Needs wrk.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.sandbox.faults import Fault
from tests.bench.load import Observer, command_line, get_request, offer, percentile, table
from tests.bench.processes import AUTHORIZATION, LONG_LIVED, SandboxProcess, Service, warm
from tests.bench.wrk import PATH, Wrk, known_users, raise_file_limit, require_wrk

SHIPPED = "shipped"
_COMMON_OPTIONS = ("--worker-connections", "4000", "--backlog", "4096", "--keep-alive", "100", "--no-control-socket")
WORKERS: dict[str, tuple[str, ...]] = {
    SHIPPED: (),
    "gevent": ("-c", os.devnull, "--worker-class", "gevent", *_COMMON_OPTIONS),
    "gthread": ("-c", os.devnull, "--worker-class", "gthread", "--threads", "208", *_COMMON_OPTIONS),
    "gevent_pywsgi": ("-c", os.devnull, "--worker-class", "gevent_pywsgi", *_COMMON_OPTIONS),
}
DEFAULT_WORKERS = [SHIPPED, "gevent", "gthread"]
RATE = 1000
LATENCY_SECONDS = 1.5
CALLERS_PER_MISS = 9


@dataclass(frozen=True)
class Case:
    """A load of cached answers with a disturbance. Zero `connections`: 64 connections at full speed."""

    name: str
    connections: int = 0
    misses_a_second: int = 0
    slow_clients: int = 0


CASES = [
    Case("1,000 requests/s over 1,000 connections", 1000),
    Case("1,000 requests/s over 2,000 connections", 2000),
    Case("beside 90 requests/s that wait for calls of 1.5 s", 2000, misses_a_second=10 * CALLERS_PER_MISS),
    Case("beside 1,000 slow clients", 1000, slow_clients=1000),
    Case("64 connections at full speed"),
]


@contextlib.asynccontextmanager
async def slow_clients(port: int, count: int) -> AsyncIterator[None]:
    """Run clients that send a byte of their headers every two seconds, and reconnect if they are disconnected."""

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
    """The figures of a worker class in a case, one entry per round.

    p50 and p99 are in milliseconds; microseconds is the processor time per answer.
    """

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    unanswered: int = 0


async def measure(service: Service, case: Case, users: list[int], seconds: int, misses: itertools.count[int]) -> Rounds:
    """Run a case, and return its figures."""
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


def full_speed(service: Service, wrk: Wrk, seconds: int) -> Rounds:
    """Request cached answers over 64 connections at full speed."""
    before = service.processor_seconds()
    run = wrk.run(service.url, "another user each time", connections=64, seconds=seconds)
    spent = 1e6 * (service.processor_seconds() - before)
    return Rounds([run.p50], [run.p99], [run.rate], [spent / max(1, run.rate * seconds)], run.lost)


def main() -> None:
    """Run every case for every worker class in turn, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--seconds", type=int, default=5, help="duration of each case")
    parser.add_argument(
        "--worker", choices=list(WORKERS), action="append", help=f"default: {', '.join(DEFAULT_WORKERS)}"
    )
    options = parser.parse_args()
    workers = options.worker or DEFAULT_WORKERS
    require_wrk()
    raise_file_limit()
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
                Service(sandbox, options=gunicorn, **LONG_LIVED | {"LOG_LEVEL": "ERROR"}) as service,
            ):
                warm(service.port, [f"{PATH}{user}" for user in users])
                sandbox.break_with(Fault("slow", seconds=LATENCY_SECONDS))
                wrk = Wrk(Path(folder), users)

                async def observe(case: Case, service: Service = service) -> tuple[Observer, Rounds]:
                    async with Observer() as observer:
                        return observer, await measure(service, case, users, options.seconds, misses)

                for case in CASES:
                    if case.connections:
                        observer, figures = asyncio.run(observe(case))
                        observers.append(observer)
                        print(f"  {worker}, {case.name}: {observer}", file=sys.stderr, flush=True)
                    else:
                        figures = full_speed(service, wrk, options.seconds)
                    rounds = results[case.name, worker]
                    rounds.p50 += figures.p50
                    rounds.p99 += figures.p99
                    rounds.per_second += figures.per_second
                    rounds.microseconds += figures.microseconds
                    rounds.unanswered += figures.unanswered
    rows = []
    for (name, worker), rounds in results.items():
        row = [name, worker]
        for values in (rounds.p50, rounds.p99, rounds.per_second, rounds.microseconds):
            row.append(f"{statistics.median(values):.0f}")
        rows.append([*row, str(rounds.unanswered)])
    print(table(["case", "worker", "p50 ms", "p99 ms", "answers/s", "µs per answer", "unanswered"], rows))
    if any(observer.too_busy for observer in observers):
        sys.exit("The machine was too busy and the generator too slow, so these figures are invalid.")


if __name__ == "__main__":
    main()
