"""Asks a service about everybody in an audience, several at once and at a pace, until all are through."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any
from urllib.parse import urlencode

from proxy.cli.client import NoService, TurnedAway
from proxy.cli.warmup.pacer import Pacer
from proxy.cli.warmup.progress import Count
from proxy.liquid.types import Answer, Ask, Request

_TELL_SECONDS = 5.0
_TRIES = 5
"""Of a user whom Amplitude gives no answer about, or the service. Who found no place in the quota is tried on."""
_PAUSE_SECONDS = 1.0
_LOOK_SECONDS = 0.2
"""Between looks at whether another thread has put a user back."""
_PUT_BACK = 1000
"""So many wait until everybody else was asked; the fault may have passed by then."""
_PASSING = (408, 429)
"""Of the statuses below 500 those that asking again may help with."""
_STRANGE_AT_FIRST = 20
"""Answers that a load balancer may give, before the first of the service: more than are on their way at once."""
_STRANGE = 1000
"""Such answers in a row later on, a minute of them: a restart of the service passes sooner."""
_MEANING = {"quota_exhausted": "others spend the quota, or Amplitude has said 429"}


class Refused(Exception):
    """The service takes no such question; asking it again would not help."""


class Warmer:
    """`lost` says why what is fetched now would be lost, or None. `tell` hears how far it is, every few seconds."""

    def __init__(
        self,
        asks: Sequence[Ask],
        question: Mapping[str, str],
        per_minute: float,
        *,
        tell: Callable[[str], None],
        lost: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._asks = asks
        self._question = question
        self._tell = tell
        self._lost = lost
        self._pacer = Pacer(per_minute, monotonic=time.monotonic)
        self._users: Iterator[str] = iter(())
        # None that is waited in: a `SimpleQueue` of Python 3.11 may wait for ever once its time is over.
        self._back: deque[tuple[str, int]] = deque()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._strange = 0
        self._strange_at_most = _STRANGE_AT_FIRST
        self._word = ""
        self._count = Count(0)
        self.stopped_by: str | None = None
        """Why it ended before its time, but for Ctrl-C and a refusal."""
        self.refused: Refused | None = None

    def run(self, users: Iterable[str], number: int) -> Count:
        """Ask about all of `users`, so many, and return how that ended, be it by a refusal.

        Ctrl-C ends it after what is on its way, a second one at once.
        """
        self._begin(users, number)
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, self._told_to_stop)
        began, through = time.monotonic(), 0
        self._look()
        with ThreadPoolExecutor(len(self._asks)) as pool:
            working = [pool.submit(self._work, ask) for ask in self._asks]
            while wait(working, timeout=_TELL_SECONDS).not_done:
                with self._lock:
                    line, before, through = self._count.line(time.monotonic() - began), through, self._count.through
                self._tell(line)
                if through == before and self._word:
                    self._tell(f"nobody came through meanwhile: {_MEANING.get(self._word, self._word)}")
                self._look()
        for each in working:
            each.result()
        self._look()
        return self._count

    def _begin(self, users: Iterable[str], number: int) -> None:
        self._users = iter(users)
        self._count = Count(number)

    def _told_to_stop(self, number: int, _: object) -> None:
        self._stop.set()
        signal.signal(number, signal.SIG_DFL)

    def _look(self) -> None:
        if self.stopped_by is None and (why := self._lost()):
            self.stopped_by = why
            self._stop.set()

    def _work(self, ask: Ask) -> None:
        while not self._stop.is_set():
            with self._lock:
                if not self._count.left:
                    return
                found = self._next()
            if found is None:
                self._stop.wait(_LOOK_SECONDS)
                continue
            self._pacer.wait(self._stop.is_set)
            if self._stop.is_set():
                return
            user, tries = found
            try:
                self._judge(user, tries, self._asked(ask, user))
            except Refused as error:
                self.refused = error
                self._stop.set()
            except BaseException:
                self._stop.set()  # or the others would wait for this user for ever
                raise

    def _next(self) -> tuple[str, int] | None:
        """Return whom to ask about, and which try that is; None while all are on their way. Called under the lock."""
        if len(self._back) < _PUT_BACK and (user := next(self._users, None)) is not None:
            return user, 1
        return self._back.popleft() if self._back else None

    def _asked(self, ask: Ask, user: str) -> Answer | None:
        """Return the answer about `user`; None when there is none from the service. Raises Refused."""
        request = Request(
            "POST",
            "/v1/profile",
            {"Priority": "u=7"},
            urlencode({"user_id": user, **self._question}),
            "application/x-www-form-urlencoded",
        )
        try:
            answer = ask(request)
        except TurnedAway as error:
            raise Refused(str(error)) from None
        except NoService:
            self._pacer.cost(0)
            return None
        calls = int(answer.headers.get("x-amplitude-calls", "0"))
        # Who was refused tries again no faster than if that had been a call.
        self._pacer.cost(calls if answer.status == 200 else max(calls, 1))
        with self._lock:
            self._count.calls += calls
        return answer

    def _judge(self, user: str, tries: int, answer: Answer | None) -> None:
        word = "no answer from the service"
        if answer is not None:
            body = _parsed(answer)
            if answer.status == 200 and "found" in body:
                with self._lock:
                    self._strange, self._strange_at_most = 0, _STRANGE
                    if not body["found"]:
                        self._count.unknown += 1
                    elif answer.headers.get("x-amplitude-calls") == "0" and tries == 1:
                        self._count.fresh += 1
                    else:
                        self._count.done += 1
                return
            word = self._word_of(answer, body)
        if word == "quota_exhausted":
            # Somebody else went first. Nobody is given up for that.
            self._put_back(user, max(tries, 2), word)
        elif tries < _TRIES:
            self._stop.wait(_PAUSE_SECONDS)
            self._put_back(user, tries + 1, word)
        else:
            with self._lock:
                self._count.failed += 1
                self._count.why[word] = self._count.why.get(word, 0) + 1

    def _word_of(self, answer: Answer, body: Mapping[str, object]) -> str:
        """Return why nobody was found, this time. Raises Refused."""
        status, error = answer.status, body.get("error")
        if status == 500 and isinstance(error, str):
            with self._lock:
                self._strange, self._strange_at_most = 0, _STRANGE
            return error
        if status not in _PASSING and 300 <= status < 500:
            raise Refused(f"the service answered {status}: {body.get('detail', 'it is another service')}")
        with self._lock:
            self._strange += 1
            times, most = self._strange, self._strange_at_most
        if times >= most:
            raise Refused(f"the service answered {status} all along, {times:,} times: it is another service, or gone")
        return f"no answer from the service ({status})"

    def _put_back(self, user: str, tries: int, word: str) -> None:
        with self._lock:
            self._back.append((user, tries))
            self._word = word


def _parsed(answer: Answer) -> dict[str, Any]:
    try:
        body = json.loads(answer.body)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
