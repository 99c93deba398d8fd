"""Measures the installation of a snapshot: `python -m tests.bench.snapshots`.

The service has the shipped configuration with two workers and Redis. A first snapshot is replaced by a second one of
the same size, while clients request 100 cached answers a second.
"""

from __future__ import annotations

import threading
import time
import timeit
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import requests
from redis import Redis

from proxy.monitoring.clock import SYSTEM_CLOCK
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity
from proxy.profile.query import ProfileQuery
from proxy.profile.snapshot import MAX_MEMBERS, SnapshotBuilder
from proxy.storage.id_digests import UNKEYED
from proxy.storage.memory import MemoryStore
from tests.bench.load import command_line
from tests.bench.processes import LONG_LIVED, SandboxProcess, Service
from tests.bench.webhooks import cached_answers
from tests.support.redis_server import RedisServer
from tests.support.service import SECRET

_HEADERS = {"X-API-Key": SECRET}
_MIB = 2**20
_QUIET_SECONDS = 2.0
"""Every process answers from the new snapshot if no old answer came for so long."""


@contextmanager
def peak_memory(processes: list[psutil.Process]) -> Iterator[list[int]]:
    """Measure the maximum memory of each process in bytes."""
    peaks = [0] * len(processes)
    stop = threading.Event()

    def measure() -> None:
        while not stop.wait(0.02):
            for number, process in enumerate(processes):
                peaks[number] = max(peaks[number], process.memory_info().rss)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()


def install(url: str, body: bytes, marker: str) -> float:
    """Upload a snapshot. Return the seconds until every process answers that `marker` is a member."""
    began = time.perf_counter()
    headers = {**_HEADERS, "Content-Type": "application/x-ndjson"}
    answer = requests.put(f"{url}/v1/snapshots/c31", data=body, headers=headers, timeout=600)
    assert answer.status_code == 200, answer.text
    last_old = time.perf_counter()
    while time.perf_counter() < last_old + _QUIET_SECONDS:  # each request has a new connection, to any process
        asked_at = time.perf_counter()
        question = f"{url}/v1/cohorts?user_id={marker}&cohort_id=c31"
        if not requests.get(question, headers=_HEADERS, timeout=10).json()["is_member"]:
            last_old = asked_at
    return last_old - began


def lookup_microseconds(members: int) -> float:
    """Return the time of one lookup in a snapshot, including the digest of the id."""
    store = MemoryStore(max_bytes=_MIB, policy=FreshnessPolicy(900, 60, pushed=86400), clock=SYSTEM_CLOCK)
    builder = SnapshotBuilder()
    for number in range(members):
        builder.add(UNKEYED.member(f"user-{number}"))
    store.install_snapshot("c31", builder.build(SYSTEM_CLOCK.now()))
    query, now = ProfileQuery(("cohorts",), cohort_ids=("c31",)), SYSTEM_CLOCK.now()
    identities = iter([Identity(f"user-{number * 7}", None) for number in range(200_000)] * 5)
    times = timeit.repeat(
        lambda: store.snapshots.memberships(next(identities), query, now),
        number=200_000,
        repeat=5,
        timer=time.process_time,  # other processes do not count
    )
    return min(times) / 200_000 * 1e6


def main() -> None:
    """Print the measurements as a table."""
    parser = command_line(__doc__)
    parser.add_argument("--members", type=int, default=MAX_MEMBERS, help="number of members of a snapshot")
    members = parser.parse_args().members
    bodies = [b"".join(b'"user-%d"\n' % number for number in range(first, first + members)) for first in (0, 1)]
    with (
        SandboxProcess() as sandbox,
        RedisServer() as redis,
        Redis.from_url(redis.url) as connection,
        Service(sandbox, WEB_CONCURRENCY="2", REDIS_URL=redis.url, **LONG_LIVED) as service,
    ):
        for number in range(20):
            requests.get(f"{service.url}/v1/cohorts?user_id=user-{number + 1}", headers=_HEADERS, timeout=10)
        workers, redis_before = service.workers(), connection.info()["used_memory"]
        before = [process.memory_info().rss for process in workers]
        first = install(service.url, bodies[0], "user-0")
        with_one = [process.memory_info().rss for process in workers]
        with cached_answers(service.port) as times, peak_memory(workers) as peaks:
            time.sleep(2)
            quiet = len(times)
            second = install(service.url, bodies[1], f"user-{members}")
        after = [process.memory_info().rss for process in workers]
        redis_bytes = connection.info()["used_memory"] - redis_before
        stored = sum(connection.memory_usage(key, samples=0) for key in connection.keys("*snapshot*"))

    def more(values: list[int]) -> str:
        return ", ".join(f"{(value - old) / _MIB:.0f}" for value, old in zip(values, before, strict=True))

    rows = {
        "first install, until every process answers from it": f"{first:.1f} s",
        "replacement, with cached answers at the same time": f"{second:.1f} s",
        "memory per process before": ", ".join(f"{value / _MIB:.0f}" for value in before) + " MiB",
        "in addition with one snapshot": f"{more(with_one)} MiB",
        "in addition at most during the replacement": f"{more(peaks)} MiB",
        "in addition after the replacement": f"{more(after)} MiB",
        "Redis": f"{stored / _MIB:.1f} MiB, {redis_bytes / _MIB:.1f} MiB more than before",
        "lookup": f"{lookup_microseconds(members):.2f} microseconds",
        "longest cached answer before": f"{max(times[:quiet]) * 1000:.0f} ms",
        "longest cached answer during the replacement": f"{max(times[quiet:]) * 1000:.0f} ms",
    }
    print(f"A snapshot of {members:,} members:")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
