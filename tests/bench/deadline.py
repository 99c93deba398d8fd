"""Lets 1,000 callers wait for calls that hang, on a busy processor: `python -m tests.bench.deadline`.

wrk requests cached answers without a pause. Then 1,000 connections ask at once for data that is not cached, while
Amplitude hangs: in one case each for another user, in the other case all for one user. So all callers reach their
deadline at nearly the same time. The service is started for each run. The table has the seconds from request to answer
over all rounds, and the answers after Braze's limit of 2 seconds. "cores" is the processor time of the service in a
second. If other programs take most of the processor, the figures show that and not the service. Needs wrk.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean

from proxy.sandbox.faults import Fault
from tests.bench.load import TIMEOUT_SECONDS, Answer, command_line, connect, get_request, percentile, table
from tests.bench.processes import AUTHORIZATION, LONG_LIVED, SandboxProcess, Service, warm
from tests.bench.wrk import PATH, Wrk, known_users, raise_file_limit, require_wrk
from tests.support.redis_server import RedisServer
from tests.support.wait import until

CASES = {"different users": "caller-{}", "one user": "caller"}
"""The user id that each caller asks for, by case."""
BUSY_CONNECTIONS = 64
BUSY_BEFORE_SECONDS = 2.0
ANSWERED_WITHIN_SECONDS = 10.0


@dataclass
class Callers:
    """The callers of a case in all rounds. `seconds`: the time from request to answer of each caller."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    cores: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        """Return the figures of the table."""
        figures = [min(self.seconds), *(percentile(self.seconds, share) for share in (0.5, 0.99)), max(self.seconds)]
        return [
            *(f"{figure:.2f}" for figure in figures),
            str(sum(figure > TIMEOUT_SECONDS for figure in self.seconds)),
            ", ".join(f"{outcome}: {times}" for outcome, times in sorted(self.outcomes.items())),
            f"{mean(self.cores):.2f}",
        ]


HEAD = ["callers of", "workers", "first s", "p50 s", "p99 s", "last s", "over 2 s", "answers", "cores"]


async def ask(service: Service, count: int, user: str, callers: Callers) -> None:
    """Open `count` connections, send a request over each at once, and record the answers."""
    connections = [await connect(service.port) for _ in range(count)]
    await asyncio.sleep(BUSY_BEFORE_SECONDS)
    answers = []
    busy, began = service.processor_seconds(), time.monotonic()

    def record(sent: float, answer: asyncio.Future[Answer]) -> None:
        if answer.exception() is None:
            callers.seconds.append(time.monotonic() - sent)

    for number, connection in enumerate(connections):
        request = get_request(f"/v1/cohorts?user_id={user.format(number)}", f"Authorization: {AUTHORIZATION}")
        answers.append(connection.request(request))
        answers[-1].add_done_callback(partial(record, time.monotonic()))
    await asyncio.wait(answers, timeout=ANSWERED_WITHIN_SECONDS)
    callers.cores.append((service.processor_seconds() - busy) / (time.monotonic() - began))
    for answer in answers:
        if answer.done() and answer.exception() is None:
            callers.outcomes[json.loads(answer.result().body)["error"]] += 1
        else:
            callers.outcomes["unanswered"] += 1
    for connection in connections:
        connection.close()


async def ask_beside(wrk: Wrk, service: Service, count: int, user: str, callers: Callers) -> None:
    """Run `ask` while wrk keeps the processor busy."""
    seconds = round(BUSY_BEFORE_SECONDS + 2 * TIMEOUT_SECONDS)
    load = asyncio.to_thread(
        wrk.run, service.url, "another user each time", connections=BUSY_CONNECTIONS, seconds=seconds
    )
    await asyncio.gather(load, ask(service, count, user, callers))


def measure(wrk: Wrk, users: list[int], workers: int, redis: RedisServer, count: int, user: str, to: Callers) -> None:
    """Start the service with `workers` workers, and measure once."""
    variables = LONG_LIVED | {"LOG_LEVEL": "INFO"}
    if workers > 1:
        variables |= {"WEB_CONCURRENCY": str(workers), "REDIS_URL": redis.url}
    with SandboxProcess() as sandbox, Service(sandbox, **variables) as service:
        until(lambda: len(service.workers()) == workers, "the workers did not start")
        time.sleep(3 if workers > 1 else 0)  # until every worker serves, and may send calls
        warm(service.port, [f"{PATH}{number}" for number in users])
        wrk.run(service.url, "another user each time", connections=BUSY_CONNECTIONS, seconds=1)
        sandbox.break_with(Fault("hang", seconds=30))
        asyncio.run(ask_beside(wrk, service, count, user, to))


def main() -> None:
    """Run every case in each round, and print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--case", choices=list(CASES), action="append", help="may be repeated (default: all)")
    options = parser.parse_args()
    require_wrk()
    raise_file_limit()
    print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}", flush=True)
    users = list(itertools.islice(known_users(), 200))
    results = {key: Callers() for key in itertools.product(options.case or CASES, options.workers)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(RedisServer())
        wrk = Wrk(folder, users)
        for _ in range(options.rounds):
            for (case, workers), callers in results.items():
                measure(wrk, users, workers, redis, options.callers, CASES[case], callers)
    print(table(HEAD, [[case, str(workers), *callers.row()] for (case, workers), callers in results.items()]))


if __name__ == "__main__":
    main()
