"""gunicorn's gevent worker with limits on each connection, fair turns, and a stop that loses no answer.

The master imports this module before it forks; gunicorn lets gevent patch locks, sockets and sleep only in the worker.
So import neither the rest of the package nor anything that takes a lock at the top: it would keep the unpatched locks,
which block the whole process.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import gevent
import gevent.event
import gevent.pool
import gevent.server
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.ggevent import GeventWorker

from proxy.server import gc_tuning
from proxy.server.connection import LINGER_SECONDS, Connection, Requests

if TYPE_CHECKING:
    from proxy.web.services import Services


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves many connections on one thread: an idle or half-sent one costs a few kilobytes and no time."""

    alive: bool
    _services: Services

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[Connection, None] = {}  # least recently used first
        self._idle_seconds = float(self.cfg.keepalive)
        self._stopping = gevent.event.Event()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Reject options that this worker would silently ignore."""
        if cfg.is_ssl:
            raise RuntimeError("--certfile and --keyfile are not supported: let a proxy in front end TLS")
        for option, supported in (("protocol", "http"), ("http2_cleartext", "off"), ("proxy_protocol", "off")):
            if getattr(cfg, option) != supported:
                raise RuntimeError(f"{option} must be {supported}; remove the option from gunicorn's settings")

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it ends."""
        connection = Connection(client, self._idle_seconds)
        self._connections[connection] = None
        if len(self._connections) >= self.worker_connections:
            self._make_room()
        try:
            self._serve(listener.getsockname(), connection, addr)
        finally:
            connection.close()
            self._connections.pop(connection, None)

    def _serve(self, listener_name: Any, connection: Connection, addr: Any) -> None:
        # Replaces gunicorn's own loop: no setting gives it a parser with limits on an unread body.
        try:
            for request in Requests(self.cfg, connection, addr):
                self.handle_request(listener_name, request, connection, addr)
        except (StopIteration, NoMoreData, ConnectionError):
            pass  # the last answer was sent, or the client has left
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self.log.exception("a connection failed")
        except Exception as error:  # noqa: BLE001  # logged and answered
            self.handle_error(None, connection, addr, error)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        """Serve one request, then yield to other connections."""
        sock.head_ended()
        req.worker = self
        super().handle_request(listener_name, req, sock, addr)
        if sock in self._connections:
            self._connections[sock] = self._connections.pop(sock)
        # A quick client has sent its next request by now and would be served again before any other connection is
        # polled. With 64 busy connections p99 was 0.7 s without this line and is 0.03 s with it.
        gevent.sleep(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer and log a request that could not be read or failed outside the application.

        gunicorn's own handler writes parts of the request into its log and its answer.
        """
        from proxy.server.bad_requests import refusal

        with contextlib.suppress(OSError):  # the client has left
            client.sendall(refusal(exc, addr))

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop: from now on every answer closes its connection."""
        super().handle_exit(sig, frame)
        self._stopping.set()

    def load_wsgi(self) -> None:
        """Load the application and start what runs beside it."""
        super().load_wsgi()
        from proxy.web.services import installed

        self._services = installed(self.wsgi)
        gc_tuning.tune()
        if self._services.redis:
            self._services.redis.start()

    def run(self) -> None:
        """Serve until the stop; then finish requests and calls within the graceful timeout."""
        places = gevent.pool.Pool(self.worker_connections)
        servers = [gevent.server.StreamServer(s, handle=partial(self.handle, s), spawn=places) for s in self.sockets]
        for server in servers:
            if self.cfg.workers > 1:
                # gunicorn accepts 1 connection in each turn of the loop, to share them with the other workers. With
                # many busy connections a turn is long: of 1,000 connections opened at once the last waited for 4 s.
                server.max_accept = 100
            server.start()
        while self.alive:
            self.notify()
            self._stopping.wait(1.0)
            self._every_second()
            if os.getppid() != self.ppid:
                self.log.info("the master has gone")
                self.alive = False
        self._stop(servers, places)

    def _every_second(self) -> None:
        """Sample the metrics, for the status page and for the other workers, and log overdue counts."""
        from proxy.monitoring.logs import log_overdue

        try:
            self._services.history.tick()
            self._services.metrics.sample()  # another worker may answer /metrics
            log_overdue()
        except Exception:  # serving matters more than counting
            self.log.exception("the metrics could not be sampled")

    def notify(self) -> None:
        """Report to the master that this worker is alive. GeventWorker's ends the process when the master is gone."""
        self.tmp.notify()

    def _stop(self, servers: list[Any], places: Any) -> None:
        # The master kills the worker when the graceful timeout is over.
        until = time.monotonic() + self.cfg.graceful_timeout - 1.0
        self._services.draining.set()
        for server in servers:
            server.close()
        self._idle_seconds = LINGER_SECONDS
        for connection in self._connections:
            connection.idle_seconds = LINGER_SECONDS
        gevent.spawn_later(
            LINGER_SECONDS, _stop_reading, [connection for connection in self._connections if connection.reading]
        )
        while len(places) and (remaining := until - time.monotonic()) > 0:
            self.notify()
            places.join(min(1.0, remaining))
        self._services.scheduler.drain(until - time.monotonic())
        if self._services.redis:
            self._services.redis.stop()

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest, so that a new client can connect."""
        idle = next((connection for connection in self._connections if connection.idle), None)
        if idle is not None:
            del self._connections[idle]
            _stop_reading([idle])


def _stop_reading(connections: list[Connection]) -> None:
    """End the reading of connections that have sent no request, or only part of one."""
    for connection in connections:
        if connection.reading:
            with contextlib.suppress(OSError):  # the client has left
                connection.shutdown(socket.SHUT_RD)
