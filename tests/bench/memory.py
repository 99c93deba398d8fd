"""Measures the memory of the cache: `python -m tests.bench.memory`, or of Redis: `… redis`, `… eviction`.

Stores a million profiles of the emulated Amplitude in the application's store. Then requests profiles over HTTP,
several times as many as fit into the cache. Prints bytes per profile and the growth of the processes. Exit code 1:
memory grew by more than CACHE_MAX_MB and 32 MiB (for the allocator, threads and connections).

`redis` stores profiles and pushed properties of several sizes in a real Redis, and prints its memory for 100,000 users.
`eviction` fills a Redis of 10 MB under each policy, and prints what the policy does to the quota and to `forget`.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import redis

from proxy.amplitude.calls import plan_calls, split_response
from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter
from proxy.app import create_app
from proxy.monitoring.clock import SYSTEM_CLOCK
from proxy.profile import encoding, updates
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.json import write_json
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, recommendation
from proxy.profile.record import CachedPart, Record
from proxy.sandbox.people import find
from proxy.sandbox.user_data import Documented, user_data
from proxy.settings import Settings
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient
from proxy.storage.redis.profiles import RedisProfiles
from proxy.storage.redis.updates import RedisUpdates
from proxy.storage.tiered import TieredStore
from proxy.web.services import services
from tests.bench.load import Connections, command_line, table
from tests.bench.processes import AUTHORIZATION, UNLIMITED, SandboxProcess, Service
from tests.bench.wrk import PATH
from tests.support.redis_server import RedisServer
from tests.support.service import KEYS
from tests.support.wait import until

SLACK_MIB = 32
MIB = 2**20
CONNECTIONS = 32
PREFIX = b"ccp2:0123456789ab:"
POLICY = FreshnessPolicy(fresh=900, negative=60, stale_while_revalidate=900, stale_if_error=86_400)
PROFILES = {"small": (10, 5, 0), "medium": (40, 20, 1), "large": (200, 100, 3)}
"""The numbers of properties, cohorts and recommendations of 10 items. Properties have four types."""
POLICIES = ("noeviction", "allkeys-lru", "volatile-lfu", "volatile-ttl", "allkeys-random")
_CALL = plan_calls([recommendation("homepage"), PROPERTIES, COHORTS])[0]


def _store(cache_max_mb: int) -> TieredStore:
    required = {"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": KEYS}
    app = create_app(Settings.from_env(required | {"CACHE_MAX_MB": str(cache_max_mb)}))
    with app.app_context():
        return services().store


def _record(user_id: str) -> Record:
    """Return the record of a user after one call."""
    now = time.time()
    person = find(user_id, None)
    if person is None:
        return Record(unknown_at=now)
    response = user_data(person, _CALL.parameters(Identity(user_id, None)), Documented())
    values, _ = split_response(_CALL, response)
    parts = {part: CachedPart(encoding.write(value), now) for part, value in values.items()}
    return Record(parts, None, response["user_id"], response["device_id"])


def fill_store(users: int, cache_max_mb: int) -> tuple[list[list[str]], float]:
    """Store distinct users. Return the rows of the table, and the growth of this process in MiB."""
    process = psutil.Process()
    store = _store(cache_max_mb)
    at_rest = process.memory_info().rss
    profile_bytes = cached = 0
    for number in range(1, users + 1):
        record = _record(f"user-{number}")
        profile_bytes += sum(len(write_json(encoding.read(part.value))) for part in record.parts.values())
        store.memory.merge(Identity(f"user-{number}", None), record)
        if number % max(1, users // 20) == 0:
            print(f"  {number:,} users, {process.memory_info().rss / MIB:.0f} MiB", file=sys.stderr, flush=True)
    # The store evicts the least recently used users, so the cached users are the newest.
    while cached < users and store.memory.read(Identity(f"user-{users - cached}", None)) != Record():
        cached += 1
    size = store.memory.size
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - at_rest) / MIB
    rows = [
        ["distinct users", f"{users:,}"],
        ["JSON per profile", f"{profile_bytes / users:,.0f} bytes"],
        ["counted per profile", f"{size / cached:,.0f} bytes"],
        ["… with 2,800 bytes of JSON", f"{size / cached + 2800 - profile_bytes / users:,.0f} bytes"],
        ["resident memory per profile", f"{(process.memory_info().rss - at_rest) / cached:,.0f} bytes"],
        ["cached profiles", f"{cached:,} in {size / MIB:.1f} MiB"],
        ["profiles per 64 MiB", f"{cached * 64 * MIB / size:,.0f}"],
        ["maximum growth", f"{grown:.0f} MiB (limit: CACHE_MAX_MB={cache_max_mb} and {SLACK_MIB} MiB)"],
    ]
    return rows, grown


async def _request_all(service: Service, users: int) -> int:
    """Request each user once. Return the maximum memory of the service in bytes."""
    connections = Connections(service.port, f"Authorization: {AUTHORIZATION}")
    maximum = 0
    numbers = iter(range(1, users + 1))

    async def request() -> None:
        nonlocal maximum
        for number in numbers:
            answer = await connections.get(f"{PATH}{number}")
            if answer.status != 200 or b'"ok":true' not in answer.body:
                sys.exit(f"the answer for user-{number} is incomplete: {answer}")
            if number % max(1, users // 20) == 0:
                maximum = max(maximum, await asyncio.to_thread(service.memory))

    await asyncio.gather(*(request() for _ in range(CONNECTIONS)))
    connections.close()
    return maximum


def fill_service(users: int, cache_max_mb: int) -> tuple[list[list[str]], float]:
    """Request distinct users from the service. Return the rows of the table, and the growth of the service in MiB."""
    settings = {"AMPLITUDE_REQUESTS_PER_MINUTE": str(UNLIMITED), "CACHE_MAX_MB": str(cache_max_mb)}
    with SandboxProcess() as sandbox, Service(sandbox, **settings) as service:
        at_rest = service.memory()
        maximum = asyncio.run(_request_all(service, users))
    grown = (maximum - at_rest) / MIB
    rows = [
        ["over HTTP: distinct users", f"{users:,}"],
        ["over HTTP: memory of all processes at the start", f"{at_rest / MIB:.0f} MiB"],
        ["over HTTP: maximum growth", f"{grown:.0f} MiB (limit: CACHE_MAX_MB={cache_max_mb} and {SLACK_MIB} MiB)"],
    ]
    return rows, grown


def _properties(random: Random, count: int) -> dict[str, Any]:
    """Return properties with the names of every user and with random values."""
    kinds, subjects = ("last", "total", "favourite", "average"), ("order", "visit", "store", "device", "campaign")
    makers = (
        lambda: f"{random.getrandbits(64):x}",
        lambda: f"2026-{random.randint(1, 12):02}-{random.randint(1, 28):02}T{random.randint(0, 23):02}:00:00Z",
        lambda: random.randrange(100_000),
        lambda: random.random() < 0.5,
    )
    return {
        f"{kinds[index % 4]} {subjects[index % 5]} {index}": makers[index % len(makers)]() for index in range(count)
    }


def _profile(number: int, size: str, now: float) -> Record:
    """Return the record of a user. Amplitude's answer has the ids of the user and of a device."""
    properties, cohorts, recommendations = PROFILES[size]
    random = Random(number)  # noqa: S311  # repeatable
    values = _properties(random, properties)
    parts: dict[Any, Any] = {PROPERTIES: values, COHORTS: [f"{random.getrandbits(40):010x}" for _ in range(cohorts)]}
    for index in range(recommendations):
        items = [f"product-{random.randrange(100_000)}" for _ in range(10)]
        parts[recommendation(f"rec-{index}")] = {"rec_id": f"rec-{index}", "items": items, "is_control": False}
    cached = {part: CachedPart(encoding.write(value), now) for part, value in parts.items()}
    return Record(cached, None, f"user-{number}", f"device-{number}")


@contextmanager
def _empty_server() -> Iterator[tuple[RedisServer, str, Any]]:
    """Yield a server, the folder of its RDB file, and a connection."""
    with TemporaryDirectory() as folder, RedisServer({"dir": folder}) as server, redis.Redis(port=server.port) as db:
        yield server, folder, db


def _per_100_000(operator: Any, folder: str, users: int, json_bytes: float, at_rest: int) -> list[str]:
    memory = operator.info("memory")["used_memory"] - at_rest
    operator.save()
    disk = Path(folder, "dump.rdb").stat().st_size
    scale = 100_000 / users / MIB
    return [f"{json_bytes / users:,.0f} bytes", f"{memory * scale:,.0f} MiB", f"{disk * scale:,.0f} MiB"]


def fill_redis(users: int) -> list[list[str]]:
    """Store users of each size in an empty Redis. Return the rows of the table."""
    rows = []
    for size, (properties, cohorts, recommendations) in PROFILES.items():
        with (
            TemporaryDirectory() as folder,
            RedisServer({"dir": folder}) as server,
            redis.Redis(port=server.port) as db,
        ):
            client = RedisClient(server.url)
            records = RedisProfiles(client, PREFIX, POLICY, longest=8)

            def store(number: int, size: str = size, records: RedisProfiles = records) -> int:
                record = _profile(number, size, time.time())
                records.save(Identity(f"user-{number}", None), record, [], time.time())
                return sum(len(write_json(encoding.read(part.value))) for part in record.parts.values())

            with ThreadPoolExecutor(4) as pool:
                list(pool.map(store, range(-100, 0)))  # connections and scripts
                at_rest = db.info("memory")["used_memory"]
                json_bytes = sum(pool.map(store, range(users)))
            profile = f"{size}: {properties} properties, {cohorts} cohorts, {recommendations} recommendations"
            rows.append([profile, *_per_100_000(db, folder, users, json_bytes, at_rest)])
            client.stop()
    with _empty_server() as (server, folder, db):
        client = RedisClient(server.url)
        pushed = RedisUpdates(client, PREFIX, kept_for=POLICY.updates_usable_for)
        values: dict[str, bytes] = {}
        at_rest = db.info("memory")["used_memory"]
        for start in range(0, users, 500):
            now = time.time()
            batch = []
            for number in range(start, start + 500):
                random = Random(number)  # noqa: S311  # repeatable
                values = {name: write_json(value) for name, value in _properties(random, 20).items()}
                batch.append((f"user-{number}", updates.properties(values, now)))
            pushed.save(batch, now)
        json_bytes = users * sum(len(write_json(name)) + len(value) for name, value in values.items())
        rows.append(["pushed by a webhook: 20 properties", *_per_100_000(db, folder, users, json_bytes, at_rest)])
        client.stop()
    return rows


def evict(policy: str, users: int) -> list[str]:
    """Store more users than fit into a Redis of 10 MB. Return the row of the table."""
    directives = {"maxmemory": "10mb", "maxmemory-policy": policy}
    with RedisServer(directives) as server, redis.Redis(port=server.port) as operator:
        client = RedisClient(server.url)
        records = RedisProfiles(client, PREFIX, POLICY, longest=8)
        quota = FallbackRateLimiter(client, PREFIX, 600, clock=SYSTEM_CLOCK, longest=8)
        client.set_registration(quota.register)
        client.start()
        until(lambda: quota.reserve(0), "no call could be reserved")
        for number in range(1000):
            records.forget(Identity(f"forgotten-{number}", None))
        epochs, refused = {quota.epoch}, 0
        for number in range(users):
            try:
                records.save(Identity(f"user-{number}", None), _profile(number, "large", time.time()), [], time.time())
            except RedisUnavailable:
                refused += 1
                time.sleep(0.001)
            if number % 20 == 0:
                with suppress(RedisUnavailable):
                    quota.reserve(0)
                epochs.add(quota.epoch)
        marks = len(operator.keys(PREFIX + b"forgot:*"))
        stored = operator.keys(PREFIX + b"user3:*")
        listed = {pair for key in operator.keys(PREFIX + b"pairs:*") for pair in operator.smembers(key)}
        unlisted = sum(key.rpartition(b":")[2] not in listed for key in stored)
        client.stop()
    return [
        f"`{policy}`",
        f"{len(epochs) - 1}",
        f"{refused:,}",
        f"{1000 - marks:,} of 1,000",
        f"{unlisted:,} of {len(stored):,}",
    ]


def main() -> int:
    """Run both measurements, print a table, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("parts", nargs="*", help="memory (default), redis or eviction")
    parser.add_argument("--users", type=int, default=1_000_000, help="number of users in the store")
    parser.add_argument("--cache-max-mb", type=int, default=64, help="CACHE_MAX_MB of the store")
    parser.add_argument("--http-users", type=int, default=15_000, help="number of users requested over HTTP")
    parser.add_argument("--http-cache-max-mb", type=int, default=16, help="CACHE_MAX_MB of the service")
    parser.add_argument("--redis-users", type=int, default=10_000, help="number of users of each size in Redis")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # a full Redis is logged
    if "redis" in options.parts:
        head = ["profile", "JSON per user", "Redis, 100,000 users", "RDB file, 100,000 users"]
        print(table(head, fill_redis(options.redis_users)))
    if "eviction" in options.parts:
        head = ["policy", "pauses of the quota", "refused writes", "lost marks of `forget`", "records `forget` misses"]
        print(table(head, [evict(policy, 5000) for policy in POLICIES]))
    if options.parts and "memory" not in options.parts:
        return 0
    rows, grown = fill_store(options.users, options.cache_max_mb)
    http_rows, http_grown = fill_service(options.http_users, options.http_cache_max_mb)
    print(table(["", ""], rows + http_rows))
    is_within_limit = grown <= options.cache_max_mb + SLACK_MIB and http_grown <= options.http_cache_max_mb + SLACK_MIB
    if not is_within_limit:
        print("\nBROKEN: memory grew by more than the limit")
    return 0 if is_within_limit else 1


if __name__ == "__main__":
    sys.exit(main())
