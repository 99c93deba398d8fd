"""Limits the calls of all processes that share a Redis. The Lua scripts use the clock of Redis."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from proxy.amplitude.rate_limiter import JITTER_SECONDS, NEVER, RateLimiter, Reservation
from proxy.amplitude.sliding_window import WINDOW_SECONDS, Slot
from proxy.monitoring.clock import Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.client import RedisClient

_log = logging.getLogger(__name__)

_LUA = Path(__file__).parent / "lua"

_COUNTED_SECONDS = 15.0
"""Seconds for which a process counts after its last registration."""
_REMEMBERED_SECONDS = 20.0
"""Seconds for which the highest number of processes counts, because an empty Redis knows only the first process."""
SETTLE_SECONDS = 0.8
"""Seconds for which no call is reserved after Redis lost its data. Each process registers several times a second, so
all processes have reported their calls by then. A caller can wait this long."""
_IDLE_MILLISECONDS = 2 * 3600 * 1000
"""Time until unused keys expire. Longer than any pause."""
_LONG_SECONDS = 1e6
"""Used for any longer time, and as the time since the last refusal if no call was refused."""
_DRIFT_SECONDS = 0.2
"""Tolerance for comparing the clock of Redis with the clock of this process. A larger difference is a step."""
_TRANSIT_SECONDS = 1.0
"""Maximum seconds from reading the clock of this process until Redis runs a script."""
_REFUSED_SECONDS = 0.1
"""Seconds for which the first free slot of a refusal is reused, so that many misses do not run as many scripts."""


PROCESSES = b"quota:processes"
"""Name of the key with the registered processes, without the prefix."""


def differing_settings(label: str, processes: Iterable[bytes]) -> list[str]:
    """Return the names in `label` whose value differs in the label of a registered process.

    A label is `NAME=digest` for each setting, comma-separated. A name that another label lacks is ignored.
    """
    own_digests = _digests(label)
    other_digests = [_digests(process.decode(errors="replace").partition(":")[2]) for process in processes]
    return sorted(
        {
            name
            for other in other_digests
            for name in own_digests.keys() & other.keys()
            if own_digests[name] != other[name]
        }
    )


def _digests(label: str) -> dict[str, str]:
    return {name: digest for name, _, digest in (entry.partition("=") for entry in label.split(","))}


class RedisRateLimiter(RateLimiter):
    """Shares the quota with other processes. `reserve` and `register` take a round trip and may raise RedisUnavailable.

    The slots of this process are also recorded in memory, because Redis may lose them.
    `longest`: seconds from a reserved time until the call can no longer reach Amplitude.
    `processes`: the minimum number of processes. `label`: digests of the settings that should be the same in all
    processes (see `differing_settings`).
    """

    def __init__(
        self,
        client: RedisClient,
        prefix: bytes,
        per_minute: int,
        *,
        clock: Clock,
        longest: float,
        processes: int = 1,
        label: str = "",
    ) -> None:
        super().__init__(per_minute, clock=clock)
        self.epoch = b""
        """Identifies the data of Redis when this process registered. Redis gets another epoch when it loses data."""
        self._client = client
        self._ahead = (0.0, 0.0)  # limits of the difference between the clocks of Redis and this process, in this epoch
        self._label = label
        self._differing = OncePerMinute(_log, "redis_settings_differ", clock)
        self._longest = longest
        self._min_processes = processes
        self._keys = [prefix + name for name in (b"quota:places", b"quota:bursts", b"quota:pace", PROCESSES)]
        self._reserve_script, self._cancel_script, self._complete_script, self._register_script = (
            client.script(_LUA / f"{name}.lua", required=name in ("reserve", "register"))
            for name in ("reserve", "cancel", "complete", "register")
        )
        self._counts: deque[tuple[float, int]] = deque()  # time and number of processes
        self._shared_slots = 0  # at the last registration
        self._unreported = 0
        self._first_free = (NEVER, NEVER)  # time of the last reply of Redis, and its first free slot

    @property
    def used(self) -> int:
        """Return the number of slots that the calls of all processes hold, as of the last registration."""
        return max(self._own_slots(), self._shared_slots)

    @property
    def processes(self) -> int:
        """Return the known number of processes that share the quota."""
        with self._lock:
            return max([self._min_processes, *(count for _, count in self._counts)])

    def wait(self) -> float | None:
        """Return the seconds until the first free slot, according to the last reply of Redis."""
        return max(0.0, self.paused_for, self._first_free[1] - self._clock.monotonic())

    def pause(self, seconds: float) -> None:
        """Stop the calls of all processes that share the Redis for `seconds`."""
        super().pause(seconds)
        self._report("", pause=seconds)

    def cancel(self, reservation: Reservation) -> bool:
        """Free the slot. If Redis is unavailable, the slot expires in Redis."""
        cancelled = super().cancel(reservation)
        if cancelled:
            self._first_free = (NEVER, NEVER)
            wait = reservation.at - self._clock.monotonic()
            with suppress(RedisUnavailable):
                self._cancel_script(self._keys[:3], [reservation.id, int(reservation.even), self.rate.interval, wait])
        return cancelled

    def complete(self, reservation: Reservation, may_arrive_for: float) -> bool:
        """Hold the slot until one minute after the latest possible arrival of the call."""
        completed = super().complete(reservation, may_arrive_for)
        if completed:
            self._report(reservation.id, free_in=may_arrive_for + WINDOW_SECONDS)
        return completed

    def register(self) -> None:
        """Register this process as a user of the quota, and report the calls that Redis does not know.

        Exchange with the other processes the time of the last refusal, and learn how many slots are held.
        """
        unreported, unavailable = self._unreported, self._client.unavailable_since is not None
        uncertain = unavailable or unreported > 0
        process = [
            f"{self._client.id}:{self._label}",
            _COUNTED_SECONDS,
            SETTLE_SECONDS,
            int(uncertain),
            _IDLE_MILLISECONDS,
            min(self._clock.monotonic() - self._refused_at, _LONG_SECONDS),
        ]
        held_for = self._longest + WINDOW_SECONDS
        started_at = self._clock.monotonic()
        state = self._register_script(self._keys, [*process, 0, self.epoch, 0, held_for])
        epoch, redis_now = state[1], float(state[3])
        ahead = redis_now - self._clock.monotonic(), redis_now - started_at
        step = self._step(ahead) if epoch == self.epoch else 0.0
        if epoch != self.epoch or uncertain or step:
            with self._lock:
                now = self._clock.monotonic()
                self._window.forget(now)
                slots = [value for id, free_at in self._window.slots(self._longest) for value in (id, free_at - now)]
            reported = [self.paused_for, self.epoch, step, held_for, *slots]
            state = self._register_script(self._keys, [*process, *reported])
            if state[1] != self.epoch:
                self._ahead = ahead
                self.epoch = state[1]
            if step:
                _log.warning("redis_clock_stepped", extra={"seconds": round(step, 1)})
        processes, _, paused_for, _, self._shared_slots, refused_for = state
        if names := ",".join(differing_settings(self._label, processes)):
            self._differing.note(names, settings=names)
        self._learn_pause(float(paused_for))
        self._refused_at = max(self._refused_at, self._clock.monotonic() - float(refused_for))
        if unavailable:
            self._first_free = (NEVER, NEVER)
        with self._lock:
            self._unreported -= unreported
            self._counts.append((self._clock.monotonic(), len(processes)))
            while self._counts[0][0] < self._clock.monotonic() - _REMEMBERED_SECONDS:
                self._counts.popleft()

    def _step(self, ahead: tuple[float, float]) -> float:
        """Return the maximum seconds by which the clock of Redis was stepped in this epoch; 0 without a step."""
        lowest, highest = ahead[0] - self._ahead[1], ahead[1] - self._ahead[0]
        return highest if lowest > _DRIFT_SECONDS or highest < -_DRIFT_SECONDS else 0.0

    def _reserve(self, latest: float, burst: float) -> Reservation | None:
        now = self._clock.monotonic()
        replied_at, first_free = self._first_free
        if now < replied_at + _REFUSED_SECONDS and first_free > max(latest, now):
            return None
        if not self.epoch:
            self.register()
        id, ahead, sent_at = self._new_id(), self._ahead, self._clock.monotonic()
        reserved, *slot = self._reserve_script(
            self._keys[:3],
            [
                id,
                self.rate.per_minute,
                int(self.rate.burst * burst),
                self.rate.interval,
                latest - now,
                self._longest + WINDOW_SECONDS,
                self.epoch,
                _IDLE_MILLISECONDS,
                sent_at + ahead[0] - _DRIFT_SECONDS,
                sent_at + ahead[1] + _DRIFT_SECONDS + _TRANSIT_SECONDS,
            ],
        )
        if reserved == -1:
            # Redis lost data, or its clock was stepped. Another thread registers, because callers cannot wait.
            self._client.register_soon()
            return None
        wait, even, paused_for = slot
        # Redis measured the wait before `now`, so a call at `now + wait` is never too early.
        now = self._clock.monotonic()
        self._first_free = (now, now + float(wait))
        self._learn_pause(float(paused_for))
        if not reserved:
            return None
        with self._lock:
            return self._hold(id, Slot(now + float(wait), bool(even)), self.rate)

    def _report(self, id: str, *, free_in: float = 0.0, pause: float = 0.0) -> None:
        """Report the end of a call, or a pause. If Redis is unavailable, the next registration reports it."""
        slots, _, pacing, _ = self._keys
        earliest_now = self._clock.monotonic() + self._ahead[0] - _DRIFT_SECONDS
        try:
            paused_for = self._complete_script([slots, pacing], [id, free_in, pause, _IDLE_MILLISECONDS, earliest_now])
        except RedisUnavailable:
            self._report_later()
        else:
            self._learn_pause(float(paused_for))

    def _report_later(self) -> None:
        """Let the next registration report the slots of this process, because Redis does not know all of them."""
        with self._lock:
            self._unreported += 1

    def _learn_pause(self, seconds: float) -> None:
        """Use the pause from Redis if it ends later than the current pause."""
        with self._lock:
            # Another program may have written an infinite time.
            until = self._clock.monotonic() + min(seconds, _LONG_SECONDS)
            if until > self._paused_until + JITTER_SECONDS:
                self._paused_until = until
