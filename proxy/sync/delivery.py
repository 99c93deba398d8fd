"""Delivers changes of attributes to Braze: in batches, within the rate limit, with retries."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition, Event, Lock
from typing import Any

from proxy.amplitude.executor import MAY_ARRIVE_SECONDS
from proxy.amplitude.rate_limiter import RateLimiter
from proxy.braze.limits import MAX_REQUEST_BYTES
from proxy.braze.track import (
    Accepted,
    Failed,
    RateLimited,
    Refused,
    TooLarge,
    TrackClient,
    TrackResult,
    Unavailable,
)
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.profile.json import write_body

_MAX_RETRIES = 5
_MAX_FAILED_BATCHES = 3
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 30.0
_DEFAULT_PAUSE_SECONDS = 60.0
_MIN_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 600.0
_RESERVE_AHEAD_SECONDS = 1.0
"""The maximum time between the reservation of a request and the request. Other processes can use later times."""
_BURST = 0.5
"""The share of the rate limiter's burst for the delivery. The rest is for the event stream, which is more urgent."""
_POLL_SECONDS = 0.2
"""Seconds between the checks of a waiting thread whether to stop."""


@dataclass(frozen=True, slots=True)
class Change:
    """The changed attributes of one user; None removes an attribute. `at`: the time of the values (Unix seconds)."""

    user_id: str
    attributes: Mapping[str, Any]
    at: float


class DeliveryStopped(Exception):
    """The delivery ended early. The text contains the reason and the fix."""


def deliver(
    changes: Iterable[Change],
    client: TrackClient,
    limiter: RateLimiter,
    *,
    batch_objects: int,
    on_accepted: Callable[[Sequence[Change]], None],
    on_failed: Callable[[Change, str], None],
    on_request: Callable[[], None] = lambda: None,
    on_uncertain: Callable[[Sequence[Change]], None] = lambda _: None,
    stop: Event,
    threads: int = 16,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Send each change once, one object per user, and report its outcome. Raises DeliveryStopped.

    `on_accepted` gets the accepted changes of a request before its thread sends another request, so that an interrupt
    loses at most the outcomes of the requests in flight. `on_failed` gets a change and a reason, if Braze rejects the
    change or if all retries failed. `on_request` is called after each request. `on_uncertain` gets the changes of a
    request whose answer was lost. These changes are sent again, because setting the same value is harmless. No two of
    these functions run at the same time.

    The calling thread reads `changes`. A second change of a user waits until the first change is complete.
    `stop` ends the delivery after the requests in flight. Changes that were not sent by then are not reported.
    """
    delivery = _Delivery(client, limiter, on_accepted, on_failed, on_request, on_uncertain, stop, threads, clock)
    batch: dict[str, Change] = {}  # by user id
    size = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="braze") as pool:
        try:
            for change in changes:
                object_bytes = len(write_body(_object(change)))
                if batch and (
                    len(batch) == batch_objects or size + object_bytes > MAX_REQUEST_BYTES or change.user_id in batch
                ):
                    delivery.submit(list(batch.values()), pool)
                    batch, size = {}, 0
                delivery.wait_for_user(change.user_id)
                if delivery.ended:
                    break
                batch[change.user_id] = change
                size += object_bytes
            if batch:
                delivery.submit(list(batch.values()), pool)
            delivery.wait()  # inside `try`, so that an interrupt ends the threads
        except BaseException:
            delivery.end(None)
            raise
    if delivery.error is not None:
        raise delivery.error


class _Delivery:
    """The shared state of the threads of one `deliver` call."""

    def __init__(
        self,
        client: TrackClient,
        limiter: RateLimiter,
        on_accepted: Callable[[Sequence[Change]], None],
        on_failed: Callable[[Change, str], None],
        on_request: Callable[[], None],
        on_uncertain: Callable[[Sequence[Change]], None],
        stop: Event,
        threads: int,
        clock: Clock,
    ) -> None:
        self._client = client
        self._limiter = limiter
        self._on_accepted = on_accepted
        self._on_failed = on_failed
        self._on_request = on_request
        self._on_uncertain = on_uncertain
        self._stop = stop
        self._threads = threads
        self._clock = clock
        self._changed = Condition()
        self._callbacks = Lock()
        self._batches = 0  # submitted but not complete
        self._users: set[str] = set()  # the users of these batches
        self._failed_batches = 0  # in a row
        self._halted = False
        self.error: BaseException | None = None

    @property
    def ended(self) -> bool:
        """Whether no further request may be sent."""
        return self._halted or self._stop.is_set()

    def end(self, error: BaseException | None) -> None:
        """Send no further requests. The first error is the result of the delivery."""
        with self._changed:
            self._halted = True
            self.error = self.error or error
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until all batches are complete."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches == 0)

    def wait_for_user(self, user_id: str) -> None:
        """Wait until no batch has the user."""
        with self._changed:
            # No timeout: batches end soon after the delivery ended.
            self._changed.wait_for(lambda: user_id not in self._users)

    def submit(self, batch: list[Change], pool: ThreadPoolExecutor) -> None:
        """Deliver the batch on the next free thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches < self._threads)
            self._batches += 1
            self._users.update(change.user_id for change in batch)
        pool.submit(self._run, batch)

    def _run(self, batch: list[Change]) -> None:
        try:
            failure = self._deliver(batch)
            # If Braze rejects a single object, the cause is probably this object.
            if isinstance(failure, Unavailable) or (failure is not None and len(batch) > 1):
                self._count_failed_batch(failure.reason)
        except BaseException as error:  # noqa: BLE001  # `deliver` raises the error in the calling thread
            self.end(error)
        finally:
            with self._changed:
                self._batches -= 1
                self._users.difference_update(change.user_id for change in batch)
                self._changed.notify_all()

    def _deliver(self, batch: Sequence[Change]) -> Failed | Unavailable | None:
        """Send a batch, in halves if necessary, so that an object that Braze rejects fails alone.

        Return the reason if Braze accepted no request.
        """
        result = self._send_with_retries(batch)
        match result:
            case Accepted(errors):
                with self._changed:
                    self._failed_batches = 0
                self._report(batch, {index: reason for (_, index), reason in errors.items()})
            case TooLarge() | Failed() if len(batch) > 1:
                middle = len(batch) // 2
                first, second = self._deliver(batch[:middle]), self._deliver(batch[middle:])
                return first and second
            case TooLarge():
                self._report(batch, {0: "the object is too large for Braze"})
            case Failed(reason=reason) | Unavailable(reason=reason):
                self._report(batch, dict.fromkeys(range(len(batch)), reason))
                return result
        return None

    def _count_failed_batch(self, reason: str) -> None:
        with self._changed:
            self._failed_batches += 1
            if self._failed_batches < _MAX_FAILED_BATCHES:
                return
        raise DeliveryStopped(
            f"Braze accepted none of {_MAX_FAILED_BATCHES} batches in a row ({reason}); check BRAZE_REST_ENDPOINT and "
            "the status page of Braze, and run the command again"
        )

    def _report(self, batch: Sequence[Change], failures: Mapping[int, str]) -> None:
        accepted = [change for index, change in enumerate(batch) if index not in failures]
        with self._callbacks:
            if accepted:
                self._on_accepted(accepted)
            for index, reason in sorted(failures.items()):
                self._on_failed(batch[index], reason)

    def _send_with_retries(self, batch: Sequence[Change]) -> Accepted | TooLarge | Failed | Unavailable | None:
        """Send a batch until Braze accepts or rejects it. Return None if the delivery ended before that."""
        failures = 0
        while (result := self._send(batch)) is not None:
            match result:
                case RateLimited(seconds):
                    self._pause(_DEFAULT_PAUSE_SECONDS if seconds is None else max(seconds, _MIN_PAUSE_SECONDS))
                case Refused(reason):
                    raise DeliveryStopped(reason)
                case Unavailable(_, uncertain):
                    if uncertain:
                        with self._callbacks:
                            self._on_uncertain(batch)
                    failures += 1
                    if failures > _MAX_RETRIES:
                        return result
                    max_wait = min(_FIRST_BACKOFF_SECONDS * 2 ** (failures - 1), _LONGEST_BACKOFF_SECONDS)
                    # The jitter spreads the requests of threads and processes that failed together.
                    self._wait(self._clock.monotonic() + max_wait * random.uniform(0.5, 1.0))  # noqa: S311
                case _:
                    return result
        return None

    def _send(self, batch: Sequence[Change]) -> TrackResult | None:
        """Send one request at a time that the rate limiter allows. Return None if the delivery ended before that."""
        while not self.ended:
            reservation = self._limiter.reserve(self._clock.monotonic() + _RESERVE_AHEAD_SECONDS, burst=_BURST)
            if reservation is None:
                self._wait(self._clock.monotonic() + max(self._limiter.wait() or 0.0, _POLL_SECONDS))
                continue
            with reservation:
                if not self._wait(reservation.at) or self._limiter.paused:
                    continue
                result: TrackResult | None = None
                try:
                    result = self._client.send([_object(change) for change in batch])
                finally:
                    may_arrive = isinstance(result, Unavailable) and result.uncertain
                    reservation.complete(may_arrive_for=MAY_ARRIVE_SECONDS if may_arrive else 0.0)
                with self._callbacks:
                    self._on_request()
                return result
        return None

    def _pause(self, seconds: float) -> None:
        """Pause the requests of all threads and processes. Raises DeliveryStopped if the pause is long."""
        self._limiter.pause(seconds)
        if seconds > _MAX_PAUSE_SECONDS:
            until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._clock.now() + seconds))
            raise DeliveryStopped(
                f"Braze accepts no request before {until} (status 429); run the command again after that time"
            )

    def _wait(self, until: float) -> bool:
        """Wait until a time (monotonic seconds). Return False if the delivery ended before that."""
        while not self.ended:
            seconds = until - self._clock.monotonic()
            if seconds <= 0:
                return True
            self._clock.sleep(min(seconds, _POLL_SECONDS))
        return False


def _object(change: Change) -> dict[str, Any]:
    return {**change.attributes, "external_id": change.user_id}
