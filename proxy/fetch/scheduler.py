"""Coalesces requests: one upstream call per user, sent at a reserved time and planned just before sending.

A batch is the queued parts of one user. Until its reserved time, further requests for the user join it. A part that is
already being fetched is never fetched twice, by no process that shares the Redis. Callers never call Amplitude
themselves. Parts that cannot be fetched in time go into the backlog, which uses the quota that no caller needs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Thread
from typing import NamedTuple

from proxy.amplitude.circuit_breaker import CircuitBreaker
from proxy.amplitude.executor import CallExecutor
from proxy.amplitude.rate_limiter import RateLimiter, Reservation
from proxy.fetch.backlog import Backlog, Wanted
from proxy.fetch.dispatch import Decision, Dispatcher, InFlightCall, RemoteCall
from proxy.fetch.pending import NEVER, PendingPart, PendingParts, Waiter
from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.logs import request_id
from proxy.profile.errors import QuotaExhausted, UpstreamError, UpstreamInvalid, UpstreamTimeout
from proxy.profile.freshness import FreshnessPolicy
from proxy.profile.parts import Identity, Part
from proxy.profile.record import EMPTY
from proxy.storage.tiered import TieredStore

_log = logging.getLogger(__name__)

_BATCH_POLL_SECONDS = 0.05  # between attempts to reserve a time for a background batch, which callers may join
_MIN_WAIT_SECONDS = 0.02  # before a background batch tries to reserve again
_REMOTE_POLL_SECONDS = 0.05  # between checks of another process's call
_MIN_BACKLOG_PAUSE_SECONDS = 0.01
_MAX_BACKLOG_PAUSE_SECONDS = 1.0  # an outage may end early, and a reservation may be cancelled


@dataclass(slots=True, eq=False)
class _Batch:
    """The queued parts of one user. `reservation` is None until a time is reserved."""

    parts: dict[Part, PendingPart]
    reservation: Reservation | None = None


class SchedulerStats(NamedTuple):
    """Batches that are queued, those of them that have a reservation, and batches that run."""

    queued: int
    reserved: int
    running: int


def _with_request_id(id: str | None, work: Callable[..., None], *args: object) -> None:
    """Run `work` so that its log lines name the request it is for, not the one that started the thread."""
    request_id.set(id)
    work(*args)


class FetchScheduler:
    """Sends calls from its own threads, which start with the first call."""

    def __init__(
        self,
        executor: CallExecutor,
        store: TieredStore,
        rate_limiter: RateLimiter,
        circuit_breaker: CircuitBreaker,
        backlog: Backlog,
        policy: FreshnessPolicy,
        *,
        along: tuple[Part, ...],
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
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fetch")
        self._pending = PendingParts()
        self._lock = self._pending.lock
        self._dispatcher = Dispatcher(
            self._pending, store, rate_limiter, circuit_breaker, policy, along=along, clock=clock
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
        """Return a waiter for `parts`. Pending parts are joined; the others are queued for a call.

        `until`: the caller's deadline (monotonic seconds). Parts that cannot be fetched in time fail at once and go
        into the backlog. `min_fetched_at`: a copy that another call has fetched will do if it is no older than this
        (Unix seconds). `refresh`: those of `parts` of which the caller has a cached copy; users without cached data
        take priority, so a batch of refreshes only uses quota that is free now, at most half of the burst, and none of
        the burst when no caller waits. `background`: the caller prepares a send; the batch only uses quota that is
        free now and that no other caller waits for, and does not enter the backlog, since the caller retries.
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
        """Fetch `parts`, of which cached copies are served, again with unused quota. No caller waits for them."""
        self.join(identity, parts, until=self._clock.monotonic(), wanted_later=True, refresh=parts)

    def drain(self, seconds: float) -> None:
        """Return when every queued and running batch has ended, at the latest after `seconds`. Stops the backlog."""
        with self._lock:
            self._closed = True
            self._lock.wait_for(self.idle, timeout=seconds)

    def idle(self) -> bool:
        """Say whether no batch is queued or running."""
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
        """Add `parts` to the user's batch. Return the batch if it is new and must be scheduled. Needs the lock."""
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
            except RuntimeError:  # no thread can be started, or the process ends
                with self._lock:
                    if self._batches.get(identity) is not batch:
                        return True  # a thread that has just become free runs it
                    del self._batches[identity]
                    self._lock.notify_all()
                outcome.cancel()
                outcome = QuotaExhausted()
        else:
            with self._lock:
                del self._batches[identity]
                self._lock.notify_all()
        self._refuse(identity, list(batch.parts.values()), outcome)
        return False

    def _schedule_leased(self, identity: Identity, parts: Mapping[Part, PendingPart]) -> None:
        """Queue `parts`, which are leased by this process, for a call of their own, or release them."""
        with self._lock:
            batch = self._add_to_batch(identity, parts)
        if batch and not self._schedule(identity, batch):
            self._store.save(identity, EMPTY, parts.keys())

    def _reserve(self, batch: _Batch) -> Reservation | UpstreamError:
        """Return a reservation, or the reason why there is none."""
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
                if background or until == NEVER:  # for a send, or from the backlog: unused quota only
                    latest, burst = now, 0.0
                elif refresh:
                    latest, burst = now, 0.5 if until > now else 0.0
                else:
                    # A call that can be sent now is sent, even if calls are slow: a late result is still cached.
                    latest, burst = until - self._executor.typical, 1.0
                if reservation := self._rate_limiter.reserve(latest, burst=burst):
                    return reservation
                if background and now < until:
                    # Not reserved ahead: a later caller would have to wait behind the reservation.
                    pause = min(max(self._rate_limiter.wait() or 0.0, _MIN_WAIT_SECONDS), _BATCH_POLL_SECONDS)
                    self._clock.sleep(min(pause, until - now))
                else:
                    # Another attempt follows if a caller has joined that may wait longer or has no cached copy.
                    last_attempt = attempt
        except Exception:  # noqa: BLE001  # otherwise later callers would join a batch that is never sent
            _log.exception("a call could not be booked")
            return UpstreamInvalid("a fault of ours")

    def _remove_late(self, batch: _Batch | None) -> list[PendingPart]:
        """Remove and return recommendations that would arrive after the last caller has left. Needs the lock."""
        if batch is None or batch.reservation is None or batch.reservation.at <= self._clock.monotonic():
            return []
        arrival = batch.reservation.at + self._executor.typical
        late = [pending for pending in batch.parts.values() if pending.useless_at(arrival)]
        for pending in late:
            del batch.parts[pending.part]
        return late

    # Sending.

    def _start(self, work: Callable[..., None], *args: object) -> None:
        """Run `work` on a thread of the pool. Raises RuntimeError when there is none."""
        self._pool.submit(_with_request_id, request_id.get(), work, *args)

    def _run(self, identity: Identity, batch: _Batch, reservation: Reservation) -> None:
        if (delay := reservation.at - self._clock.monotonic()) > 0:
            self._clock.sleep(delay)
        with self._lock:
            if self._batches.get(identity) is not batch:
                return  # refused: the pool could not start a thread for it, and yet kept it in its queue
            # From now on the batch accepts no parts. Callers may still join those that are pending.
            del self._batches[identity]
            self._running += 1
        sent: InFlightCall | None = None
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
            _log.exception("a flight failed on our side")
            fault = UpstreamInvalid("a fault of ours")
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
            if any(part.background for part in decision.later.values()):
                # A background batch waits for unused quota; the first call must not wait for it.
                self._start(self._schedule_leased, identity, decision.later)
            elif decision.later:
                self._schedule_leased(identity, decision.later)
            if decision.followed:
                self._start(self._follow, identity, decision.followed)
            if decision.released:
                self._store.save(identity, EMPTY, decision.released)
        except Exception:  # noqa: BLE001  # a call that is marked as sent must be sent
            _log.exception("what goes by another call could not be seen to")

    def _follow(self, identity: Identity, remote: RemoteCall) -> None:
        """Wait for another process's call while a caller waits, and fetch here what that process gives up."""
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
            _log.exception("a call of another process could not be followed")
            fault = UpstreamInvalid("a fault of ours")
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
        """Fail `parts` for the callers that wait, and put those that are still worth fetching into the backlog.

        `fault`: None when the quota is exhausted. `call`: the call that carries the parts.
        """
        worthwhile = {
            pending.part: Wanted(pending.requested_at, pending.refresh)
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
        # Not on the pool: the process waits for the pool's threads when it ends, and a backlog may last for minutes.
        try:
            Thread(target=self._run_backlog, name="backlog", daemon=True).start()
        except RuntimeError:  # no thread can be started; the next refusal tries again
            self._backlog_running = False

    def _run_backlog(self) -> None:
        """Send calls from the backlog until it is empty."""
        request_id.set(None)  # the calls belong to no request, in particular not to the one that started the thread
        while True:
            with self._lock:
                if self._closed or not len(self._backlog):
                    self._backlog_running = False
                    return
            try:
                pause = self._circuit_breaker.wait() or self._schedule_from_backlog()
            except Exception:  # noqa: BLE001  # the thread survives a bug
                _log.exception("the backlog could not be served")
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
