"""gunicorn's gevent worker with three things mended: whose turn it is, who dawdles, and how it stops.

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
import gevent.socket
from gunicorn import util
from gunicorn.workers.ggevent import GeventWorker

from proxy.garbage import Looks

if TYPE_CHECKING:
    from proxy.web.context import Services

REQUEST_SECONDS = 10.0
"""From the first byte of a request to its last, and for a client to take the answer. Braze gives up after 2."""
_QUIET = 20
"""Fewer requests than that in a second, and a look for garbage that takes a part of one keeps few waiting."""
LINGER_SECONDS = 2.0
"""How long a connection is kept for a request that may be on its way already, when we are about to close it."""


class Connection(gevent.socket.socket):  # type: ignore[misc]  # gevent has no types
    """A client's socket that does not wait for ever. To the parser, a client that dawdles has gone."""

    def __init__(self, accepted: Any, idle_seconds: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.idle_seconds = idle_seconds
        self.reading = False
        self._complete_by: float | None = None  # None: no byte of the next request has come
        self._gone = False
        self.settimeout(REQUEST_SECONDS)

    @property
    def idle(self) -> bool:
        """Say whether the client owes us nothing: no byte of a request has come since the last answer."""
        return self.reading and self._complete_by is None

    def answered(self) -> None:
        """Begin to wait for the next request."""
        self._complete_by = None

    def recv(self, *args: Any) -> bytes:
        """Return what came; nothing when the client has gone, or was silent for too long, between two requests.

        In the midst of a request either is a ConnectionResetError, so that half a body is not taken for a whole one.
        """
        left = self.idle_seconds if self._complete_by is None else self._complete_by - time.monotonic()
        self.reading = True
        data = b""
        try:
            self.settimeout(max(left, 0.001))
            data = super().recv(*args)
        except TimeoutError:
            pass
        except OSError as error:
            if error.errno != errno.EBADF:  # gevent's word for our own shutdown
                raise
        finally:
            self.reading = False
            self._gone = not data
            self.settimeout(REQUEST_SECONDS)
        if self._complete_by is None:
            self._complete_by = time.monotonic() + REQUEST_SECONDS
        elif not data:
            raise _reset()
        return data

    def sendall(self, *args: Any) -> None:
        """Send; a client that does not take it counts as one that reset the connection, which is no news."""
        try:
            super().sendall(*args)
        except TimeoutError:
            self._gone = True
            raise _reset() from None

    def close(self) -> None:
        """Close, and not before the client has what we sent: with bytes unread a close would cut it off."""
        if self._gone:
            super().close()
        else:
            self._gone = True
            self._complete_by = time.monotonic() + LINGER_SECONDS
            util.close_graceful(self, timeout=LINGER_SECONDS)


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the client was too slow, or has gone")


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Many connections on one thread: one that is idle or half sent costs a few kilobytes and no time."""

    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._connections: dict[Connection, None] = {}  # the longest unused first
        self._idle_seconds = float(self.cfg.keepalive)
        self._looks = Looks()
        self._answered = 0

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse what this worker would leave undone in silence."""
        if cfg.is_ssl:
            raise RuntimeError("--certfile and --keyfile are not supported: let a proxy in front end TLS")

    def timeout_ctx(self) -> contextlib.AbstractContextManager[None]:
        """Bound nothing: the connection does, and knows what it waits for."""
        return contextlib.nullcontext()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection until it ends."""
        connection = Connection(client, self._idle_seconds)
        self._connections[connection] = None
        if len(self._connections) >= self.worker_connections:
            self._make_room()
        try:
            super(GeventWorker, self).handle(listener, connection, addr)  # GeventWorker's takes the time limits off
        finally:
            self._connections.pop(connection, None)

    def handle_request(self, listener_name: Any, req: Any, sock: Connection, addr: Any) -> None:
        """Serve one request, then let the others have their turn."""
        req.should_close = _Closing(self, asked=req.should_close())
        super().handle_request(listener_name, req, sock, addr)
        sock.answered()
        if sock in self._connections:
            self._connections[sock] = self._connections.pop(sock)
        # A client that is quick enough has sent its next request by now, and would be served again before any other
        # one was looked at. With 64 busy connections p99 was 0.7 s without this line and is 0.03 s with it.
        gevent.sleep(0)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer and log a request that could not be read, or failed outside the application.

        gunicorn's own writes what it read into its log and its answer.
        """
        from proxy.web.unreadable import refusal

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
        from proxy.web.context import installed

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
                server.max_accept = 1  # the other workers want some too
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
        from proxy.telemetry import tell_overdue

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
        self._services.flights.drain(until - time.monotonic())
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
