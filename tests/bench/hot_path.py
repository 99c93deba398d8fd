"""The cached answer beside what the stack itself costs: one command, no setting, some ten minutes.

    .venv/bin/python -m tests.bench.hot_path

Starts the sandbox and the service under its shipped configuration, and under the same configuration a Flask view and
a bare WSGI function that return the same bytes and headers, and nginx with `proxy_cache` where it is installed. No
access log in any of them; what the service's own line a request costs is a row of its own. All are loaded in turn,
round after round, and what counts are the medians of each round's ratios: a machine that slows down slows all of them.

The service is asked for the same URL again; for a different warmed user every time, in a way in which nobody asked of
that user before, so that nothing but the kept record can help; and for users whom only Redis knows, because there are
many more of them than its memory holds. Then it is offered a fixed rate while Amplitude is slow. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import median

from proxy.settings import Settings
from tests.bench import references, weight
from tests.bench.machine import Quiet
from tests.bench.offered import offer, percentile
from tests.bench.running import AUTHORIZATION, Processes, Running, ask, break_with, calls, warm
from tests.bench.wrk import AGAIN, ASK, NEW, SAME, Load, Run, known_users
from tests.conftest import free_port

USERS = 10_000
CONNECTIONS = (64, 1000)
SERVICE, LOGGING, REDIS = "service", "service, log line on", "service, from Redis"
WRITTEN = "service, asked so before"
FLASK, RAW, NGINX = "Flask view", "raw WSGI", "nginx"

Targets = Mapping[str, tuple[Running, str]]
"""By name: what is loaded, and how."""


def main() -> None:
    """Measure, and print what was measured, each part as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each run")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed: apt-get install wrk")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    quiet = Quiet()
    quiet.listen()
    say(f"{os.cpu_count()} processors, load average {quiet.load:.1f}; {options.rounds} rounds of {options.seconds:g} s")
    with tempfile.TemporaryDirectory(prefix="hot_path.") as name, Processes(Path(name)) as processes:
        folder = Path(name)
        folder.chmod(0o755)  # nginx' worker may be another user
        sandbox = processes.sandbox()
        users = list(itertools.islice(known_users(), USERS))
        paths = [f"{ASK}{number}" for number in users]

        service = processes.gunicorn("wsgi:app", sandbox)
        growth = weight.growth(service, paths)
        targets = started(folder, processes, sandbox, service, paths)
        load = Load(folder, users, AUTHORIZATION)
        reference = []
        before = calls(sandbox)
        for connections in CONNECTIONS:
            for title, some in (
                ("The same URL again", (SERVICE, LOGGING, FLASK, RAW, NGINX)),
                ("A different user every time", (SERVICE, LOGGING, WRITTEN, REDIS, FLASK, RAW, NGINX)),
            ):
                kind = SAME if title.startswith("The same") else NEW
                chosen = {one: (targets[one], AGAIN if one == WRITTEN else kind) for one in some if one in targets}
                say(f"\n{title}, {connections} connections")
                runs = in_turn(load, chosen, quiet, connections, options.rounds, options.seconds)
                show(runs)
                reference.append([run.rate for run in runs[FLASK]])
        if spent := calls(sandbox) - before:
            say(f"\nNot all of these were cached answers: they cost {spent} calls to Amplitude")
        say("")
        weight.show(processes, sandbox, growth, paths)
        offered(sandbox, service, targets[FLASK], users)
        if doubts := quiet.doubts(reference):
            say("\nThe machine was too noisy to tell: " + "; ".join(doubts))
        else:
            say("\nThe machine was quiet, by its load, its idle time between runs and the Flask view's own spread.")


def started(
    folder: Path, processes: Processes, sandbox: Running, service: Running, paths: list[str]
) -> dict[str, Running]:
    """Start everything that the warmed `service` is compared with, itself in other settings included."""
    say("starting and warming what it is compared with")
    logging = processes.gunicorn("wsgi:app", sandbox, LOG_LEVEL="INFO")
    warm(logging.port, paths)
    hit = next(ask(service.port, paths[:1]))
    answer = folder / "answer.json"
    references.keep(answer, hit.headers, hit.body)
    prepared = {references.ANSWER: str(answer), "GUNICORN_CMD_ARGS": "--worker-class tests.bench.bare.Worker"}
    targets = {
        SERVICE: service,
        LOGGING: logging,
        WRITTEN: service,
        FLASK: processes.gunicorn("tests.bench.references:flask_app()", sandbox, **prepared),
        RAW: processes.gunicorn("tests.bench.references:raw_app()", sandbox, **prepared),
    }
    say(f"answers of {len(hit.body)} bytes and {len(hit.headers)} headers")
    if "redis_url" in {one.name for one in fields(Settings)}:
        redis = processes.redis()
        few = processes.gunicorn("wsgi:app", sandbox, REDIS_URL=redis, CACHE_MAX_MB="1")
        settle(few, paths[:1])
        warm(few.port, paths)
        targets[REDIS] = few
    else:
        say("no row for users whom only Redis knows: the service has no REDIS_URL")
    if shutil.which("nginx"):
        port = free_port()
        targets[NGINX] = processes.start(references.nginx(folder, port, service.url, AUTHORIZATION), port)
        warm(port, paths)
        if next(ask(port, paths[-1:])).headers["X-Cache"] != "HIT":
            raise RuntimeError("nginx does not answer from its cache")
    else:
        say("no row for nginx: apt-get install nginx")
    for name in (FLASK, RAW):
        got = next(ask(targets[name].port, paths[:1]))
        if got.body != hit.body or {*got.headers} != {*hit.headers}:
            raise RuntimeError(f"{name} answers otherwise than the service: {got.headers}")
    return targets


def settle(service: Running, path: Sequence[str]) -> None:
    """Return when a new Redis lets calls go: first all who share it may say what they have sent."""
    until = time.monotonic() + 10
    while not json.loads(next(ask(service.port, path)).body)["ok"]:
        if time.monotonic() > until:
            raise RuntimeError("no call may go since Redis is there")
        time.sleep(0.2)


def in_turn(
    load: Load, targets: Targets, quiet: Quiet, connections: int, rounds: int, seconds: float
) -> dict[str, list[Run]]:
    """Load one target after the other, again and again, and return the runs of each."""
    for running, kind in targets.values():
        load.run(running.url, kind, connections=connections, seconds=1)
    runs: dict[str, list[Run]] = {name: [] for name in targets}
    for _ in range(rounds):
        quiet.listen()
        for name, (running, kind) in targets.items():
            runs[name].append(load.run(running.url, kind, connections=connections, seconds=seconds))
    return runs


def show(runs: Mapping[str, list[Run]]) -> None:
    """Print a row a target: medians, and its rate by that of each reference."""
    beside = [name for name in (FLASK, RAW, NGINX) if name in runs]
    heads = "".join(f"{'/ ' + name:>20}" for name in beside)
    say(f"  {'':26}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'lost':>6}{heads}")
    for name, some in runs.items():
        rate, p50, p99 = (
            median(values) for values in zip(*((one.rate, one.p50, one.p99) for one in some), strict=True)
        )
        row = f"  {name:26}{rate:11,.0f}{p50:9.1f}{p99:9.1f}{sum(one.lost for one in some):6}"
        for reference in beside:
            ratios = [one.rate / other.rate for one, other in zip(some, runs[reference], strict=True)]
            row += f"{median(ratios):>8.3f} {f'({min(ratios):.2f}-{max(ratios):.2f})':>11}"
        say(row)


def offered(sandbox: Running, service: Running, flask: Running, users: list[int]) -> None:
    """Offer a fixed rate of hits over many connections, with misses beside them for which Amplitude takes 1.5 s."""
    head = f" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {AUTHORIZATION}\r\n\r\n"
    say("\n1,000 requests/s offered over 2,000 connections for 20 s, ten calls of 1.5 s a second")
    break_with(sandbox, "kind=slow&seconds=1.5")
    for name, running, misses_a_second in ((SERVICE, service, 10), (FLASK, flask, 0)):
        told = asyncio.run(
            offer(
                running.port,
                hits=(f"GET {ASK}{number}{head}".encode() for number in itertools.cycle(users)),
                misses=(f"GET {ASK}{number}{head}".encode() for number in known_users(10_000_000)),
                rate=1000,
                misses_a_second=misses_a_second,
                connections=2000,
                seconds=20,
            )
        )
        say(
            f"  {name:26}hits: p50 {percentile(told.hits, 0.5):.1f} ms, p99 {percentile(told.hits, 0.99):.1f} ms,"
            f" max {max(told.hits):.0f} ms; "
            + (f"misses: max {max(told.misses):.0f} ms; " if told.misses else "")
            + f"unanswered {told.unanswered}; generator late by p99 {percentile(told.late, 0.99):.1f} ms"
        )
    break_with(sandbox, None)


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


if __name__ == "__main__":
    main()
