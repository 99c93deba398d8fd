"""Sends concurrent requests in batches: requests that arrive while all batches are in progress share the next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

from proxy.storage.redis import RedisUnavailable

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_RUNNING = 4
"""The number of concurrent batches. A single batch would be too slow with a distant Redis."""
MAX_BATCH = 64
"""The maximum number of requests in a batch. Their responses are read in half a millisecond."""


class PipelineStats(NamedTuple):
    """The numbers of waiting requests and of batches in progress."""

    waiting: int
    running: int


class AutoPipeline(Generic[Request, Response]):
    """Runs requests in batches. The thread of the first request in a batch sends the batch. Thread-safe.

    `send` takes a batch and returns the responses in the same order. A request that waits longer than `max_wait`
    seconds calls `on_timeout`, and fails unless its batch can start now.
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
        self._free = MAX_RUNNING
        self._lock = Lock()

    def run(self, request: Request) -> Response:
        """Return the response. Raises RedisUnavailable if the batch failed or was not sent in time."""
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
        """Return the numbers of waiting requests and of batches in progress."""
        with self._lock:
            return PipelineStats(len(self._waiting), MAX_RUNNING - self._free)

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
        """Let the first waiting request send a batch of the waiting requests."""
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
        """Empty, or a single response, which may be None."""
        self.batch: Sequence[_Pending[Request, Response]] = []
        """The batch that the thread of this request must send; empty if another thread sends the request."""
        self.woken = Lock()
        self.woken.acquire()
