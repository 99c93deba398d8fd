"""Measures the memory of the cache: `python -m tests.bench.memory`.

Stores a million profiles of the emulated Amplitude in the application's store. Then requests profiles over HTTP,
several times as many as fit into the cache. Prints bytes per profile and the growth of the processes. Exit code 1:
memory grew by more than CACHE_MAX_MB and 32 MiB (for the allocator, threads and connections).
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time

import psutil

from proxy.amplitude.calls import plan_calls, split_response
from proxy.app import create_app
from proxy.profile import encoding
from proxy.profile.json import write_json
from proxy.profile.parts import COHORTS, PROPERTIES, Identity, recommendation
from proxy.profile.record import CachedPart, Record
from proxy.sandbox.people import find
from proxy.sandbox.user_data import Documented, user_data
from proxy.settings import Settings
from proxy.storage.tiered import TieredStore
from proxy.web.services import services
from tests.bench.load import Connections, command_line, table
from tests.bench.processes import AUTHORIZATION, UNLIMITED, SandboxProcess, Service
from tests.bench.wrk import PATH
from tests.support.service import KEYS

SLACK_MIB = 32
MIB = 2**20
CONNECTIONS = 32
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


def main() -> int:
    """Run both measurements, print a table, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="number of users in the store")
    parser.add_argument("--cache-max-mb", type=int, default=64, help="CACHE_MAX_MB of the store")
    parser.add_argument("--http-users", type=int, default=15_000, help="number of users requested over HTTP")
    parser.add_argument("--http-cache-max-mb", type=int, default=16, help="CACHE_MAX_MB of the service")
    options = parser.parse_args()
    rows, grown = fill_store(options.users, options.cache_max_mb)
    http_rows, http_grown = fill_service(options.http_users, options.http_cache_max_mb)
    print(table(["", ""], rows + http_rows))
    is_within_limit = grown <= options.cache_max_mb + SLACK_MIB and http_grown <= options.http_cache_max_mb + SLACK_MIB
    if not is_within_limit:
        print("\nBROKEN: memory grew by more than the limit")
    return 0 if is_within_limit else 1


if __name__ == "__main__":
    sys.exit(main())
