"""One Redis: its connections, and whether it is there. The only room that knows the library.

Slow, restarting, full, read-only or gone is all the same: nobody asks it any more, and a thread of its own tries it
several times a second until it is whole again. That is decided here, and said in one line each way.
"""

from __future__ import annotations

import logging
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from proxy.storage.redis import RedisUnavailable
from proxy.storage.redis.auto_pipeline import AutoPipeline

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 0.4
"""For an answer. A caller has three times that; in a burst an answer may lie there until its turn comes."""
_READ_SECONDS = 0.8
"""For a read, the wait for its turn included. To who waited in vain, Redis cannot keep up with what is asked."""
_LATE_ANSWERS = 3  # in a row. One alone may be this process's own fault, kept from its turn by others on the machine
_CONNECTION_SECONDS = 1.0  # for a connection that is free: all may be in use, which is no fault of Redis
_ENROLL_SECONDS = 0.3  # well within the time that SharedQuota leaves all to write back what a new Redis cannot know
_CONNECTIONS = 64
_HGETALL = b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n"
_GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"


class RedisClient:
    """Commands and scripts, each one round trip. Safe for threads; opens nothing before the first of them."""

    def __init__(self, url: str, *, verify: bool = True, monotonic: Callable[[], float] = time.monotonic) -> None:
        options: dict[str, Any] = {}
        if url.startswith("rediss:"):
            options = {"ssl_cert_reqs": ssl.CERT_REQUIRED if verify else ssl.CERT_NONE, "ssl_check_hostname": verify}
        self._pool: redis.BlockingConnectionPool = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_CONNECTION_SECONDS,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            # They would stretch the time-out to ten seconds while a managed Redis moves house.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            driver_info=None,  # two round trips less for each connection
            **options,
        )
        self._client = redis.Redis(connection_pool=self._pool)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._register: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._wake = threading.Event()
        self._scripts: list[bytes] = []
        self._reads = AutoPipeline[list[bytes], list[Any] | None](
            lambda asks: self._asked(lambda: self._read(asks)),
            patience=_READ_SECONDS,
            on_late=lambda: self._lost("reads that wait"),
        )
        self._late = 0
        self.id = secrets.token_hex(8)
        """Who this process is to the others."""
        self.gone_since: float | None = None
        """When it was found gone (monotonic seconds); None while it is there."""

    def register_by(self, register: Callable[[], None]) -> None:
        """Set what is done several times a second, to be counted among the processes, and after an absence."""
        self._register = register

    def start(self) -> None:
        """Begin to be there for the others. Not before a fork: it starts a thread. Called again, it does nothing."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_registered, name="redis", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Be no longer there for the others, who count us for a while yet. What is asked still is."""
        self._stopped = True
        self._wake.set()

    def register_soon(self) -> None:
        """Do what is done every few hundred milliseconds now: the others do not know us any more."""
        self._wake.set()

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        """Return all fields of a hash. Raises Gone."""
        return self.hash_and_value(key, None)[0]

    def hash_and_value(self, key: bytes, other: bytes | None) -> tuple[dict[bytes, bytes], bytes | None]:
        """Return all fields of a hash, and the value of another key if there is one, by one trip. Raises Gone."""
        asked = [_HGETALL % (len(key), key)] + ([_GET % (len(other), other)] if other is not None else [])
        told = self._reads.ask(asked)
        if told is None:
            raise RedisUnavailable
        found, *others = told
        # A list where the URL says protocol=2.
        fields = found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))
        return fields, others[0] if others else None

    def _read(self, asks: Sequence[list[bytes]]) -> list[list[Any] | None]:
        """Send commands as they go over the wire: a third of the time that the client's own way to do it takes.

        Return the answers to each ask; None to one of a key that is of another type, which says nothing of the others.
        """
        connection: Any = self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            connection.send_packed_command([b"".join(chain.from_iterable(asks))], check_health=False)
            return [_answers(connection, len(commands)) for commands in asks]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)  # type: ignore[no-untyped-call]

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of some keys. Raises Gone."""
        return self._asked(lambda: self._client.mget(keys)) if keys else []

    def put(self, key: bytes, seconds: float) -> None:
        """Note for so long that there is such a key. Raises Gone."""
        self._asked(lambda: self._client.set(key, b"1", px=int(seconds * 1000)))

    def above(self, key: bytes, score: float) -> list[tuple[bytes, float]]:
        """Return the members of a sorted set with a score above this one, and those scores. Raises Gone."""
        return self._asked(  # type: ignore[no-any-return]
            lambda: self._client.zrangebyscore(key, f"({score:.0f}", "+inf", withscores=True)
        )

    def script(self, path: Path) -> Callable[[Sequence[bytes], Sequence[Any]], Any]:
        """Return a function of keys and arguments that runs the Lua script in the file `path`. It raises Gone."""
        text = path.read_bytes()
        self._scripts.append(text)
        loaded = self._client.register_script(text)
        return lambda keys, arguments: self._asked(lambda: loaded(keys, arguments))

    def _asked(self, ask: Callable[[], Any]) -> Any:
        if self._thread is None:
            self.start()
        if self.gone_since is not None and not self._trying():
            raise RedisUnavailable
        try:
            answer = ask()
        except redis.TimeoutError:
            self._late += 1
            if self._late >= _LATE_ANSWERS:
                self._lost("late answers")
            raise RedisUnavailable from None
        except Exception as error:  # noqa: BLE001  # of the library, of a name look-up: nobody's answer depends on it
            if not _of_another_type(error):
                self._lost(type(error).__name__)
            raise RedisUnavailable from None
        self._late = 0
        return answer

    def _trying(self) -> bool:
        return threading.current_thread() is self._thread

    def _lost(self, why: str) -> None:
        with self._lock:
            if self.gone_since is not None:
                return
            self.gone_since = self._monotonic()
        _log.warning("Redis is gone: each process goes on with what it has", extra={"why": why})

    def _keep_registered(self) -> None:
        loaded = False
        while not self._stopped:
            try:
                if not loaded or self.gone_since is not None:
                    # So that no caller has to, which takes three round trips.
                    for text in self._scripts:
                        self._asked(partial(self._client.script_load, text))
                    loaded = True
                if self._register is not None:
                    self._register()
            except RedisUnavailable:
                pass
            except Exception:  # noqa: BLE001  # without this thread Redis would be gone for ever
                _log.exception("Redis could not be tried")
            else:
                if self.gone_since is not None:
                    self.gone_since = None
                    _log.warning("Redis is back")
            self._wake.wait(_ENROLL_SECONDS)
            self._wake.clear()


def _answers(connection: Any, count: int) -> list[Any] | None:
    answers = []
    for _ in range(count):
        try:
            answers.append(connection.read_response())
        except redis.ResponseError as error:
            if not _of_another_type(error):
                raise
    return answers if len(answers) == count else None


def _of_another_type(error: Exception) -> bool:
    """Say whether one key is none of ours, which says nothing of the others."""
    return "WRONGTYPE" in str(error)
