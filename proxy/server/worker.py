"""gunicorn's gevent worker with limits on each connection, turns for all of them, and a stop that loses no answer.

The master imports this module before it forks, and gevent replaces locks, sockets and sleeping only in the worker, as
gunicorn does it. So nothing of ours, and nothing that takes a lock, may be imported here at the top: it would keep the
ones that block the whole process.
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

from proxy.server.connection import LINGER_SECONDS, Connection, Requests
from proxy.server.gc_tuning import GcTuner

if TYPE_CHECKING:
    from proxy.web.services import Services

_QUIET = 20
"""Fewer requests than that in a second, and a look for garbage that takes a part of one keeps few waiting."""


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Many connections on one thread: one that is idle or half sent costs a few kilobytes and no time."""

    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[Connection, None] = {}  # the longest unused first
        self._idle_seconds = float(self.cfg.keepalive)
        self._looks = GcTuner()
        self._answered = 0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what this worker would leave undone in silence."""
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
        # Not gunicorn's own loop: no setting makes it use a parser with limits on a body that nobody reads.
        try:
            for request in Requests(self.cfg, connection, addr):
                self.handle_request(listener_name, request, connection, addr)
        except (StopIteration, NoMoreData, ConnectionError):
            pass  # the answer was the last one, or the client has left
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self.log.exception("a connection failed")
        except Exception as error:  # noqa: BLE001  # logged and answered
            self.handle_error(None, connection, addr, error)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        """Serve one request, then let the others have their turn."""
        sock.head_ended()
        req.should_close = _Closing(self, asked=req.should_close())
        super().handle_request(listener_name, req, sock, addr)
        if sock in self._connections:
            self._connections[sock] = self._connections.pop(sock)
        # A client that is quick enough has sent its next request by now, and would be served again before any other
        # one was looked at. With 64 busy connections p99 was 0.7 s without this line and is 0.03 s with it.
        gevent.sleep(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer and log a request that could not be read, or failed outside the application.

        gunicorn's own writes what it read into its log and its answer.
        """
        from proxy.server.bad_requests import refusal

        with contextlib.suppress(OSError):  # it has gone, and whom else to tell
            client.sendall(refusal(exc, addr))

    def init_signals(self) -> None:
        """Make a signal wake the main loop."""
        self._stopping = gevent.event.Event()
        self._services: Services | None = None
        super().init_signals()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Begin to stop: from here on every answer says so."""
        super().handle_exit(sig, frame)
        if self._services:
            self._services.draining.set()
        self._stopping.set()

    def load_wsgi(self) -> None:
        """Load the application, and with it what is told of the stop."""
        super().load_wsgi()
        from proxy.web.services import installed

        self._services = installed(self.wsgi)
        self._looks.begin()
        if self._services.redis:
            self._services.redis.start()

    def run(self) -> None:
        """Serve until told to stop; then finish what was begun, within the graceful timeout."""
        places = gevent.pool.Pool(self.worker_connections)
        servers = [gevent.server.StreamServer(s, handle=partial(self.handle, s), spawn=places) for s in self.sockets]
        for server in servers:
            if self.cfg.workers > 1:
                # gunicorn's worker accepts 1 in each turn of the loop, for the other workers to have some. With many
                # busy connections a turn is long: of 1,000 connections opened at once the last waited for 4 s.
                server.max_accept = 100
            server.start()
        while self.alive:
            self.notify()
            self._stopping.wait(1.0)
            self._look()
            if os.getppid() != self.ppid:
                self.log.info("the master has gone")
                self.alive = False
        self._stop(servers, places)

    def _look(self) -> None:
        """Note how things stand, for the status page and for the workers that are asked about all; tell counts."""
        from proxy.monitoring.logs import tell_overdue

        assert self._services  # noqa: S101  # nothing runs before it is loaded
        try:
            answered, self._answered = self.nr - self._answered, self.nr
            self._looks.tick(quiet=answered < _QUIET)
            self._services.history.tick()
            self._services.metrics.sample()  # other workers are asked about this one, too
            tell_overdue()
        except Exception:  # messages are worth more than their count
            self.log.exception("how things stand could not be noted")

    def notify(self) -> None:
        """Tell the master that this worker lives. GeventWorker's ends the process when the master has gone."""
        self.tmp.notify()

    def _stop(self, servers: list[Any], places: Any) -> None:
        # The master kills what is left after the whole of it.
        until = time.monotonic() + self.cfg.graceful_timeout - 1.0
        assert self._services  # noqa: S101  # nothing runs before it is loaded
        self._services.draining.set()  # also when no signal came, but the master has gone
        for server in servers:
            server.close()
        self._idle_seconds = LINGER_SECONDS
        for connection in self._connections:
            connection.idle_seconds = LINGER_SECONDS
        gevent.spawn_later(LINGER_SECONDS, _cut_off, [one for one in self._connections if one.reading])
        while len(places) and (left := until - time.monotonic()) > 0:
            self.notify()
            places.join(min(1.0, left))
        self._services.scheduler.drain(until - time.monotonic())
        if self._services.redis:
            self._services.redis.stop()

    def _make_room(self) -> None:
        """Close the connection that has been idle for longest: nobody else could come until it ends by itself."""
        longest = next((connection for connection in self._connections if connection.idle), None)
        if longest is not None:
            del self._connections[longest]
            _cut_off([longest])


class _Closing:
    """Whether a connection ends with an answer: as its headers said, whatever begins between them and its end.

    gunicorn looks only before the application runs; who waits for a call while we begin to stop must hear of it.
    """

    __slots__ = ("_asked", "_said", "_worker")

    def __init__(self, worker: Worker, *, asked: bool) -> None:
        self._worker = worker
        self._asked = asked
        self._said: bool | None = None

    def __call__(self) -> bool:
        if self._said is None:
            self._said = self._asked or not self._worker.alive
        return self._said


def _cut_off(connections: list[Connection]) -> None:
    """End the reading of those that have sent nothing, or half a request, for as long as we linger."""
    for connection in connections:
        if connection.reading:
            with contextlib.suppress(OSError):  # it went meanwhile
                connection.shutdown(socket.SHUT_RD)
