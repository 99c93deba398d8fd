"""A gevent worker for gunicorn with limits per connection, fair scheduling, and a stop that loses no answer.

The master imports this module before it forks, but gevent patches locks, sockets and sleep only in the worker. So do
not import the rest of the package, or a module that takes a lock, at the top of this file. Such a module would keep
unpatched locks, which block the whole process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event
import gevent.pool
import gevent.select
import gevent.server
from gunicorn.errors import AppImportError
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.ggevent import GeventWorker

from proxy.server import gc_tuning
from proxy.server.connection import LINGER_SECONDS, Connection, Requests

if TYPE_CHECKING:
    from proxy.storage.redis.client import RedisClient
    from proxy.web.services import Services


_RELIEF_SECONDS = 0.5
"""Time between two checks of the queues of other workers. A queue that is never empty gets help after two checks."""
_PROBE_SECONDS = 2.0
"""Longer than Redis may take to answer. Redis delays the start of a worker by at most twice this time."""


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves many connections on one thread. An idle connection costs a few kilobytes and no processor time."""

    alive: bool
    own_listeners: range | None = None
    """The places in `sockets` of the listeners of this worker; None for all. `gunicorn.conf.py` assigns them."""
    _services: Services

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[Connection, None] = {}  # least recently used first
        self._idle_seconds = float(self.cfg.keepalive)
        self._stopping = gevent.event.Event()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Raise RuntimeError for gunicorn options that this worker does not support."""
        if cfg.is_ssl:
            raise RuntimeError("--certfile and --keyfile are not supported; terminate TLS in a reverse proxy")
        supported_values = {
            "protocol": "http",
            "http2_cleartext": "off",
            "proxy_protocol": "off",
            "http_parser": "python",
        }
        for option, supported in supported_values.items():
            if getattr(cfg, option) != supported:
                raise RuntimeError(f"{option} must be {supported}; remove the option from gunicorn's settings")

    def init_process(self) -> None:
        """Prepare the process, and serve.

        gunicorn installs the handlers of signals only after gevent has patched the process. Until then, the worker has
        the handlers of the master, which ignore a stop signal here, so the master would kill the worker after 25 s.
        """
        signal.signal(signal.SIGTERM, self.handle_exit)
        super().init_process()

    def patch(self) -> None:
        """Replace the blocking functions of the standard library by those of gevent."""
        super().patch()
        # Condition.notify() tries to acquire its own lock, as a check. With gevent, a failed attempt lets all others
        # run, so each release of a semaphore or queue lasted a turn of the event loop. 1,000 releases took 3.5 s.
        threading.Condition._is_owned = _is_locked  # type: ignore[attr-defined]

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it ends."""
        connection = Connection(client, self._idle_seconds)
        self._connections[connection] = None
        if len(self._connections) >= self.worker_connections:
            self._make_room()
        try:
            # Not from the listener: a worker that stops may have closed the listener after it accepted this connection.
            self._serve(connection.getsockname(), connection, addr)
        finally:
            connection.close()
            self._connections.pop(connection, None)

    def _serve(self, listener_name: Any, connection: Connection, addr: Any) -> None:
        # Replaces gunicorn's own loop, because no setting changes its parser, which does not limit unread bodies.
        try:
            for request in Requests(self.cfg, connection, addr):
                self.handle_request(listener_name, request, connection, addr)
        except (StopIteration, NoMoreData, ConnectionError):
            pass  # the last answer was sent, or the client has left
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self.log.exception("connection_failed")
        except Exception as error:  # noqa: BLE001  # logged and answered
            self.handle_error(None, connection, addr, error)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        """Serve one request, then yield to other connections."""
        sock.head_ended()
        req.worker = self
        super().handle_request(listener_name, req, sock, addr)
        sock.flush()
        if sock in self._connections:
            self._connections[sock] = self._connections.pop(sock)
        # A fast client has already sent its next request. Without this line, gevent would serve that request before it
        # polls the other connections. With 64 busy connections, p99 is 0.03 s with this line and 0.7 s without it.
        gevent.sleep(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer and log a request that is not valid HTTP, or that failed outside the application.

        gunicorn's own handler would write parts of the request into the log and the answer.
        """
        from proxy.server.bad_requests import refusal

        with contextlib.suppress(OSError):  # the client has left
            client.sendall(refusal(exc, addr))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop. After this call, every answer closes its connection."""
        super().handle_exit(sig, frame)
        self._stopping.set()

    def load_wsgi(self) -> None:
        """Load the application, make gunicorn and the garbage collector faster, and connect to Redis."""
        super().load_wsgi()
        from proxy.server import gunicorn_cache
        from proxy.web.services import installed

        gunicorn_cache.install(self.cfg)
        self._services = installed(self.wsgi)
        gc_tuning.tune()
        if self._services.redis:
            if self.age == 1:
                self._require_permissions(self._services.redis)
            self._services.redis.start()
            self._wait_for_snapshots(self._services.redis)

    def _wait_for_snapshots(self, redis: RedisClient) -> None:
        """Wait until this worker has the snapshots in Redis. Without them, requests for cohorts cost calls."""
        deadline = time.monotonic() + _PROBE_SECONDS
        while not self._services.snapshots.caught_up and time.monotonic() < deadline:
            if redis.unavailable_since is not None:
                return
            gevent.sleep(0.01)

    def _require_permissions(self, redis: RedisClient) -> None:
        """Stop the start of the server if Redis refuses the user of REDIS_URL.

        Only the first worker calls this method: a worker that is started later must not stop the others.
        """
        from proxy.storage.redis import RedisRefused, RedisUnavailable

        with gevent.Timeout(_PROBE_SECONDS, False), contextlib.suppress(RedisUnavailable):
            try:
                redis.probe()
            except RedisRefused as error:
                raise AppImportError(str(error)) from None

    def run(self) -> None:
        """Serve until the stop signal, then finish requests and calls within the graceful timeout."""
        pool = gevent.pool.Pool(self.worker_connections)
        places = range(len(self.sockets)) if self.own_listeners is None else self.own_listeners
        servers, others = [], []
        for place, listener in enumerate(self.sockets):
            if place in places:
                servers.append(gevent.server.StreamServer(listener, partial(self.handle, listener), spawn=pool))
                servers[-1].start()
            else:
                others.append(listener)
        relief = gevent.spawn(self._relieve, others, pool)
        while self.alive:
            self.notify()
            self._stopping.wait(1.0)
            self._every_second()
            if os.getppid() != self.ppid:
                self.log.info("master_exited")
                self.alive = False
        self._services.draining.set()
        relief.kill()
        for server in servers:
            server.stop_accepting()
        for listener in self.sockets:
            self._accept_waiting(listener, pool)
        for listener in (*servers, *others):
            listener.close()
        self._stop(pool)

    def _relieve(self, listeners: list[Any], pool: Any) -> None:
        """Accept the connections that wait for another worker, which is busy, was killed or has not started yet."""
        waiting: set[Any] = set()
        while listeners:
            gevent.sleep(_RELIEF_SECONDS)
            waited, waiting = waiting, set(gevent.select.select(listeners, [], [], 0)[0])
            for listener in waited & waiting:
                self._accept_waiting(listener, pool)

    def _accept_waiting(self, listener: Any, pool: Any) -> None:
        """Accept all connections that wait in the queue of `listener`."""
        listener.setblocking(False)
        with contextlib.suppress(OSError):  # no connection waits, or the process has too many open files
            while not pool.full():
                client, address = listener.accept()
                pool.spawn(self.handle, listener, client, address)

    def _every_second(self) -> None:
        """Sample the metrics for the status page and for other workers, and log overdue counts."""
        from proxy.monitoring.logs import log_overdue

        try:
            self._services.history.tick()
            self._services.metrics.sample()  # another worker may answer /metrics
            log_overdue()
        except Exception:  # an error in the metrics must not stop the worker
            self.log.exception("metrics_sampling_failed")

    def notify(self) -> None:
        """Report to the master that this worker is alive.

        GeventWorker's method would also end the process at once if the master has exited.
        """
        self.tmp.notify()

    def _stop(self, pool: Any) -> None:
        # The master kills the worker at the end of the graceful timeout.
        deadline = time.monotonic() + self.cfg.graceful_timeout - 1.0
        self._idle_seconds = LINGER_SECONDS
        for connection in self._connections:
            connection.idle_seconds = LINGER_SECONDS
        gevent.spawn_later(
            LINGER_SECONDS, _stop_reading, [connection for connection in self._connections if connection.reading]
        )
        while len(pool) and (remaining := deadline - time.monotonic()) > 0:
            self.notify()
            pool.join(min(1.0, remaining))
        self._services.scheduler.drain(deadline - time.monotonic())
        if self._services.event_stream:
            self._services.event_stream.drain(deadline - time.monotonic())
        if self._services.redis:
            self._services.redis.stop()

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest, so that a new client can connect."""
        idle = next((connection for connection in self._connections if connection.idle), None)
        if idle is not None:
            del self._connections[idle]
            _stop_reading([idle])


def _is_locked(condition: threading.Condition) -> bool:
    """Return whether the lock of `condition` is held. Conditions with an RLock have a check of their own."""
    locked: bool = condition._lock.locked()  # type: ignore[attr-defined]
    return locked


def _stop_reading(connections: list[Connection]) -> None:
    """Stop reading from connections that have sent no request, or an incomplete request."""
    for connection in connections:
        if connection.reading:
            with contextlib.suppress(OSError):  # the client has left
                connection.shutdown(socket.SHUT_RD)
