"""The sliding window in Python and in Lua: the same operations have the same outcomes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import redis
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.amplitude.rate_limiter_fallback import FallbackRateLimiter
from proxy.amplitude.rate_limiter_redis import SETTLE_SECONDS
from proxy.storage.redis.client import RedisClient
from tests.support.fakes import FakeClock
from tests.support.redis_server import RedisServer

CLOCK_KEY = b"clock"
prefixes = (b"window%d:" % number for number in itertools.count())


class RedisWithClock(RedisClient):
    """Runs the original scripts, but makes them read the time of `clock` from a key."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.clock = FakeClock()
        self.operator = redis.Redis.from_url(url)

    def script(self, path: Path, *, required: bool = False) -> Callable[[Sequence[bytes], Sequence[Any]], Any]:
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


# All times are multiples of half a second. The intervals between even calls are sums of a few powers of two.
# Both are exact in Python, in Lua and in six decimals, so equal times compare as equal everywhere.
PER_MINUTE = [0, 1, 2, 8, 10, 16, 21, 21, 25, 34, 69]
halves = st.one_of(
    st.sampled_from([0.0, 0.5, 1.0, 3.0, 60.0, 60.0, 130.0]), st.integers(0, 140).map(lambda number: number / 2)
)
Operation = tuple[str, float, float, int]  # name, seconds, burst or seconds, number of calls or reservation
OPERATIONS = st.one_of(
    st.tuples(st.just("reserve"), halves, st.sampled_from([1.0, 1.0, 0.5, 0.0]), st.sampled_from([1, 2, 5, 25])),
    st.tuples(st.just("complete"), st.sampled_from([0.0, 0.5, 5.0]), st.just(0.0), st.integers(0, 40)),
    st.tuples(st.just("cancel"), st.just(0.0), st.just(0.0), st.integers(0, 40)),
    st.tuples(st.just("advance"), halves, st.just(0.0), st.just(0)),
    st.tuples(st.just("pause"), halves, st.just(0.0), st.just(0)),
)


@pytest.fixture(scope="module")
def client() -> Iterator[RedisWithClock]:
    with RedisServer() as server:
        client = RedisWithClock(server.url)
        yield client
        client.stop()
        client.operator.close()


class Run:
    """A rate limiter with its reservations."""

    def __init__(self, limiter: RateLimiter, clock: FakeClock) -> None:
        self.limiter = limiter
        self.clock = clock
        self.reservations: list[Reservation] = []

    def apply(self, operation: Operation) -> object:
        """Return the outcome of `operation`, which both implementations must share."""
        name, seconds, burst, number = operation
        if name == "reserve":
            slots = []
            for _ in range(number):
                reservation = self.limiter.reserve(self.clock() + seconds, burst=burst)
                slots.append(reservation and (reservation.at, reservation.even))
                if reservation is None:
                    break
                self.reservations.append(reservation)
            return slots
        if name == "pause":
            self.limiter.pause(seconds)
        if name in ("complete", "cancel") and self.reservations:
            reservation = self.reservations[number % len(self.reservations)]
            if name == "cancel":
                return reservation.cancel()
            return reservation.complete(may_arrive_for=seconds)
        return self.limiter.paused


@pytest.mark.contract("4 redis")
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(PER_MINUTE), st.lists(OPERATIONS, min_size=3, max_size=40))
@example(  # A call at the exact time of the next even call is an even call.
    21, [("reserve", 0.0, 1.0, 1), ("advance", 2.5, 0.0, 0), ("reserve", 0.0, 1.0, 1)]
)
@example(  # Burst calls count for less than a minute.
    21,
    [
        ("reserve", 0.0, 1.0, 2),
        ("pause", 12.5, 0.0, 0),
        ("reserve", 130.0, 1.0, 17),
        ("pause", 59.0, 0.0, 0),
        ("reserve", 60.0, 1.0, 1),
    ],
)
@example(  # A refusal, then a cancelled reservation: the earlier burst still counts.
    21,
    [
        ("reserve", 0.0, 1.0, 2),
        ("complete", 0.0, 0.0, 0),
        ("complete", 0.0, 0.0, 1),
        ("pause", 10.0, 0.0, 0),
        ("reserve", 130.0, 1.0, 19),
        ("reserve", 5.0, 1.0, 1),
        ("cancel", 0.0, 0.0, 10),
        ("reserve", 60.0, 1.0, 1),
    ],
)
def test_sliding_window__same_operations_in_python_and_in_lua__same_outcomes(
    client: RedisWithClock, per_minute: int, operations: list[Operation]
) -> None:
    clock = client.clock = FakeClock()
    local = RateLimiter(per_minute, clock=clock)
    shared = FallbackRateLimiter(client, next(prefixes), per_minute, clock=clock, longest=100_000)
    shared.register()
    clock.advance(SETTLE_SECONDS + 0.2)
    in_python, in_lua = Run(local, clock), Run(shared, clock)
    for operation in operations:
        if operation[0] == "advance":
            clock.advance(operation[1])
        outcome = in_python.apply(operation)
        assert in_lua.apply(operation) == outcome, operation
        if operation[0] == "reserve":
            clock.advance(0.5)  # with Redis, a process remembers a refusal for 0.1 s


def test_completed_calls__a_minute_later__leave_the_local_window_while_redis_keeps_the_quota(
    client: RedisWithClock,
) -> None:
    clock = client.clock = FakeClock()
    shared = FallbackRateLimiter(client, next(prefixes), 600, clock=clock, longest=8)
    shared.register()
    clock.advance(SETTLE_SECONDS + 0.2)
    for _ in range(3):
        reservation = shared.reserve(clock())
        assert reservation is not None
        reservation.complete()
        clock.advance(61)
    assert shared.recorded == 1


def test_register__clock_of_one_process_stood_still__slots_of_the_others_are_not_prolonged(
    client: RedisWithClock,
) -> None:
    clock, late_clock, prefix = FakeClock(), FakeClock(), next(prefixes)
    client.clock = clock
    running, suspended = (FallbackRateLimiter(client, prefix, 10, clock=own, longest=8) for own in (clock, late_clock))

    def settle() -> None:
        for limiter in (running, suspended):
            limiter.register()
        for own in (clock, late_clock):
            own.advance(SETTLE_SECONDS + 0.2)

    settle()
    for _ in range(10):
        reservation = running.reserve(clock())
        assert reservation is not None
        reservation.complete()
        clock.advance(6)
        late_clock.advance(6)
    clock.advance(40)  # the machine of the other process was suspended
    epoch = running.epoch
    suspended.register()
    settle()
    assert running.epoch != epoch
    assert running.reserve(clock()) is not None
