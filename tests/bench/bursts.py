"""Opens many connections at once to 1, 2 and 4 workers: `python -m tests.bench.bursts`.

Each connection requests cached answers without a pause. The services take turns in each round. The table has the
medians of the rounds, the slowest answer of all rounds, and the ratio of the p99 to the p99 of one worker in the same
round. Then the table shows how many connections each worker has, with idle connections and under load. Needs wrk.
"""

from __future__ import annotations

import itertools
import os
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from tests.bench.load import command_line, table
from tests.bench.processes import LONG_LIVED, SandboxProcess, Service, warm
from tests.bench.wrk import PATH, Run, Wrk, known_users, raise_file_limit, require_wrk
from tests.support.redis_server import RedisServer

IDLE = 200
"""The number of idle connections that are counted."""


def connections_per_worker(service: Service) -> list[int]:
    """Return the number of connections that each worker has accepted."""
    return [
        sum(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == service.port
            for connection in worker.net_connections("tcp")
        )
        for worker in service.workers()
    ]


def idle_connections_per_worker(service: Service) -> list[int]:
    """Open IDLE connections without a request, and return how many each worker has."""
    with ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
        time.sleep(1)
        return connections_per_worker(service)


def burst(wrk: Wrk, service: Service, connections: int, seconds: int) -> tuple[Run, list[int]]:
    """Run the load. Return its result, and the connections of each worker in the middle of the run."""
    busy: list[int] = []
    counter = threading.Timer(seconds / 2, lambda: busy.extend(connections_per_worker(service)))
    counter.start()
    run = wrk.run(service.url, "another user each time", connections=connections, seconds=seconds)
    counter.join()
    return run, busy


def main() -> None:
    """Start the services, measure, and print the tables."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="duration of each run")
    parser.add_argument("--connections", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="the first is the reference")
    options = parser.parse_args()
    require_wrk()
    raise_file_limit()
    print(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}", flush=True)
    users = list(itertools.islice(known_users(), 200))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(SandboxProcess())
        redis = stack.enter_context(RedisServer())
        services = {}
        for number in options.workers:
            variables = LONG_LIVED | {"WEB_CONCURRENCY": str(number), "REDIS_URL": redis.url}
            services[number] = stack.enter_context(Service(sandbox, options=("--log-level", "error"), **variables))
        wrk = Wrk(folder, users)
        for number, service in services.items():
            while len(service.workers()) < number:
                time.sleep(0.1)
            time.sleep(3)  # until every worker serves, and may send calls
            warm(service.port, [f"{PATH}{user}" for user in users])
            wrk.run(service.url, "another user each time", connections=64, seconds=3)  # fills the memory of each worker
        runs: dict[tuple[int, int], list[Run]] = {key: [] for key in itertools.product(options.connections, services)}
        counts: dict[tuple[int, int], list[list[int]]] = {
            key: [] for key in itertools.product((0, *options.connections), services)
        }
        for round_number in range(options.rounds):
            for number in list(services)[:: 1 if round_number % 2 else -1]:
                counts[0, number].append(idle_connections_per_worker(services[number]))
                for connections in options.connections:
                    run, busy = burst(wrk, services[number], connections, options.seconds)
                    runs[connections, number].append(run)
                    counts[connections, number].append(busy)
        rows = []
        for (connections, number), of_case in runs.items():
            first = runs[connections, options.workers[0]]
            ratios = [run.p99 / other.p99 for run, other in zip(of_case, first, strict=True)]
            figures = [median(run.rate for run in of_case), median(run.p50 for run in of_case)]
            figures += [median(run.p99 for run in of_case), max(run.slowest for run in of_case)]
            lost = sum(run.lost for run in of_case)
            row = [f"{connections:,}", str(number), *(f"{figure:,.0f}" for figure in figures)]
            rows.append([*row, f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})", str(lost)])
        head = ["connections", "workers", "answers/s", "p50 ms", "p99 ms", "slowest ms", "p99 / first", "lost"]
        print(f"\n{table(head, rows)}\n")
        rows = [
            [f"{connections:,} busy" if connections else f"{IDLE} idle", str(number), "; ".join(map(str, of_case))]
            for (connections, number), of_case in counts.items()
        ]
        print(table(["connections", "workers", "connections of each worker, by round"], rows))


if __name__ == "__main__":
    main()
