"""Compares cached answers with Flask, FastAPI, bare WSGI and nginx: `python -m tests.bench.hot_path`.

All servers return the same bytes and headers under the shipped configuration. The request log is off unless stated. The
servers take turns in each round, and the table has the medians of the ratios per round, because the speed of a machine
varies. Prints a table for 64 and for 1,000 connections, then latencies at a fixed rate while Amplitude is slow.

With "another user and query each time", no earlier request had the same parameters, so only the record is cached. With
"from Redis", the memory cache is too small for the users. The FastAPI view checks one header and runs under uvicorn
with uvloop and httptools. pip installs them into a temporary virtual environment, or --fastapi names the Python of an
existing one. Takes twelve minutes and needs wrk.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from proxy.sandbox.faults import Fault
from tests.bench import fastapi_reference, reference_servers
from tests.bench.load import command_line, get_request, offer, percentile, table
from tests.bench.processes import AUTHORIZATION, LONG_LIVED, SandboxProcess, Service, get_all, warm
from tests.bench.wrk import PATH, Kind, Run, Wrk, known_users, raise_file_limit, require_wrk
from tests.support.redis_server import RedisServer
from tests.support.service import environment, free_port, start
from tests.support.wait import until

QUIET = ("--log-level", "error")
FLASK, FASTAPI, RAW, NGINX = "Flask view", "FastAPI view", "bare WSGI", "nginx"
REDIS = "service, from Redis"
BUSY_PERCENT = 10
SPREAD = 0.3


def main() -> None:
    """Start and warm all servers, measure, and print each table at once."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="duration of each run")
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
        urls = {"service": service.url, **_start_references(stack, folder, sandbox, service, paths)}
        python = options.fastapi or fastapi_reference.install(folder / "fastapi")
        urls[FASTAPI] = _start_fastapi(stack, folder, python, service.port, paths[0])
        before = sandbox.calls()
        busy: list[float] = []
        spread = []
        for connections in options.connections:
            runs = _run_all(Wrk(folder, users), urls, busy, connections, options.rounds, options.seconds)
            _print_table(runs, connections)
            rates = [run.rate for run in runs[FLASK, "same URL"]]
            spread.append((max(rates) - min(rates)) / median(rates))
        if calls := sandbox.calls() - before:
            print_now(f"\nSome answers were not cached: the runs cost {calls} calls to Amplitude")
        _print_latencies(sandbox, {"service": service.url, FLASK: urls[FLASK]}, users)
    print_now(f"\nProcessor use between runs: {median(busy):.0f} %. Variation of the Flask view: {max(spread):.0%}.")
    if median(busy) > BUSY_PERCENT or max(spread) > SPREAD:
        print_now("The machine was too busy, so these figures are invalid.")


def _start_references(
    stack: ExitStack, folder: Path, sandbox: SandboxProcess, service: Service, paths: list[str]
) -> dict[str, str]:
    """Start and warm the other servers. Return their URLs by name."""
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
    urls = {"service, with the log line": logging.url, REDIS: small.url}
    for name, app in ((FLASK, "flask_app()"), (RAW, "RawApp()")):
        reference = stack.enter_context(
            Service(sandbox, app=f"tests.bench.reference_servers:{app}", options=QUIET, **answer)
        )
        other, other_body = next(get_all(reference.port, paths[:1]))
        if other_body != body or {*other.headers} != {*response.headers}:
            raise RuntimeError(f"the answer of {name} differs from the answer of the service: {other.getheaders()}")
        urls[name] = reference.url
    if shutil.which("nginx"):
        port = free_port()
        process = start(reference_servers.nginx(folder, port, service.url), port, folder / "nginx.log")
        stack.callback(process.wait)
        stack.callback(process.terminate)
        warm(port, paths)
        urls[NGINX] = f"http://127.0.0.1:{port}"
    return urls


def _start_fastapi(stack: ExitStack, folder: Path, python: Path, service_port: int, path: str) -> str:
    """Start the FastAPI view. Return its URL."""
    port, log = free_port(), folder / "fastapi.log"
    variables = {fastapi_reference.ANSWER: str(folder / "answer.json"), fastapi_reference.KEY: AUTHORIZATION}
    process = start(fastapi_reference.command(python, port), port, log, environment(**variables))
    stack.callback(process.wait)
    stack.callback(process.terminate)
    (_, expected), *_ = get_all(service_port, [path])
    (_, body), *_ = get_all(port, [path])
    if body != expected:
        raise RuntimeError(f"the answer of {FASTAPI} differs from the answer of the service: {body[:200]!r}")
    return f"http://127.0.0.1:{port}"


def _run_all(
    wrk: Wrk, urls: dict[str, str], busy: list[float], connections: int, rounds: int, seconds: int
) -> dict[tuple[str, Kind], list[Run]]:
    """Run each kind of load on each server in each round. Return the runs by server and kind."""
    cases: list[tuple[str, Kind]] = [(name, "same URL") for name in urls if name != REDIS]
    cases += [(name, "another user and query each time") for name in urls]
    cases.append(("service", "another user each time"))
    runs: dict[tuple[str, Kind], list[Run]] = {case: [] for case in cases}
    for number in range(rounds + 1):
        if number:
            used = psutil.cpu_times_percent(0.5)
            busy.append(100 - used.idle - used.iowait)
        for name, kind in cases:
            run = wrk.run(urls[name], kind, connections=connections, seconds=seconds if number else 1)
            if number:  # the first round is a warm-up
                runs[name, kind].append(run)
    return runs


def _print_table(runs: dict[tuple[str, Kind], list[Run]], connections: int) -> None:
    references = [name for name in (FLASK, FASTAPI, RAW, NGINX) if (name, "same URL") in runs]
    rows = []
    for (name, kind), case_runs in runs.items():
        rate, p50, p99 = (median(values) for values in zip(*((r.rate, r.p50, r.p99) for r in case_runs), strict=True))
        row = [name, kind, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", str(sum(run.lost for run in case_runs))]
        for reference in references:
            of_reference = runs[reference, "same URL" if kind == "same URL" else "another user and query each time"]
            ratios = [run.rate / other.rate for run, other in zip(case_runs, of_reference, strict=True)]
            row.append(f"{median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})")
        rows.append(row)
    print_now(f"\n{connections} connections\n")
    print_now(
        table(
            [
                "server",
                "requests",
                "answers/s",
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
