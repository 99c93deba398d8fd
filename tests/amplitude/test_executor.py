"""Retries of a call whose reused connection was closed before the answer, over real connections."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable

import pytest

from proxy.amplitude.calls import plan_calls
from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.client import AmplitudeClient, Fetched
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.profile import encoding
from proxy.profile.errors import UpstreamError, UpstreamUnavailable
from proxy.profile.parts import Identity, recommendation
from tests.support.fakes import FakeClock
from tests.support.upstream import Reply, Upstream

PART = recommendation("r1")
CALL = plan_calls([PART])[0]
PER_MINUTE = 20
"""The burst has two calls, and every third second has another call."""


def answer(user: str) -> bytes:
    recommendation = {"rec_id": "r1", "items": [user], "is_control": False}
    content = json.dumps({"userData": {"user_id": user, "recommendations": [recommendation]}}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


def closing(ends: str = "close") -> Callable[[str], Reply]:
    """Return an upstream that ends each connection at its second request."""
    return lambda user: Reply(answer(user), ends=ends)


class World:
    """An executor with real connections to `upstream`, and with a clock that only the test advances."""

    def __init__(self, upstream: Upstream) -> None:
        self.clock = FakeClock()
        self.rate_limiter = RateLimiter(PER_MINUTE, clock=self.clock)
        self.circuit_breaker = CircuitBreaker(self.clock)
        self.ended: list[tuple[str, int]] = []
        client = AmplitudeClient(upstream.url, "secret", timeout=5, clock=self.clock)
        self.executor = CallExecutor(
            client.fetch,
            self.rate_limiter,
            self.circuit_breaker,
            clock=self.clock,
            on_ended=lambda word, _, exposures: self.ended.append((word, exposures)),
        )

    def get(self, user: str, *, before_sending: Callable[[], None] = lambda: None) -> str:
        """Return the recommended item, or the type of the error. Run `before_sending` just before the call is sent."""
        reservation = self.rate_limiter.reserve(self.clock())
        assert reservation is not None
        with reservation:
            trial = self.circuit_breaker.begin()
            before_sending()
            outcome = self.executor.execute(Identity(user, None), CALL, reservation, trial=trial)
        if isinstance(outcome, UpstreamError):
            return type(outcome).__name__
        return str(encoding.read(outcome.record.parts[PART].value)["items"][0])

    def warm_up(self) -> None:
        """Fetch one user, so that an idle connection is in the pool and the whole burst is free."""
        assert self.get("alice") == "alice"
        self.clock.advance(70)
        self.ended.clear()


@pytest.mark.parametrize("ends", ["close", "reset"])
@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_execute__reused_connection_is_closed_before_the_answer__retried_on_a_new_one_with_its_own_reservation(
    ends: str, secure: bool, tls: ssl.SSLContext
) -> None:
    with Upstream(closing(ends), tls if secure else None) as upstream:
        world = World(upstream)
        world.warm_up()
        assert world.get("bob") == "bob"
        assert upstream.users == ["alice", "bob", "bob"]
        assert upstream.connections == 2
        assert world.rate_limiter.used == 2
        assert world.ended == [("upstream_unavailable", 1), ("ok", 1)]
        assert world.circuit_breaker.fault is None


def test_execute__all_idle_connections_were_closed__one_retry_on_a_new_connection() -> None:
    both = threading.Barrier(2)

    def reply(user: str) -> Reply:
        if user.startswith("idle"):
            both.wait(10)
        return Reply(answer(user), ends="close")

    with Upstream(reply) as upstream:
        world = World(upstream)
        threads = [threading.Thread(target=world.get, args=(f"idle-{number}",)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        world.clock.advance(70)
        assert world.get("bob") == "bob"
        assert upstream.users[2:] == ["bob", "bob"]
        assert upstream.connections == 3


def test_execute__new_connection_is_closed_before_the_answer__not_retried() -> None:
    with Upstream(lambda _: Reply(b"", close=True)) as upstream:
        world = World(upstream)
        assert world.get("bob") == "UpstreamUnavailable"
        assert upstream.users == ["bob"]
        assert world.rate_limiter.used == 1


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", answer("bob")[:-1]])
def test_execute__reused_connection_is_closed_within_the_answer__not_retried(first: bytes) -> None:
    replies = {"alice": Reply(answer("alice")), "bob": Reply(first, close=True)}
    with Upstream(replies.__getitem__) as upstream:
        world = World(upstream)
        world.warm_up()
        assert world.get("bob") == "UpstreamUnavailable"
        assert upstream.users == ["alice", "bob"]
        assert upstream.connections == 1
        assert world.rate_limiter.used == 1


def test_execute__connection_of_the_retry_is_closed_too__fails_after_two_requests() -> None:
    replies = {"alice": Reply(answer("alice")), "bob": Reply(b"", close=True)}
    with Upstream(replies.__getitem__) as upstream:
        world = World(upstream)
        world.warm_up()
        assert world.get("bob") == "UpstreamUnavailable"
        assert upstream.users == ["alice", "bob", "bob"]
        assert world.rate_limiter.used == 2


def use_up_the_quota(world: World) -> None:
    while world.rate_limiter.reserve(world.clock()):
        pass


def pause_as_amplitude_asked(world: World) -> None:
    world.rate_limiter.pause(30)


def open_the_circuit_breaker(world: World) -> None:
    for _ in range(5):
        world.circuit_breaker.record(UpstreamUnavailable(), trial=False)


@pytest.mark.parametrize("change", [use_up_the_quota, pause_as_amplitude_asked, open_the_circuit_breaker])
def test_execute__no_further_call_may_be_sent_now__not_retried(change: Callable[[World], None]) -> None:
    with Upstream(closing()) as upstream:
        world = World(upstream)
        world.warm_up()
        assert world.get("bob", before_sending=lambda: change(world)) == "ConnectionClosed"
        assert upstream.users == ["alice", "bob"]
        assert world.ended == [("upstream_unavailable", 1)]


def test_execute__trial_call_of_the_circuit_breaker__retried_and_ends_the_outage() -> None:
    with Upstream(closing()) as upstream:
        world = World(upstream)
        world.warm_up()
        open_the_circuit_breaker(world)
        world.clock.advance(1)
        assert world.get("bob") == "bob"
        assert upstream.users == ["alice", "bob", "bob"]
        assert world.circuit_breaker.fault is None


@pytest.mark.parametrize(("waited", "limits"), [(2.0, [None, 3.0]), (5.0, [None])])
def test_execute__connection_was_closed_after_a_while__retry_has_the_remaining_time(
    waited: float, limits: list[float | None]
) -> None:
    worlds: list[World] = []

    def reply(user: str) -> Reply:
        if user == "bob":
            worlds[0].clock.advance(waited)
        return Reply(answer(user)) if user == "alice" else Reply(b"", close=True)

    with Upstream(reply) as upstream:
        world = World(upstream)
        worlds.append(world)
        world.warm_up()
        fetch, used = world.executor.fetch, []

        def recorded(identity: Identity, call: object, *, retry_within: float | None = None) -> Fetched:
            used.append(retry_within)
            return fetch(identity, call, retry_within=retry_within)

        world.executor.fetch = recorded
        world.get("bob")
        assert used == limits


def test_fetch__retry_is_not_answered__ends_after_the_remaining_time() -> None:
    silent = Reply(b"", patience=10, late=b"x")
    with Upstream(lambda _: silent) as upstream:
        client = AmplitudeClient(upstream.url, "secret", timeout=600)
        with pytest.raises(UpstreamError) as caught:
            client.fetch(Identity("bob", None), CALL, retry_within=0.05)
        assert caught.value.word == "upstream_timeout"
