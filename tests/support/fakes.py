"""Fakes that tests pass as arguments: a clock that tests advance, and a replacement of Amplitude."""

from __future__ import annotations

import threading
from typing import Any

from proxy.amplitude.calls import Call, split_response
from proxy.amplitude.client import Fetched
from proxy.monitoring.clock import Clock
from proxy.profile import encoding
from proxy.profile.errors import UpstreamError
from proxy.profile.parts import Identity
from proxy.profile.record import CachedPart, Record
from proxy.sandbox.people import find
from proxy.sandbox.user_data import Documented, user_data


class FakeClock(Clock):
    """A clock that only `advance` moves. `sleep` returns after enough calls of `advance`."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        super().__init__(now=self, monotonic=self, sleep=self._wait)
        self._seconds = start
        self._advanced = threading.Condition()

    def __call__(self) -> float:
        return self._seconds

    def advance(self, seconds: float) -> None:
        with self._advanced:
            self._seconds += seconds
            self._advanced.notify_all()

    def _wait(self, seconds: float) -> None:
        with self._advanced:
            until = self._seconds + seconds
            while not self._advanced.wait_for(lambda: self._seconds >= until, timeout=10):
                # The backlog thread may sleep until the end of the test.
                assert threading.current_thread().daemon, "the test did not advance the clock"


class FakeSource:
    """Replaces the client of Amplitude. Records calls, waits for `open`, and returns `user_data` or raises `fault`."""

    def __init__(self, clock: FakeClock, user_data: dict[str, Any] | None = None) -> None:
        self.clock = clock
        self.user_data: dict[str, Any] | None = {"user_id": "u"} if user_data is None else user_data
        self.fault: UpstreamError | Exception | None = None
        self.calls: list[tuple[Identity, Call]] = []
        self.open = threading.Event()
        self.open.set()
        self.reached = threading.Semaphore(0)

    def fetch(self, identity: Identity, call: Call) -> Fetched:
        self.calls.append((identity, call))
        self.reached.release()
        assert self.open.wait(10), "the test did not set `open`"
        if self.fault is not None:
            raise self.fault
        answer = self.find_user_data(identity, call)
        if answer is None:
            return Fetched(Record(unknown_at=self.clock()), {})
        values, _ = split_response(call, answer)
        parts = {part: CachedPart(encoding.write(value), self.clock()) for part, value in values.items()}
        return Fetched(Record(parts, None, answer.get("user_id"), answer.get("device_id")), {})

    def find_user_data(self, identity: Identity, call: Call) -> dict[str, Any] | None:
        """Return the `userData` for a call; None for an unknown user."""
        return self.user_data

    def wait_for_call(self) -> None:
        """Wait until another call has begun."""
        assert self.reached.acquire(timeout=10), "no call began"


class PopulatedSource(FakeSource):
    """Answers with the users of the emulated Amplitude."""

    def find_user_data(self, identity: Identity, call: Call) -> dict[str, Any] | None:
        person = find(*identity)
        return user_data(person, call.parameters(identity), Documented()) if person else None
