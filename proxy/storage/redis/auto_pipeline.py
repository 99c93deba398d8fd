"""Pipelines concurrent requests: those that arrive while all batches are in flight share the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from proxy.storage.redis import RedisUnavailable

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_IN_FLIGHT = 4
"""Batches at a time. A single one would be too few for a distant Redis."""
MAX_BATCH = 64
"""Requests per batch: their responses are read in half a millisecond."""


class PipelineStats(NamedTuple):
    """Requests that wait for a batch, and batches in flight."""

    waiting: int
    in_flight: int


class AutoPipeline(Generic[Request, Response]):
    """Runs requests in batches, each sent by the thread of its first request. Safe for threads.

    `send` takes a batch and returns the responses in the same order. A request that waits longer than `max_wait`
    seconds for its response calls `on_timeout`, and fails unless its turn has just come.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Request]], Sequence[Response]],
        *,
        max_wait: float,
        on_timeout: Callable[[], None],
    ) -> None:
        self._send = send
        self._max_wait = max_wait
        self._on_timeout = on_timeout
        self._waiting: deque[_Pending[Request, Response]] = deque()
        self._free = MAX_IN_FLIGHT
        self._lock = Lock()

    def run(self, request: Request) -> Response:
        """Return the response. Raises RedisUnavailable if the batch failed, or could not be sent in time."""
        pending: _Pending[Request, Response] = _Pending(request)
        with self._lock:
            if self._free:
                self._free -= 1
                pending.batch = [pending]
            else:
                self._waiting.append(pending)
        if not pending.batch and not pending.woken.acquire(timeout=self._max_wait):
            self._on_timeout()
            with self._lock:
                if pending in self._waiting:
                    self._waiting.remove(pending)
        if pending.batch:
            self._run_batch(pending.batch)
        if not pending.responses:
            raise RedisUnavailable
        return pending.responses[0]

    def stats(self) -> PipelineStats:
        """Return what waits and what is in flight."""
        with self._lock:
            return PipelineStats(len(self._waiting), MAX_IN_FLIGHT - self._free)

    def _run_batch(self, batch: Sequence[_Pending[Request, Response]]) -> None:
        try:
            responses = self._send([pending.request for pending in batch])
            for pending, response in zip(batch, responses, strict=True):
                pending.responses.append(response)
        except RedisUnavailable:
            pass
        finally:
            for pending in batch:
                pending.batch = []
                if pending is not batch[0]:
                    pending.woken.release()
            self._start_next()

    def _start_next(self) -> None:
        """Wake the first waiting request to send a batch of those that wait."""
        with self._lock:
            if not self._waiting:
                self._free += 1
                return
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH))]
            batch[0].batch = batch
        batch[0].woken.release()


class _Pending(Generic[Request, Response]):
    __slots__ = ("batch", "request", "responses", "woken")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.responses: list[Response] = []
        """Empty, or the response: which may itself be None."""
        self.batch: Sequence[_Pending[Request, Response]] = []
        """The batch that this request's thread has to send, this request first; empty if another thread sends it."""
        self.woken = Lock()
        self.woken.acquire()
