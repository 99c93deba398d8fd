"""The sliding window in Python and in Lua: one sequence of operations, one outcome."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from proxy.amplitude.rate_limiter import LocalRateLimiter, RateLimiter
from proxy.amplitude.rate_limiter_redis import SETTLE_SECONDS, RedisRateLimiter
from proxy.amplitude.sliding_window import Reservation
from proxy.storage.redis.client import RedisClient
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer

CLOCK_KEY = b"clock"
prefixes = (b"window%d:" % number for number in itertools.count())


class RedisWithClock(RedisClient):
    """Runs the scripts as they are, except that they read the time of `clock` from a key."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.clock = FakeClock()
        self.operator = redis.Redis.from_url(url)

    def script(self, path: Path) -> Callable[[Sequence[bytes], Sequence[Any]], Any]:
        original = path.read_text()
        with_clock = original.replace("redis.call('TIME')", f"redis.call('HMGET', '{CLOCK_KEY.decode()}', 's', 'us')")
        assert with_clock != original
        with TemporaryDirectory() as folder:
            file = Path(folder) / path.name
            file.write_text(with_clock)
            run = super().script(file)

        def run_now(keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
            seconds, fraction = divmod(self.clock(), 1)
            self.operator.hset(CLOCK_KEY, mapping={"s": int(seconds), "us": int(fraction * 1_000_000)})
            return run(keys, arguments)

        return run_now


# Eighths of seconds, and intervals between even calls that are binary fractions: sums of them are exact in Python, in
# Lua and in six decimals, so that equal times are equal everywhere.
PER_MINUTE = [0, 1, 2, 8, 10, 16, 21, 25, 34, 69]
eighths = st.integers(0, 8 * 70).map(lambda number: number / 8)
OPERATIONS = st.one_of(
    st.tuples(st.just("reserve"), eighths, st.sampled_from([0.0, 0.5, 1.0, 1.0])),
    st.tuples(st.just("reserve"), st.sampled_from([0.0, 0.5, 5.0]), st.just(1.0)),
    st.tuples(st.just("cancel"), st.integers(0, 40), st.just(0.0)),
    st.tuples(st.just("complete"), st.integers(0, 40), st.sampled_from([0.0, 0.0, 1.0, 7.5])),
    st.tuples(st.just("advance"), eighths, st.just(0.0)),
    st.tuples(st.just("pause"), eighths, st.just(0.0)),
)


@pytest.fixture(scope="module")
def client() -> Iterator[RedisWithClock]:
    with RedisServer() as server:
        client = RedisWithClock(server.url)
        yield client
        client.stop()
        client.operator.close()


class Run:
    """A rate limiter, what was reserved in it, and the outcome of each operation."""

    def __init__(self, limiter: RateLimiter, clock: FakeClock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.reservations: list[Reservation] = []

    def apply(self, name: str, value: float, option: float) -> object:
        match name:
            case "reserve":
                reservation = self.limiter.reserve(self.clock() + value, burst=option)
                if reservation is None:
                    return None
                self.reservations.append(reservation)
                return reservation.at, reservation.even
            case "pause":
                self.limiter.pause(value)
                return self.limiter.paused
            case "cancel" | "complete" if self.reservations:
                reservation = self.reservations[int(value) % len(self.reservations)]
                if name == "cancel":
                    return self.limiter.cancel(reservation)
                return self.limiter.complete(reservation, may_arrive_for=option)
        return None


@pytest.mark.contract("4 redis")
@given(st.sampled_from(PER_MINUTE), st.lists(OPERATIONS, max_size=60))
def test_sliding_window__same_operations_in_python_and_in_lua__same_outcomes(
    client: RedisWithClock, per_minute: int, operations: list[tuple[str, float, float]]
) -> None:
    clock = client.clock = FakeClock()
    local, held = (LocalRateLimiter(per_minute, monotonic=clock) for _ in range(2))
    shared = RedisRateLimiter(client, next(prefixes), held, monotonic=clock, longest=100_000)
    shared.register()
    clock.advance(SETTLE_SECONDS + 0.2)
    in_python, in_lua = Run(local, clock), Run(shared, clock)
    for name, value, option in operations:
        # With Redis, a refusal is remembered for 0.1 s, so some time passes before each operation.
        clock.advance(0.125 + (value if name == "advance" else 0))
        assert in_lua.apply(name, value, option) == in_python.apply(name, value, option), (name, value, option)
