"""A client's connection and the requests read from it, with limits on time, bytes and turns.

The worker imports this module before gevent replaces locks: import nothing that takes one.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from typing import Any

import gevent
import gevent.socket
from gunicorn import http
from gunicorn.http.errors import LimitRequestHeaders

REQUEST_SECONDS = 10.0
"""From the first byte of a request to its last, and for a client to take the answer. Braze gives up after 2."""
LINGER_SECONDS = 2.0
"""How long a connection is kept before it is closed: for its client to read the answer, and while the worker stops for
a request that may already be on its way."""
HEADER_BYTES = 32 * 1024
"""All headers of a request together, without the request line."""
UNREAD_BODY_BYTES = 64 * 1024
"""Of a body that the application did not read, chunk sizes included, before the connection is closed."""
_TRAILER_BYTES = 4096
"""Nothing reads trailers, and gunicorn searches all of them again with every piece that comes."""
_RECEIVED_AT_ONCE = 8192
"""The size of gunicorn's reads, unless the length of what comes is known."""
_UNREAD_AT_ONCE = 1024
"""A body of 1-byte chunks takes 0.9 ms of processor time per KiB, and this much is handled in one go."""
_TURN_SECONDS = 0.001
_SHORTEST_SLEEP = 1e-6
"""With a sleep of 0, gevent resumes before it looks which other connections are ready."""
_HEAD_ENDS = b"\n\r\n"


class Connection(gevent.socket.socket):  # type: ignore[misc]  # gevent has no types
    """A client's socket with time limits, which lets other connections have their turn while it reads."""

    # A worker holds thousands of connections; each would have a dictionary.
    __slots__ = (
        "_complete_by",
        "_ended",
        "_head_bytes",
        "_head_tail",
        "_in_head",
        "_sent",
        "_turn_ends",
        "_unread_allowed",
        "idle_seconds",
        "reading",
    )

    def __init__(self, accepted: Any, idle_seconds: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.idle_seconds = idle_seconds
        self.reading = False
        self._ended = False
        self.request_ended()
        self.settimeout(REQUEST_SECONDS)

    @property
    def idle(self) -> bool:
        """Say whether no byte of a request has come since the last answer."""
        return self.reading and self._complete_by is None

    def request_ended(self) -> None:
        """Wait for the next request."""
        self._complete_by: float | None = None
        self._turn_ends = 0.0
        self._in_head = True
        self._head_bytes = 0  # as far as the parser has it
        self._head_tail = b""
        self._unread_allowed: int | None = None
        self._sent = False

    def head_ended(self) -> None:
        """Read the body of a request from here on."""
        self._in_head = False
        if self._complete_by is None:  # the head came together with the request before
            self._begin()

    def answered(self) -> None:
        """Allow the client to send only UNREAD_BODY_BYTES more of this request."""
        self._unread_allowed = UNREAD_BODY_BYTES

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return the bytes that came, or none if the client has left or stayed silent between two requests.

        ConnectionResetError if the client leaves, is too slow or sends too much within a request: half a body must
        not be taken for a whole one.
        """
        if not self._in_head:
            return self._receive(size, flags)
        data = self._receive(size, flags)
        if self._head_bytes:
            data = self._more_of_head(data, size)
        self._head_bytes += len(data)
        self._head_tail = (self._head_tail + data)[-2:]
        return data

    def _more_of_head(self, data: bytes, size: int) -> bytes:
        # gunicorn searches the whole head again with every piece: 32 KiB that came byte by byte took 3.5 s. So a piece
        # is as long as all before it, unless the head ends sooner.
        before = len(self._head_tail)
        wanted = before + min(self._head_bytes, size)
        pieces = bytearray(self._head_tail + data)
        searched = 0
        while len(pieces) < wanted and pieces.find(_HEAD_ENDS, searched) < 0:
            searched = max(0, len(pieces) - 2)
            pieces += self._receive(wanted - len(pieces))
        return bytes(pieces[before:])

    def _receive(self, size: int, flags: int = 0) -> bytes:
        left = self.idle_seconds
        if self._complete_by is not None:
            if time.monotonic() >= self._turn_ends:
                gevent.sleep(_SHORTEST_SLEEP)
                self._turn_ends = time.monotonic() + _TURN_SECONDS
            left = self._complete_by - time.monotonic()
            if left <= 0:
                raise _reset()
        if self._unread_allowed is not None:
            size = min(size, self._unread_allowed, _UNREAD_AT_ONCE)
            if size <= 0:
                raise _reset()
        data = b""
        self.reading = True
        try:
            self.settimeout(left)
            data = super().recv(size, flags)
            if not data:
                self._ended = True
        except TimeoutError:
            pass
        except OSError as error:
            self._ended = True
            if error.errno != errno.EBADF:  # gevent raises it when this side has shut down
                raise
        finally:
            self.reading = False
            self.settimeout(REQUEST_SECONDS)
        if self._unread_allowed is not None:
            self._unread_allowed -= len(data)
        if self._complete_by is None:
            self._begin()
        elif not data:
            raise _reset()
        return data

    def _begin(self) -> None:
        now = time.monotonic()
        self._complete_by = now + REQUEST_SECONDS
        self._turn_ends = now + _TURN_SECONDS

    def sendall(self, *args: Any) -> None:
        """Send all bytes. A client that does not take them in time counts as one that reset the connection."""
        self._sent = True
        try:
            super().sendall(*args)
        except TimeoutError:
            self._ended = True
            raise _reset() from None

    def close(self) -> None:
        """Close, after the client had time to read the answer (RFC 9112, section 9.6).

        With bytes unread, a close resets the connection, and the client's system may throw the answer away.
        """
        if self._sent and not self._ended:
            self._linger()
        self._ended = True
        super().close()

    def _linger(self) -> None:
        self._in_head = False
        self._unread_allowed = None
        self._complete_by = until = time.monotonic() + LINGER_SECONDS
        read = 0
        with contextlib.suppress(OSError):  # the client has closed its side, too, or the time is over
            self.shutdown(socket.SHUT_WR)
            while read < UNREAD_BODY_BYTES:
                read += len(self.recv(_RECEIVED_AT_ONCE))
            # The client goes on sending. It fills its own buffers, which costs nothing here.
            gevent.sleep(max(0.0, until - time.monotonic()))


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the client left, was too slow or sent too much")


class _Request(http.Request):  # type: ignore[misc]  # gunicorn has no types
    """A request with a limit on all headers together.

    gunicorn has limits on the number of headers and on each; their product, 800 KB, is its limit on all of them. It is
    the attribute `max_buffer_headers`, which no setting changes and which also limits the trailers.
    """

    def parse(self, unreader: Any) -> Any:
        # While the end is missing: whatever was read behind the end counts, too.
        self.max_buffer_headers = HEADER_BYTES + len(b"\r\n\r\n") + _RECEIVED_AT_ONCE
        unused = super().parse(unreader)
        self.max_buffer_headers = _TRAILER_BYTES
        return unused

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> Any:
        if len(data) > HEADER_BYTES:
            raise LimitRequestHeaders("limit request headers together")
        return super().parse_headers(data, from_trailer)


class Requests(http.RequestParser):  # type: ignore[misc]  # gunicorn has no types
    """The requests of a connection, one after another."""

    mesg_class = _Request

    def __init__(self, cfg: Any, connection: Connection, address: Any) -> None:
        super().__init__(cfg, connection, address)
        self._connection = connection

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Discard the rest of a request's body. Return False if the connection must be closed.

        gunicorn calls it before it reads the next request, without a limit. Its limit, `max_bytes`, does not count
        chunk sizes and their extensions. An error is not raised: the request has had its answer.
        """
        self._connection.answered()
        try:
            whole: bool = super().finish_body()
        except Exception:  # noqa: BLE001  # broken chunks, a client that left or sent too much
            whole = False
        if whole:
            self._connection.request_ended()
        return whole
