"""Coalesces requests: one upstream call per user, sent at a reserved time and planned just before sending.

A batch holds the queued parts of one user. Further requests for the user join the batch until its reserved time.
A part that is being fetched is not fetched again, even by other processes that share the Redis. Calls run in the
threads of the scheduler, never in the threads of callers. Parts that cannot be fetched in time go into the backlog,
which uses only the quota that no waiting caller needs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import NamedTuple

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.fetch.backlog import Backlog, PartRequest
from proxy.fetch.dispatch import Decision, Dispatcher, RemoteCall, SentCall
from proxy.fetch.pending import NEVER, PendingPart, PendingParts, Waiter
from proxy.fetch.threads import Threads
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.logs import request_id
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamTimeout
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY
from proxy.storage.tiered import TieredStore

_log = logging.getLogger(__name__)

_BATCH_POLL_SECONDS = 0.05  # between attempts to reserve a time for a background batch; callers may join in between
_MIN_WAIT_SECONDS = 0.02  # before a background batch tries to reserve again
_REMOTE_POLL_SECONDS = 0.05  # between checks of a call of another process
_MIN_BACKLOG_PAUSE_SECONDS = 0.01
_MAX_BACKLOG_PAUSE_SECONDS = 1.0  # an outage may end early, and a reservation may be cancelled


@dataclass(slots=True, eq=False)
class _Batch:
    """The queued parts of one user. `reservation` is None before a time is reserved."""

    parts: dict[Part, PendingPart]
    reservation: Reservation | None = None


class SchedulerStats(NamedTuple):
    """The numbers of queued batches, of queued batches with a reservation, and of running batches."""

    queued: int
    reserved: int
    running: int


def _with_request_id(id: str | None, work: Callable[..., None], *args: object) -> None:
    """Run `work` with the request id `id`, so that log lines name the request that caused the work."""
    request_id.set(id)
    work(*args)


class FetchScheduler:
    """Sends calls from its own threads. The threads start with the first call."""

    def __init__(
        self,
        executor: CallExecutor,
        store: TieredStore,
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        backlog: Backlog,
        policy: FreshnessPolicy,
        *,
        extra_parts: tuple[Part, ...],
        threads: int,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._executor = executor
        self._store = store
        self._rate_limiter = rate_limiter
        self._circuit_breaker = circuit_breaker
        self._backlog = backlog
        self._policy = policy
        self._clock = clock
        self._threads = Threads(threads)
        self._pending = PendingParts()
        self._lock = self._pending.lock
        self._dispatcher = Dispatcher(
            self._pending, store, rate_limiter, circuit_breaker, policy, extra_parts=extra_parts, clock=clock
        )
        self._batches: dict[Identity, _Batch] = {}
        self._running = 0
        self._backlog_running = False
        self._closed = False

    def join(
        self,
        identity: Identity,
        parts: Iterable[Part],
        *,
        until: float,
        wanted_later: bool,
        min_fetched_at: float = NEVER,
        refresh: Collection[Part] = (),
        background: bool = False,
    ) -> Waiter:
        """Return a waiter for `parts`. The caller joins pending parts; all other parts are queued for a call.

        `until`: the caller's deadline (monotonic seconds). Parts that cannot be fetched in time fail at once and go
        into the backlog.
        `wanted_later`: the parts are needed even after the deadline.
        `min_fetched_at`: copies that were fetched earlier (Unix seconds) are too old for the caller.
        `refresh`: the parts for which the caller has a cached copy. Users without cached data take priority. A batch of
        refreshes therefore uses only free quota: at most half of the burst while a caller waits, otherwise no burst.
        `background`: the caller warms the cache. The batch uses only free quota that no other caller waits for. The
        parts do not enter the backlog, because the caller retries.
        """
        generation = self._store.memory.generation
        with self._lock:
            requested_at = self._clock.monotonic()
            wanted = [
                PendingPart(
                    part,
                    until,
                    wanted_later,
                    min_fetched_at,
                    part in refresh,
                    requested_at,
                    generation,
                    background=background,
                    warm=background,
                )
                for part in parts
            ]
            joined, new = self._pending.join(identity, wanted)
            batch = self._add_to_batch(identity, new)
            late = self._remove_late(self._batches.get(identity))
        if batch:
            self._schedule(identity, batch)
        if late:
            self._refuse(identity, late)
        return Waiter(joined, frozenset(new))

    def refresh(self, identity: Identity, parts: Collection[Part]) -> None:
        """Fetch `parts` again with unused quota. Callers already have cached copies and do not wait."""
        self.join(identity, parts, until=self._clock.monotonic(), wanted_later=True, refresh=parts)

    def drain(self, seconds: float) -> None:
        """Stop the backlog and wait until every queued and running batch has ended, for at most `seconds`."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(self.idle, timeout=seconds)

    def idle(self) -> bool:
        """Return whether no batch is queued or running."""
        return not self._running and not self._batches

    def stats(self) -> SchedulerStats:
        """Return the numbers of batches."""
        with self._lock:
            reserved = sum(batch.reservation is not None for batch in self._batches.values())
            return SchedulerStats(len(self._batches), reserved, self._running)

    def pending(self, identity: Identity) -> Mapping[Part, PendingPart]:
        """Return a snapshot of the pending parts of `identity`."""
        with self._lock:
            return dict(self._pending.of(identity))

    # Queueing and reserving.

    def _add_to_batch(self, identity: Identity, parts: Mapping[Part, PendingPart]) -> _Batch | None:
        """Add `parts` to the user's batch. Return the batch if it is new and must be scheduled. Requires the lock."""
        if not parts:
            return None
        if batch := self._batches.get(identity):
            batch.parts.update(parts)
            return None
        batch = self._batches[identity] = _Batch(dict(parts))
        return batch

    def _schedule(self, identity: Identity, batch: _Batch) -> bool:
        """Reserve a time for `batch` and start its thread, or refuse its parts. Return whether a thread was started."""
        outcome = self._reserve(batch)
        if isinstance(outcome, Reservation):
            with self._lock:
                batch.reservation = outcome
                late = self._remove_late(batch)
            if late:
                self._refuse(identity, late)
            try:
                self._start(self._run, identity, batch, outcome)
                return True
            except RuntimeError:  # no thread can be started
                outcome.cancel()
                outcome = QuotaExhausted()
        with self._lock:
            del self._batches[identity]
            self._lock.notify_all()
        self._refuse(identity, list(batch.parts.values()), outcome)
        return False

    def _schedule_leased(self, identity: Identity, parts: Mapping[Part, PendingPart]) -> None:
        """Queue `parts`, which this process leases, for another call.

        Release the leases if no call can be scheduled.
        """
        with self._lock:
            batch = self._add_to_batch(identity, parts)
        if batch and not self._schedule(identity, batch):
            self._store.save(identity, EMPTY, parts.keys())

    def _reserve(self, batch: _Batch) -> Reservation | UpstreamError:
        """Return a reservation, or the error if no call can be sent in time."""
        last_attempt = None
        try:
            while True:
                if fault := self._circuit_breaker.open_fault():
                    return fault
                with self._lock:
                    parts = list(batch.parts.values())
                refresh, background = all(part.refresh for part in parts), all(part.background for part in parts)
                until = max(part.until for part in parts)
                attempt = refresh, background, until
                if attempt == last_attempt:
                    return QuotaExhausted(retry_after=self._rate_limiter.wait())
                now = self._clock.monotonic()
                if background or until == NEVER:  # warming and the backlog use unused quota only
                    latest, burst = now, 0.0
                elif refresh:
                    latest, burst = now, 0.5 if until > now else 0.0
                else:
                    # A call that can be sent now is sent even if calls are slow, because a late result is still cached.
                    latest, burst = until - self._executor.typical, 1.0
                if reservation := self._rate_limiter.reserve(latest, burst=burst):
                    return reservation
                if background and now < until:
                    # A reservation ahead of time would delay callers that arrive later.
                    pause = min(max(self._rate_limiter.wait() or 0.0, _MIN_WAIT_SECONDS), _BATCH_POLL_SECONDS)
                    self._clock.sleep(min(pause, until - now))
                else:
                    # Try again if a caller joined that can wait longer or has no cached copy.
                    last_attempt = attempt
        except Exception:  # noqa: BLE001  # later callers must not join a batch that is never sent
            _log.exception("reserve_failed")
            return UpstreamInvalid("internal error")

    def _remove_late(self, batch: _Batch | None) -> list[PendingPart]:
        """Remove and return recommendations that would arrive after the last deadline. Requires the lock."""
        if batch is None or batch.reservation is None or batch.reservation.at <= self._clock.monotonic():
            return []
        arrival = batch.reservation.at + self._executor.typical
        late = [pending for pending in batch.parts.values() if pending.useless_at(arrival)]
        for pending in late:
            del batch.parts[pending.part]
        return late

    # Sending.

    def _start(self, work: Callable[..., None], *args: object) -> None:
        """Run `work` in a thread. Raises RuntimeError if no thread can be started."""
        self._threads.run(partial(_with_request_id, request_id.get(), work, *args))

    def _run(self, identity: Identity, batch: _Batch, reservation: Reservation) -> None:
        if (delay := reservation.at - self._clock.monotonic()) > 0:
            self._clock.sleep(delay)
        with self._lock:
            # From now on the batch accepts no parts. Callers may still join its pending parts.
            del self._batches[identity]
            self._running += 1
        sent: SentCall | None = None
        try:
            with reservation:
                decision = self._dispatcher.prepare(identity, batch.parts)
                sent = decision.call
                self._apply(identity, decision)
                if sent is None:
                    return
                outcome = self._executor.execute(identity, sent.call, reservation, trial=sent.trial)
            refused = self._dispatcher.complete(identity, sent, outcome)
            if refused and isinstance(outcome, UpstreamError):
                self._refuse(identity, refused, outcome, call=sent.number)
        except Exception:  # noqa: BLE001  # callers that wait must get an outcome
            _log.exception("fetch_failed")
            fault = UpstreamInvalid("internal error")
            self._pending.settle(identity, dict.fromkeys(batch.parts, fault), call=None)
            if sent is not None:
                self._circuit_breaker.record(fault, trial=sent.trial)
                self._pending.settle(identity, dict.fromkeys(sent.call.parts, fault), call=sent.number)
        finally:
            with self._lock:
                self._running -= 1
                self._lock.notify_all()

    def _apply(self, identity: Identity, decision: Decision) -> None:
        """Carry out a decision, except for its call."""
        try:
            self._pending.settle(identity, decision.settled, call=None)
            if decision.refused:
                self._refuse(identity, decision.refused, decision.fault)
            if any(part.background for part in decision.next_call.values()):
                # A background batch waits for unused quota; the first call must not wait for it.
                self._start(self._schedule_leased, identity, decision.next_call)
            elif decision.next_call:
                self._schedule_leased(identity, decision.next_call)
            if decision.followed:
                self._start(self._follow, identity, decision.followed)
            if decision.released:
                self._store.save(identity, EMPTY, decision.released)
        except Exception:  # noqa: BLE001  # the call is marked as sent, so it must be sent
            _log.exception("decision_failed")

    def _follow(self, identity: Identity, remote: RemoteCall) -> None:
        """Wait for a call of another process while a caller waits. Fetch the parts that the other process gives up."""
        try:
            while remote.parts:
                seconds = max(part.until for part in remote.parts) - self._clock.monotonic()
                if seconds <= 0:
                    self._refuse(identity, remote.parts, UpstreamTimeout(), call=remote.number)
                    return
                self._clock.sleep(min(seconds, _REMOTE_POLL_SECONDS))
                remote, given_up = self._dispatcher.poll(identity, remote)
                if given_up:
                    self._schedule_leased(identity, given_up)
        except Exception:  # noqa: BLE001  # callers that wait must get an outcome
            _log.exception("remote_call_failed")
            fault = UpstreamInvalid("internal error")
            self._pending.settle(
                identity, dict.fromkeys((part.part for part in remote.parts), fault), call=remote.number
            )

    # Refusing and the backlog.

    def _refuse(
        self,
        identity: Identity,
        parts: Collection[PendingPart],
        fault: UpstreamError | None = None,
        *,
        call: int | None = None,
    ) -> None:
        """Fail `parts` for the waiting callers, and put the parts that are still needed into the backlog.

        `fault`: the reason; None if the quota is used up. `call`: the number of the call that carries the parts.
        """
        worthwhile = {
            pending.part: PartRequest(pending.requested_at, pending.refresh)
            for pending in parts
            if pending.requested
            and not pending.background
            and not pending.useless_at(math.inf)
            and not self._store.memory.forgotten(identity, pending.generation)
        }
        self._backlog.add(identity, worthwhile)
        fault = fault or QuotaExhausted(retry_after=self._rate_limiter.wait())
        self._pending.settle(identity, dict.fromkeys((part.part for part in parts), fault), call=call)
        with self._lock:
            if self._backlog_running or self._closed or not len(self._backlog):
                return
            self._backlog_running = True
        # A separate thread, because a backlog can last minutes, and calls need the other threads.
        try:
            Thread(target=self._run_backlog, name="backlog", daemon=True).start()
        except RuntimeError:  # no thread can be started; the next refusal tries again
            self._backlog_running = False

    def _run_backlog(self) -> None:
        """Send calls from the backlog until it is empty."""
        request_id.set(None)  # the calls belong to no request, not even to the request that started the thread
        while True:
            with self._lock:
                if self._closed or not len(self._backlog):
                    self._backlog_running = False
                    return
            try:
                pause = self._circuit_breaker.wait() or self._schedule_from_backlog()
            except Exception:  # noqa: BLE001  # a bug must not end the thread
                _log.exception("backlog_failed")
                pause = _MAX_BACKLOG_PAUSE_SECONDS
            if pause > 0:
                self._clock.sleep(min(pause, _MAX_BACKLOG_PAUSE_SECONDS))

    def _schedule_from_backlog(self) -> float:
        """Schedule the next user of the backlog with unused quota. Return the seconds until the next attempt."""
        generation = self._store.memory.generation
        popped = self._backlog.pop()
        if popped is None:
            return 0.0
        identity, wanted = popped
        record, now = self._store.memory.read(identity), self._clock.now()
        parts = [
            PendingPart(
                part, wanted_later=True, refresh=want.refresh, requested_at=want.requested_at, generation=generation
            )
            for part, want in wanted.items()
            if not self._policy.is_fresh(record, part, now, NEVER)
        ]
        with self._lock:
            _, new = self._pending.join(identity, parts)
            batch = self._add_to_batch(identity, new)
        if batch is None or self._schedule(identity, batch):
            return 0.0
        return max(self._rate_limiter.wait() or 0.0, _MIN_BACKLOG_PAUSE_SECONDS)
