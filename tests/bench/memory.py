"""What the cache takes of memory: a million distinct users through it, then some of them over HTTP.

    .venv/bin/python -m tests.bench.memory

First the store as the application builds it, in a process of its own: each user's profile is what the emulated
Amplitude says of that user (a recommendation, properties, cohorts), or that it knows nobody of that id. Then the
service under gunicorn, asked for users whose profiles are several times what its cache may hold. Exit code 1 when
memory grew by more than CACHE_MAX_MB and the constant stated here.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection

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
from tests.bench.load import Connections, table
from tests.bench.options import command_line
from tests.bench.processes import SandboxProcess, Service
from tests.conftest import KEYS, SECRET

CONSTANT_MIB = 32
"""What may come on top of CACHE_MAX_MB: the allocator's slack, and over HTTP threads and connections too."""
MIB = 2**20
_CALL = plan_calls([recommendation("homepage"), PROPERTIES, COHORTS])[0]
_ASKING_AT_ONCE = 32


def store(cache_max_mb: int) -> TieredStore:
    """Return the store as the application builds it."""
    required = {"AMPLITUDE_SECRET_KEY": "amplitude-secret", "PROXY_API_KEYS": KEYS}
    app = create_app(Settings.from_env(required | {"CACHE_MAX_MB": str(cache_max_mb)}))
    with app.app_context():
        return services().store


def record(user_id: str, now: float) -> Record:
    """Return what is kept of a user of the crowd after one call."""
    person = find(user_id, None)
    if person is None:
        return Record(unknown_at=now)
    said = user_data(person, _CALL.parameters(Identity(user_id, None)), Documented())
    values, _ = split_response(_CALL, said)
    parts = {part: CachedPart(encoding.write(value), now) for part, value in values.items()}
    return Record(parts, None, said["user_id"], said["device_id"])


def fill(pipe: Connection, users: int, cache_max_mb: int) -> None:
    """Put `users` distinct users through a store, and send what that took."""
    process = psutil.Process()
    filled = store(cache_max_mb)
    at_rest = process.memory_info().rss
    profile_bytes = kept = 0
    for number in range(1, users + 1):
        identity = Identity(f"user-{number}", None)
        one = record(f"user-{number}", time.time())
        profile_bytes += sum(len(write_json(encoding.read(part.value))) for part in one.parts.values())
        filled.merge(identity, one)
        if number % max(1, users // 20) == 0:
            held = process.memory_info().rss
            print(f"  {number:,} users, {held / MIB:.0f} MiB", file=sys.stderr, flush=True)
    # The newest are there and, as least recently used ones leave first, nobody before the first that is missing.
    while kept < users and filled.read(Identity(f"user-{users - kept}", None)) != Record():
        kept += 1
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send((at_rest, process.memory_info().rss, highest, filled.memory.size, kept, profile_bytes / users))


def through_the_store(users: int, cache_max_mb: int) -> tuple[list[list[str]], bool]:
    """Return the lines of the table, and whether memory stayed within its bound."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=fill, args=(theirs, users, cache_max_mb), daemon=True)
    process.start()
    theirs.close()
    at_rest, at_end, highest, size, kept, profile = ours.recv()
    process.join()
    grown = (highest - at_rest) / MIB
    rows = [
        ["distinct users", f"{users:,}"],
        ["JSON of a profile", f"{profile:,.0f} bytes"],
        ["counted for a profile", f"{size / kept:,.0f} bytes"],
        ["taken by a profile (resident, at the end)", f"{(at_end - at_rest) / kept:,.0f} bytes"],
        ["profiles kept", f"{kept:,} in {size / MIB:.1f} MiB"],
        ["profiles per 64 MiB", f"{kept * 64 * MIB / size:,.0f}"],
        ["resident at rest", f"{at_rest / MIB:.0f} MiB"],
        ["resident at the end (at most)", f"{at_end / MIB:.0f} MiB ({highest / MIB:.0f} MiB)"],
        ["grown by at most", f"{grown:.0f} MiB, of CACHE_MAX_MB={cache_max_mb} and {CONSTANT_MIB}"],
    ]
    return rows, grown <= cache_max_mb + CONSTANT_MIB


async def _ask_all(connections: Connections, users: int, service: Service) -> int:
    """Ask for each user once, a few at a time; return the most bytes that the service held."""
    highest = 0
    numbers = iter(range(1, users + 1))

    async def ask() -> None:
        nonlocal highest
        for number in numbers:
            path = f"/v1/profile?user_id=user-{number}&include=recommendations,properties,cohorts&rec_id=homepage"
            answer = await connections.get(path)
            if answer.status != 200 or b'"ok":true' not in answer.body:
                sys.exit(f"no answer about user-{number}: {answer}")
            if number % max(1, users // 20) == 0:
                highest = max(highest, await asyncio.to_thread(service.resident_bytes))
                print(f"  {number:,} users over HTTP, {highest / MIB:.0f} MiB", file=sys.stderr, flush=True)

    await asyncio.gather(*(ask() for _ in range(_ASKING_AT_ONCE)))
    connections.close()
    return highest


def over_http(users: int, cache_max_mb: int) -> tuple[list[list[str]], bool]:
    """Return the lines of the table, and whether memory stayed within its bound."""
    settings = {"AMPLITUDE_REQUESTS_PER_MINUTE": "1000000", "CACHE_MAX_MB": str(cache_max_mb)}
    with SandboxProcess(per_minute=1_000_000) as sandbox, Service(sandbox, **settings) as service:
        at_rest = service.resident_bytes()
        highest = asyncio.run(_ask_all(Connections(service.port, f"X-API-Key: {SECRET}"), users, service))
    grown = (highest - at_rest) / MIB
    rows = [
        ["over HTTP: distinct users", f"{users:,}"],
        ["over HTTP: resident at rest, all processes", f"{at_rest / MIB:.0f} MiB"],
        ["over HTTP: at most", f"{highest / MIB:.0f} MiB"],
        ["over HTTP: grown by at most", f"{grown:.0f} MiB, of CACHE_MAX_MB={cache_max_mb} and {CONSTANT_MIB}"],
    ]
    return rows, grown <= cache_max_mb + CONSTANT_MIB


def main() -> int:
    """Run both, print a table, and return the exit code."""
    parser = command_line(__doc__)
    parser.add_argument("--users", type=int, default=1_000_000, help="put through the store")
    parser.add_argument("--cache-max-mb", type=int, default=64, help="of the store")
    parser.add_argument("--http-users", type=int, default=15_000, help="asked for over HTTP")
    parser.add_argument("--http-cache-max-mb", type=int, default=16, help="of the service that is asked")
    options = parser.parse_args()
    rows, within = through_the_store(options.users, options.cache_max_mb)
    more, within_too = over_http(options.http_users, options.http_cache_max_mb)
    print(table(["", ""], rows + more))
    if not (within and within_too):
        print("\nBROKEN: memory grew by more than CACHE_MAX_MB and the constant")
    return 0 if within and within_too else 1


if __name__ == "__main__":
    sys.exit(main())
