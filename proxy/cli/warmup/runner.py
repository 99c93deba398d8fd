"""Requests the profile of every user of an audience, in several threads and at a limited rate, with retries."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from proxy.cli.client import ServiceRefused, ServiceUnavailable, json_object, refusal
from proxy.cli.warmup.pacer import Pacer
from proxy.cli.warmup.progress import Report, WarmupProgress
from proxy.liquid.types import Answer, Ask, Request

_MAX_ATTEMPTS = 5
"""Per user, if the service or Amplitude fails. Attempts that find no quota do not count."""
_MAX_WAITING_RETRIES = 1000
_TRANSIENT_STATUSES = (408, 429)
"""Statuses below 500 that are retried."""
_MAX_UNEXPECTED_AT_START = 20
"""Limit on unexpected answers, such as a load balancer's, before the first answer of the service.

More than the number of concurrent requests.
"""
_MAX_UNEXPECTED = 1000
"""Limit on consecutive unexpected answers once the service has answered. They take longer than a restart: a minute."""
_EXPLANATIONS = {"quota_exhausted": "other requests use up the quota, or Amplitude answered 429"}


class RetryQueue:
    """The queue of users to request. Retries wait until all other users were requested, unless too many wait."""

    def __init__(self, users: Iterable[str]) -> None:
        self._users = iter(users)
        # A polled deque, because `SimpleQueue.get(timeout=…)` may block for ever in Python 3.11.
        self._retries: deque[tuple[str, int]] = deque()

    def next(self) -> tuple[str, int] | None:
        """Return a user and the number of the attempt; None if all remaining users are being requested."""
        if len(self._retries) < _MAX_WAITING_RETRIES and (user := next(self._users, None)) is not None:
            return user, 1
        return self._retries.popleft() if self._retries else None

    def retry(self, user: str, attempt: int) -> None:
        """Return a user to the queue for the attempt number `attempt`."""
        self._retries.append((user, attempt))


class Warmer:
    """Warms a cache through `ask_functions`, with one thread for each. Durations are in seconds.

    `loss_reason` returns why fetched data would be lost, or None. `report` is called every `report_interval`.
    `on_answer` gets each user with the body of the answer, and `on_failed` each user without an answer and the reason.
    No two of these calls run at the same time.
    """

    def __init__(
        self,
        ask_functions: Sequence[Ask],
        question: Mapping[str, str],
        per_minute: float,
        *,
        report: Report,
        loss_reason: Callable[[], str | None] = lambda: None,
        on_answer: Callable[[str, Mapping[str, Any]], None] = lambda *_: None,
        on_failed: Callable[[str, str], None] = lambda *_: None,
        report_interval: float = 5.0,
        retry_interval: float = 1.0,
        poll_interval: float = 0.2,
    ) -> None:
        self._ask_functions = ask_functions
        self._question = question
        self._report = report
        self._loss_reason = loss_reason
        self._on_answer = on_answer
        self._on_failed = on_failed
        self._report_interval = report_interval
        self._retry_interval = retry_interval
        self._poll_interval = poll_interval
        self._pacer = Pacer(per_minute, monotonic=time.monotonic)
        self._lock = threading.Lock()
        self._unexpected = 0
        self._max_unexpected = _MAX_UNEXPECTED_AT_START
        self._last_error = ""
        self.stop = threading.Event()
        """Ends the run after the requests that have been sent."""
        self.stopped_by: str | None = None
        """The reason why fetched data would be lost, if this ended the run."""
        self.refused: ServiceRefused | None = None
        """The refusal that ended the run, if any."""

    def run(self, users: Iterable[str], number: int) -> WarmupProgress:
        """Request all `number` users and return the outcome, also if the run ended early."""
        queue, progress = RetryQueue(users), WarmupProgress(number)
        started, finished = time.monotonic(), 0
        self._stop_if_lost()
        with ThreadPoolExecutor(len(self._ask_functions)) as pool:
            threads = [pool.submit(self._work, ask, queue, progress) for ask in self._ask_functions]
            while wait(threads, timeout=self._report_interval).not_done:
                with self._lock:
                    snapshot = replace(progress)
                obstacle = self._last_error if snapshot.finished == finished else ""
                finished = snapshot.finished
                self._report(snapshot, time.monotonic() - started, _EXPLANATIONS.get(obstacle, obstacle))
                self._stop_if_lost()
        for thread in threads:
            thread.result()
        self._stop_if_lost()
        return progress

    def _stop_if_lost(self) -> None:
        if self.stopped_by is None and (reason := self._loss_reason()):
            self.stopped_by = reason
            self.stop.set()

    def _work(self, ask: Ask, queue: RetryQueue, progress: WarmupProgress) -> None:
        while not self.stop.is_set():
            with self._lock:
                if not progress.remaining:
                    return
                entry = queue.next()
            if entry is None:
                self.stop.wait(self._poll_interval)
                continue
            self._pacer.wait(self.stop.is_set)
            if self.stop.is_set():
                return
            try:
                self._attempt(ask, *entry, queue, progress)
            except ServiceRefused as error:
                self.refused = error
                self.stop.set()
            except BaseException:
                self.stop.set()  # otherwise the other threads would wait for this user for ever
                raise

    def _attempt(self, ask: Ask, user: str, attempt: int, queue: RetryQueue, progress: WarmupProgress) -> None:
        """Request a user, and record the outcome or queue a retry. Raises ServiceRefused."""
        form = urlencode({"user_id": user, **self._question})
        request = Request("POST", "/v1/profile", {"Priority": "u=7"}, form, "application/x-www-form-urlencoded")
        try:
            answer = ask(request)
        except ServiceRefused:
            raise
        except ServiceUnavailable:
            self._pacer.complete(0)
            error = "no answer from the service"
        else:
            calls, body = int(answer.headers.get("x-amplitude-calls", "0")), json_object(answer)
            # A refused request is paced like a call.
            self._pacer.complete(calls if answer.status == 200 else max(calls, 1))
            with self._lock:
                progress.calls += calls
                if answer.status == 200 and "found" in body:
                    self._unexpected, self._max_unexpected = 0, _MAX_UNEXPECTED
                    self._on_answer(user, body)
                    if not body["found"]:
                        progress.unknown += 1
                    elif answer.headers.get("x-amplitude-calls") == "0" and attempt == 1:
                        progress.fresh += 1
                    else:
                        progress.done += 1
                    return
                error = self._error(answer, body)
        if error == "quota_exhausted":
            # Another caller used the quota.
            attempt = max(attempt, 2)
        elif attempt < _MAX_ATTEMPTS:
            self.stop.wait(self._retry_interval)
            attempt += 1
        else:
            with self._lock:
                progress.failed += 1
                progress.failures[error] += 1
                self._on_failed(user, error)
            return
        with self._lock:
            self._last_error = error
            queue.retry(user, attempt)

    def _error(self, answer: Answer, body: Mapping[str, object]) -> str:
        """Return the reason for a failed attempt. Called under the lock. Raises ServiceRefused."""
        status, word = answer.status, body.get("error")
        if status == 500 and isinstance(word, str):
            self._unexpected, self._max_unexpected = 0, _MAX_UNEXPECTED
            return word
        if status not in _TRANSIENT_STATUSES and 300 <= status < 500:
            raise refusal(answer)
        self._unexpected += 1
        if self._unexpected >= self._max_unexpected:
            raise ServiceRefused(
                f"the service answered {status} to the last {self._unexpected:,} requests; "
                "check --url, and that the service is running"
            )
        return f"no answer from the service ({status})"
