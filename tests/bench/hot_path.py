"""Throughput of cached answers beside a Flask view, a bare WSGI function and nginx: `python -m tests.bench.hot_path`.

All of them return the same bytes and headers under the shipped configuration, without a log line unless stated. They
are loaded in turn, round after round, and the medians of each round's ratios count: a machine that slows down slows all
of them. Prints a table for 64 and for 1,000 connections, then latencies at a fixed rate while Amplitude is slow.

"Other users, new query" has parameters that nobody sent before, so only the record helps. "From Redis" has a memory
cache too small for the users. Takes eleven minutes and needs wrk.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import resource
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import psutil

from proxy.sandbox.faults import Fault
from tests.bench import reference_servers
from tests.bench.load import command_line, get_request, offer, percentile, table
from tests.bench.processes import AUTHORIZATION, LASTING, SandboxProcess, Service, get_all, warm
from tests.bench.wrk import PATH, Kind, Run, Wrk, known_users, require_wrk
from tests.support.redis_server import RedisServer
from tests.support.service import free_port, start
from tests.support.wait import until

QUIET = ("--log-level", "error")
FLASK, RAW, NGINX = "Flask view", "bare WSGI", "nginx"
REDIS = "service, from Redis"
BUSY_PERCENT = 10
SPREAD = 0.3


def main() -> None:
    """Start and warm everything, measure, and print each part as soon as it is known."""
    parser = command_line(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each run")
    parser.add_argument("--users", type=int, default=10_000, help="warmed")
    options = parser.parse_args()
    require_wrk()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    say(f"{os.cpu_count()} processors, load average {os.getloadavg()[0]:.1f}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hot_path.")))
        folder.chmod(0o755)  # nginx' worker may be another user
        sandbox = stack.enter_context(SandboxProcess())
        users = list(itertools.islice(known_users(), options.users))
        paths = [f"{PATH}{number}" for number in users]
        service = stack.enter_context(Service(sandbox, options=QUIET, **LASTING))
        say(f"first answer {service.seconds_to_start:.2f} s after the start; warming")
        warm(service.port, paths)
        urls = {"service": service.url, **_others(stack, folder, sandbox, service, paths)}
        before = sandbox.calls()
        busy: list[float] = []
        spread = []
        for connections in (64, 1000):
            runs = _runs(Wrk(folder, users), urls, busy, connections, options.rounds, options.seconds)
            _show(runs, connections)
            rates = [run.rate for run in runs[FLASK, "same user"]]
            spread.append((max(rates) - min(rates)) / median(rates))
        if calls := sandbox.calls() - before:
            say(f"\nNot all of these were cached answers: they cost {calls} calls to Amplitude")
        _offer(sandbox, {"service": service.url, FLASK: urls[FLASK]}, users)
    say(f"\nProcessors busy between runs: {median(busy):.0f} %; the Flask view varied by {max(spread):.0%}.")
    if median(busy) > BUSY_PERCENT or max(spread) > SPREAD:
        say("The machine was too noisy for these figures to count.")


def _others(
    stack: ExitStack, folder: Path, sandbox: SandboxProcess, service: Service, paths: list[str]
) -> dict[str, str]:
    """Start and warm everything else; return the URLs by name."""
    logging = stack.enter_context(Service(sandbox, options=QUIET, **LASTING | {"LOG_LEVEL": "INFO"}))
    warm(logging.port, paths)
    redis = stack.enter_context(RedisServer())
    small = stack.enter_context(Service(sandbox, options=QUIET, **LASTING, REDIS_URL=redis.url, CACHE_MAX_MB="1"))
    # After Redis has started, no call is sent until every process had time to report its own.
    until(lambda: json.loads(next(get_all(small.port, paths[:1]))[1])["ok"], "no call is allowed with Redis")
    warm(small.port, paths)
    response, body = next(get_all(service.port, paths[:1]))
    reference_servers.save_answer(folder / "answer.json", response.getheaders(), body)
    say(f"answers of {len(body)} bytes")
    answer = LASTING | {reference_servers.ANSWER: str(folder / "answer.json")}
    urls = {"service, log line on": logging.url, REDIS: small.url}
    for name, app in ((FLASK, "flask_app()"), (RAW, "RawApp()")):
        reference = stack.enter_context(
            Service(sandbox, app=f"tests.bench.reference_servers:{app}", options=QUIET, **answer)
        )
        other, other_body = next(get_all(reference.port, paths[:1]))
        if other_body != body or {*other.headers} != {*response.headers}:
            raise RuntimeError(f"{name} differs from the service: {other.getheaders()}")
        urls[name] = reference.url
    if shutil.which("nginx"):
        port = free_port()
        process = start(reference_servers.nginx(folder, port, service.url), port, folder / "nginx.log")
        stack.callback(process.wait)
        stack.callback(process.terminate)
        warm(port, paths)
        urls[NGINX] = f"http://127.0.0.1:{port}"
    return urls


def _runs(
    wrk: Wrk, urls: dict[str, str], busy: list[float], connections: int, rounds: int, seconds: int
) -> dict[tuple[str, Kind], list[Run]]:
    """Load each server in each way, again and again, and return the runs of each."""
    chosen: list[tuple[str, Kind]] = [(name, "same user") for name in urls if name != REDIS]
    chosen += [(name, "other users, new query") for name in urls]
    chosen.append(("service", "other users"))
    runs: dict[tuple[str, Kind], list[Run]] = {case: [] for case in chosen}
    for number in range(rounds + 1):
        if number:
            used = psutil.cpu_times_percent(0.5)
            busy.append(100 - used.idle - used.iowait)
        for name, kind in chosen:
            run = wrk.run(urls[name], kind, connections=connections, seconds=seconds if number else 1)
            if number:  # the first round only warms up
                runs[name, kind].append(run)
    return runs


def _show(runs: dict[tuple[str, Kind], list[Run]], connections: int) -> None:
    references = [name for name in (FLASK, RAW, NGINX) if (name, "same user") in runs]
    rows = []
    for (name, kind), measured in runs.items():
        rate, p50, p99 = (median(values) for values in zip(*((r.rate, r.p50, r.p99) for r in measured), strict=True))
        row = [name, kind, f"{rate:,.0f}", f"{p50:.1f}", f"{p99:.1f}", str(sum(run.lost for run in measured))]
        for reference in references:
            of_reference = runs[reference, "same user" if kind == "same user" else "other users, new query"]
            ratios = [run.rate / other.rate for run, other in zip(measured, of_reference, strict=True)]
            row.append(f"{median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})")
        rows.append(row)
    say(f"\n{connections} connections\n")
    say(table(["", "", "requests/s", "p50 ms", "p99 ms", "lost", *(f"/ {name}" for name in references)], rows))


def _offer(sandbox: SandboxProcess, urls: dict[str, str], users: list[int]) -> None:
    """Offer a fixed rate of hits, with misses beside them for which Amplitude takes 1.5 s."""
    say("\n1,000 requests/s over 2,000 connections for 20 s; the service also answers ten misses a second\n")
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
    head = ["", "hits p50 ms", "p99", "max", "misses max", "generator late p99", "unanswered"]
    say(table(head, rows))


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
