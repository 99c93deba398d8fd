"""Connects to Redis, and detects whether Redis is available.

A Redis that is slow, restarting, read-only or unreachable counts as unavailable. Commands then fail at once, and
a thread tests Redis several times a second until it works again. Each change is logged in one line.

If Redis forbids a command, only that command fails, and the missing permission is logged once a minute. Without the
commands of the quota, Redis counts as unavailable. If Redis is full, only the commands that store user data fail: the
scripts of the quota and of `forget` have the flag allow-oom (redis.io/docs, "Redis Lua API reference").
"""

from __future__ import annotations

import logging
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from proxy.monitoring.clock import SYSTEM_CLOCK, Clock
from proxy.monitoring.logs import OncePerMinute
from proxy.storage.redis import RedisRefused, RedisUnavailable
from proxy.storage.redis.auto_pipeline import AutoPipeline
from proxy.storage.redis.errors import is_full, is_pool_exhausted, is_refusal, is_unusable, is_wrong_type, translate
from proxy.storage.redis.permissions import (
    KEY_PREFIX,
    acl_rule,
    first_probe,
    further_probes,
    missing_permissions,
)

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 0.4
"""Timeout of a response. A caller may wait three times as long, because responses of a burst are read in turn."""
_READ_SECONDS = 0.8
"""Timeout of a read, including the wait for a batch. A longer wait means that Redis is too slow for the requests."""
_MAX_TIMEOUTS = 3  # consecutive; a busy machine may cause a single timeout
_CONNECTION_SECONDS = 1.0  # wait for a free connection; if all are in use, Redis is not the cause
_REGISTER_SECONDS = 0.3  # shorter than SETTLE_SECONDS, in which all processes must report their reservations
_CONNECTIONS = 64
_HGETALL = b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b\r\n"
_GET = b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n"


class RedisStats(NamedTuple):
    """The number of round trips of callers, and whether the thread that registers this process is running."""

    round_trips: int
    registers: bool


class RedisClient:
    """Runs commands and scripts, each in one round trip. Thread-safe. Connects with the first command.

    Every command may raise RedisUnavailable. `prefix`: start of the key that `probe` uses.
    `unavailable_since`: monotonic seconds; None while Redis is available. `full`: whether Redis refuses new data.
    """

    def __init__(
        self, url: str, *, verify: bool = True, prefix: bytes = KEY_PREFIX, clock: Clock = SYSTEM_CLOCK
    ) -> None:
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
            # Otherwise the library raises the timeout to ten seconds while a managed Redis moves to another machine.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            driver_info=None,  # saves two round trips per connection
            **options,
        )
        self._client = redis.Redis(connection_pool=self._pool)
        self._clock = clock
        self._lock = threading.Lock()
        self._register: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._wake = threading.Event()
        self._scripts: list[bytes] = []
        self._reads = AutoPipeline[list[bytes], list[Any] | None](
            lambda batch: self._run(lambda: self._read(batch)),
            max_wait=_READ_SECONDS,
            on_timeout=lambda: self._mark_unavailable("reads are too slow"),
        )
        self._timeouts = 0
        self._round_trips = 0
        self.id = secrets.token_hex(8)
        """Identifies this process to the other processes."""
        self._probe_key = prefix + b"check:" + self.id.encode()
        self._permission_log = OncePerMinute(_log, "redis_permission_missing", clock)
        self._full_log = OncePerMinute(_log, "redis_full", clock)
        self._refused = self._quota_refused = False
        self._missing = ""  # the last text of `probe` about permissions
        self.unavailable_since: float | None = None
        self.full = False

    def set_registration(self, register: Callable[[], None]) -> None:
        """Set the function that registers this process.

        The client's thread calls `register` several times a second, and so detects when Redis is available again."""
        self._register = register

    def start(self) -> None:
        """Start the thread that registers this process, unless it is running. Call this after a fork, not before."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._keep_registered, name="redis", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Stop the thread that registers this process. The registration expires later. Commands still work."""
        self._stopped = True
        self._wake.set()

    def register_soon(self) -> None:
        """Register this process at once, because Redis lost the registration."""
        self._wake.set()

    def stats(self) -> RedisStats:
        """Return counts for tests."""
        return RedisStats(self._round_trips, self._thread is not None and self._thread.is_alive())

    def hash(self, key: bytes) -> dict[bytes, bytes]:
        """Return all fields of a hash."""
        return self.hash_and_value(key, None)[0]

    def hash_and_value(self, key: bytes, other: bytes | None) -> tuple[dict[bytes, bytes], bytes | None]:
        """Return all fields of a hash, and the value of the key `other` unless it is None, in one round trip."""
        commands = [_HGETALL % (len(key), key)] + ([_GET % (len(other), other)] if other is not None else [])
        responses = self._reads.run(commands)
        if responses is None:
            raise RedisUnavailable
        fields, *values = responses
        # The fields are a list if the URL has protocol=2.
        fields = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
        return fields, values[0] if values else None

    def _read(self, batch: Sequence[list[bytes]]) -> list[list[Any] | None]:
        """Send packed commands, in a third of the time of the library's pipeline.

        Returns the responses to each list of commands. The responses to a list are None if a key has the wrong type.
        """
        connection: Any = self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            connection.send_packed_command([b"".join(chain.from_iterable(batch))], check_health=False)
            return [_responses(connection, len(commands)) for commands in batch]
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)  # type: ignore[no-untyped-call]

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of these keys."""
        return self._run(lambda: self._client.mget(keys)) if keys else []

    def put(self, key: bytes, seconds: float) -> None:
        """Set a key that expires after `seconds`."""
        self._run(lambda: self._client.set(key, b"1", px=int(seconds * 1000)))

    def delete(self, key: bytes) -> None:
        """Delete a key."""
        self._run(lambda: self._client.delete(key))

    def put_fields(self, key: bytes, fields: Mapping[str, bytes], seconds: float) -> None:
        """Set fields of a hash that expires after `seconds`."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hset(key, mapping=dict(fields))  # type: ignore[arg-type]  # a dict is invariant
        pipeline.pexpire(key, int(seconds * 1000))
        self._run(pipeline.execute)

    def fields(self, key: bytes, names: Sequence[str | bytes]) -> list[bytes | None]:
        """Return the values of these fields of a hash."""
        return self._run(lambda: self._client.hmget(key, list(names)))  # type: ignore[no-any-return]

    def field_count(self, key: bytes) -> int:
        """Return the number of fields of a hash."""
        return int(self._run(lambda: self._client.hlen(key)))

    def scan_fields(self, key: bytes, at_once: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield the fields of a hash, about `at_once` per round trip. A field may come twice while others write."""
        cursor = 0
        while True:
            cursor, fields = self._run(partial(self._client.hscan, key, cursor, count=at_once))
            yield from fields.items()
            if cursor == 0:
                return

    def delete_fields(self, key: bytes, names: Sequence[bytes]) -> int:
        """Delete fields of a hash, and return how many fields existed."""
        return int(self._run(lambda: self._client.hdel(key, *names)))

    def members_above(self, key: bytes, score: float) -> list[tuple[bytes, float]]:
        """Return the members of a sorted set with a score above `score`, and their scores."""
        return self._run(  # type: ignore[no-any-return]
            lambda: self._client.zrangebyscore(key, f"({score:.0f}", "+inf", withscores=True)
        )

    def script(self, path: Path, *, required: bool = False) -> Callable[[Sequence[bytes], Sequence[Any]], Any]:
        """Return a function of keys and arguments that runs the Lua script in the file `path`.

        `required`: whether Redis counts as unavailable if it forbids the script.
        """
        text = path.read_bytes()
        self._scripts.append(text)
        loaded = self._client.register_script(text)
        return lambda keys, arguments: self._run(lambda: loaded(keys, arguments), required=required)

    def probe(self) -> None:
        """Try every command that the service uses, in two round trips and without changing its data.

        Raises RedisRefused if the user of the URL may not run a command or use a key, and RedisUnavailable if Redis
        does not work. The text of the error names the problem and the fix.
        """
        try:
            (created,) = self._replies([first_probe(self._probe_key)])
            probes = list(further_probes(self._probe_key, created=not isinstance(created, Exception)))
            replies = self._replies([command for _, command in probes])
        except Exception as error:  # noqa: BLE001  # any error of the library or of a name lookup
            raise translate(error) from None
        by_name = {"set": created} | dict(zip((name for name, _ in probes), replies, strict=True))
        refused = {name: str(reply) for name, reply in by_name.items() if is_refusal(reply)}
        if refused:
            raise RedisRefused(missing_permissions(refused))
        if unusable := next(filter(is_unusable, by_name.values()), None):
            raise translate(unusable)

    def _replies(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Run commands in one round trip. Errors of single commands are returned."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        return pipeline.execute(raise_on_error=False)

    def _run(self, command: Callable[[], Any], *, required: bool = False) -> Any:
        if self._thread is None:
            self.start()
        if threading.current_thread() is not self._thread:
            if self.unavailable_since is not None:
                raise RedisUnavailable
            self._round_trips += 1
        try:
            response = command()
        except redis.TimeoutError:
            self._timeouts += 1
            if self._timeouts >= _MAX_TIMEOUTS:
                self._mark_unavailable("answers are too slow")
            raise RedisUnavailable from None
        except Exception as error:  # noqa: BLE001  # any error of the library or of a name lookup, because no answer may depend on Redis
            if is_refusal(error):
                self._refuse(required)
            elif is_full(error):
                self.full = True
                self._full_log.note("", fix=str(translate(error)))
            elif not is_pool_exhausted(error) and (required or not is_wrong_type(error)):
                self._mark_unavailable(str(translate(error)))
            raise RedisUnavailable from None
        self._timeouts = 0
        return response

    def _mark_unavailable(self, why: str) -> None:
        with self._lock:
            if self.unavailable_since is not None:
                return
            self.unavailable_since = self._clock.monotonic()
        _log.warning("redis_unavailable", extra={"why": why})

    def _refuse(self, required: bool) -> None:
        """Record that Redis forbids a command. The thread then finds and logs the missing permission."""
        with self._lock:
            self._refused = True
            if required:
                self._quota_refused = True
                self.unavailable_since = self.unavailable_since or self._clock.monotonic()

    def _check_permissions(self) -> None:
        """Log a missing permission until it is granted. Detect that Redis is no longer full."""
        refused, self._refused = self._refused, False
        if not (refused or self._quota_refused or self._missing or self.full):
            return
        try:
            self.probe()
        except RedisRefused as error:
            self._missing = str(error)
        except RedisUnavailable:
            return
        else:
            self.full = False
            # If the probe never failed, Redis forbids a key that the probe does not use.
            fix, self._missing = "" if self._missing else f"run ACL SETUSER <user> {acl_rule()}", ""
            self._quota_refused = False
            if refused and fix:
                self._permission_log.note("", fix=fix)
        if self._missing:
            self._permission_log.note("", fix=self._missing)

    def _keep_registered(self) -> None:
        loaded = False
        while not self._stopped:
            self._check_permissions()
            try:
                if not loaded or self.unavailable_since is not None:
                    # Otherwise the first call of each script takes three round trips.
                    for text in self._scripts:
                        self._run(partial(self._client.script_load, text), required=True)
                    loaded = True
                if self._register is not None:
                    self._register()
            except RedisUnavailable:
                pass
            except Exception:  # noqa: BLE001  # without this thread, Redis would stay unavailable
                _log.exception("redis_register_failed")
            else:
                if self.unavailable_since is not None and not self._quota_refused:
                    self.unavailable_since = None
                    _log.warning("redis_available")
            self._wake.wait(_REGISTER_SECONDS)
            self._wake.clear()


def _responses(connection: Any, count: int) -> list[Any] | None:
    responses = []
    for _ in range(count):
        try:
            responses.append(connection.read_response())
        except redis.ResponseError as error:
            if not is_wrong_type(error):
                raise
    return responses if len(responses) == count else None
