"""Compares cached answers with Flask, FastAPI, bare WSGI and nginx: `python -m tests.bench.hot_path`.

All servers return the same bytes and headers under the shipped configuration. The request log is off unless stated. The
servers take turns in each short round. The table has the medians of the rounds, because the speed of a machine varies.
The ratios compare the processor time of an answer with the other server's in the same round: 2 means half the time.
Prints a table for 64 and for 1,000 connections, then latencies at a fixed rate while Amplitude is slow.

With "another user and query each time", no earlier request had the same parameters, so only the record is cached. With
"from Redis", the memory cache is too small for the users. The FastAPI view checks one header and runs under uvicorn
with uvloop and httptools. pip installs them into a temporary virtual environment, or --fastapi names the Python of an
existing one. Takes fifteen minutes and needs wrk.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import psutil

from proxy.sandbox.faults import Fault
from tests.bench import fastapi_reference, reference_servers
from tests.bench.load import command_line, get_request, offer, percentile, table
from tests.bench.processes import AUTHORIZATION, LONG_LIVED, SandboxProcess, Service, get_all, processor_seconds, warm
from tests.bench.wrk import PATH, Kind, Run, Wrk, known_users, raise_file_limit, require_wrk
from tests.support.redis_server import RedisServer
from tests.support.service import environment, free_port, start
from tests.support.wait import until

QUIET = ("--log-level", "error")
FLASK, FASTAPI, RAW, NGINX = "Flask view", "FastAPI view", "bare WSGI", "nginx"
LOGGING = "service, with the log line"
REDIS = "service, from Redis"
SAME: Kind = "same URL"
USER: Kind = "another user each time"
QUERY: Kind = "another user and query each time"
BUSY_PERCENT = 10
SPREAD = 0.3
"""The maximum interquartile range of the Flask view's processor time, divided by the median."""


class Server(NamedTuple):
    """A running server. `processor_seconds`: returns the processor time that its processes have used."""

    url: str
    processor_seconds: Callable[[], float]


class Measured(NamedTuple):
    """A run, and the processor time of each answer in microseconds."""

    run: Run
    microseconds: float


def main() -> None:
    """Start and warm all servers, measure, and print each table at once."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=1, help="duration of each run")
    parser.add_argument("--users", type=int, default=10_000, help="number of warmed users")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 1000])
    parser.add_argument("--fastapi", type=Path, help="a Python with fastapi, uvicorn, uvloop and httptools")
    options = parser.parse_args()
    require_wrk()
    raise_file_limit()
    print_now(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hot_path.")))
        folder.chmod(0o755)  # nginx's worker may run as another user
        sandbox = stack.enter_context(SandboxProcess())
        users = list(itertools.islice(known_users(), options.users))
        paths = [f"{PATH}{number}" for number in users]
        service = stack.enter_context(Service(sandbox, options=QUIET, **LONG_LIVED))
        print_now(f"first answer {service.seconds_to_start:.2f} s after the start; warming the cache")
        warm(service.port, paths)
        servers = {"service": Server(service.url, service.processor_seconds)}
        servers |= _start_references(stack, folder, sandbox, service, paths)
        python = options.fastapi or fastapi_reference.install(folder / "fastapi")
        servers[FASTAPI] = _start_fastapi(stack, folder, python, service.port, paths[0])
        before = sandbox.calls()
        busy: list[float] = []
        spread = []
        for connections in options.connections:
            runs = _run_all(Wrk(folder, users), servers, busy, connections, options.rounds, options.seconds)
            _print_table(runs, connections)
            lower, middle, upper = quantiles([each.microseconds for each in runs[FLASK, SAME]], n=4)
            spread.append((upper - lower) / middle)
        if calls := sandbox.calls() - before:
            print_now(f"\nSome answers were not cached: the runs cost {calls} calls to Amplitude")
        _print_latencies(sandbox, {name: servers[name].url for name in ("service", FLASK)}, users)
    print_now(f"\nProcessor use between runs: {median(busy):.0f} %. Variation of the Flask view: {max(spread):.0%}.")
    if median(busy) > BUSY_PERCENT or max(spread) > SPREAD:
        print_now("The machine was too busy, so these figures are invalid.")


def _start_references(
    stack: ExitStack, folder: Path, sandbox: SandboxProcess, service: Service, paths: list[str]
) -> dict[str, Server]:
    """Start and warm the other servers. Return them by name."""
    logging = stack.enter_context(Service(sandbox, options=QUIET, **LONG_LIVED | {"LOG_LEVEL": "INFO"}))
    warm(logging.port, paths)
    redis = stack.enter_context(RedisServer())
    small = stack.enter_context(Service(sandbox, options=QUIET, **LONG_LIVED, REDIS_URL=redis.url, CACHE_MAX_MB="1"))
    # After a start of Redis, the service sends no call until all processes have had time to report their calls.
    until(lambda: json.loads(next(get_all(small.port, paths[:1]))[1])["ok"], "no call is allowed with Redis")
    warm(small.port, paths)
    response, body = next(get_all(service.port, paths[:1]))
    reference_servers.save_answer(folder / "answer.json", response.getheaders(), body)
    print_now(f"answers of {len(body)} bytes")
    answer = LONG_LIVED | {reference_servers.ANSWER: str(folder / "answer.json")}
    servers = {
        LOGGING: Server(logging.url, logging.processor_seconds),
        REDIS: Server(small.url, small.processor_seconds),
    }
    for name, app in ((FLASK, "flask_app()"), (RAW, "RawApp()")):
        reference = stack.enter_context(
            Service(sandbox, app=f"tests.bench.reference_servers:{app}", options=QUIET, **answer)
        )
        other, other_body = next(get_all(reference.port, paths[:1]))
        if other_body != body or {*other.headers} != {*response.headers}:
            raise RuntimeError(f"the answer of {name} differs from the answer of the service: {other.getheaders()}")
        servers[name] = Server(reference.url, reference.processor_seconds)
    if shutil.which("nginx"):
        port = free_port()
        process = start(reference_servers.nginx(folder, port, service.url), port, folder / "nginx.log")
        servers[NGINX] = _server(stack, process, port)
        warm(port, paths)
    return servers


def _server(stack: ExitStack, process: subprocess.Popen[bytes], port: int) -> Server:
    """Return the server that `process` runs, and stop it with `stack`."""
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return Server(f"http://127.0.0.1:{port}", partial(processor_seconds, psutil.Process(process.pid)))


def _start_fastapi(stack: ExitStack, folder: Path, python: Path, service_port: int, path: str) -> Server:
    """Start the FastAPI view."""
    port, log = free_port(), folder / "fastapi.log"
    variables = {fastapi_reference.ANSWER: str(folder / "answer.json"), fastapi_reference.KEY: AUTHORIZATION}
    server = _server(stack, start(fastapi_reference.command(python, port), port, log, environment(**variables)), port)
    (_, expected), *_ = get_all(service_port, [path])
    (_, body), *_ = get_all(port, [path])
    if body != expected:
        raise RuntimeError(f"the answer of {FASTAPI} differs from the answer of the service: {body[:200]!r}")
    return server


def _run_all(
    wrk: Wrk, servers: dict[str, Server], busy: list[float], connections: int, rounds: int, seconds: int
) -> dict[tuple[str, Kind], list[Measured]]:
    """Run each kind of load on each server in each round. Return the runs by server and kind."""
    cases: list[tuple[str, Kind]] = [(name, SAME) for name in servers if name != REDIS]
    cases += [*((name, USER) for name in servers), ("service", QUERY)]
    runs: dict[tuple[str, Kind], list[Measured]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        if number:
            used = psutil.cpu_times_percent(0.5)
            busy.append(100 - used.idle - used.iowait)
        for name, kind in random.sample(cases, len(cases)):
            url, processor_seconds = servers[name]
            before = processor_seconds()
            run = wrk.run(url, kind, connections=connections, seconds=seconds)
            if number:  # the first round is a warm-up
                used_seconds = processor_seconds() - before
                runs[name, kind].append(Measured(run, used_seconds / (run.rate * seconds) * 1e6))
    return runs


def _print_table(runs: dict[tuple[str, Kind], list[Measured]], connections: int) -> None:
    references = [name for name in (FLASK, FASTAPI, RAW, NGINX) if (name, SAME) in runs]
    rows = []
    for (name, kind), case_runs in runs.items():
        figures = ((each.run.rate, each.microseconds, each.run.p50, each.run.p99) for each in case_runs)
        rate, microseconds, p50, p99 = (median(values) for values in zip(*figures, strict=True))
        row = [name, kind, f"{rate:,.0f}", f"{microseconds:.0f}", f"{p50:.1f}", f"{p99:.1f}"]
        row.append(str(sum(each.run.lost for each in case_runs)))
        for reference in references:
            of_reference = runs[reference, SAME if kind == SAME else USER]
            pairs = zip(case_runs, of_reference, strict=True)
            lower, middle, upper = quantiles([other.microseconds / each.microseconds for each, other in pairs], n=4)
            row.append(f"{middle:.2f} ({lower:.2f}-{upper:.2f})")
        rows.append(row)
    print_now(f"\n{connections} connections\n")
    print_now(
        table(
            [
                "server",
                "requests",
                "answers/s",
                "processor µs",
                "p50 ms",
                "p99 ms",
                "lost connections",
                *(f"/ {name}" for name in references),
            ],
            rows,
        )
    )


def _print_latencies(sandbox: SandboxProcess, urls: dict[str, str], users: list[int]) -> None:
    """Send cached requests at a fixed rate, and requests that wait 1.5 s for Amplitude. Print the latencies."""
    print_now("\n1,000 cached requests/s over 2,000 connections for 20 s; the service also gets 10 misses/s\n")
    sandbox.break_with(Fault("slow", seconds=1.5))
    header = f"Authorization: {AUTHORIZATION}"
    rows = []
    for name, url in urls.items():
        offered = asyncio.run(
            offer(
                int(url.rpartition(":")[2]),
                (get_request(f"{PATH}{number}", header) for number in itertools.cycle(users)),
                (get_request(f"{PATH}{number}", header) for number in known_users(10_000_000)),
                rate=1000,
                misses_a_second=10 if name == "service" else 0,
                connections=2000,
                seconds=20,
            )
        )
        hits = offered.hits
        figures = [percentile(hits, 0.5), percentile(hits, 0.99), max(hits), max(offered.misses, default=0)]
        figures.append(percentile(offered.late, 0.99))
        rows.append([name, *(f"{figure:.1f}" for figure in figures), str(offered.unanswered)])
    head = ["server", "cached p50 ms", "p99", "maximum", "not cached maximum", "generator delay p99", "unanswered"]
    print_now(table(head, rows))


def print_now(text: str) -> None:
    """Print without buffering."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
