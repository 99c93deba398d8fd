"""Client connections and their requests, with limits on time, size and uninterrupted processing.

The worker imports this module before gevent patches locks. So do not import a module that takes a lock.
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
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import LimitRequestHeaders

REQUEST_SECONDS = 10.0
"""Time limit for reading a request, and for sending an answer. Braze gives up after 2 s."""
LINGER_SECONDS = 2.0
"""Time for which a connection stays open before it is closed, so that the client can read the answer.

While the worker stops, a request that the client has already sent can arrive in this time.
"""
HEADER_BYTES = 32 * 1024
"""Limit on the total size of a request's headers, without the request line."""
UNREAD_BODY_BYTES = 64 * 1024
"""Limit on the part of a body that the application did not read, including chunk sizes."""
_UNREAD_CHUNKS = 64
"""Limit on the chunks of an unread body. 64 KiB of 1-byte chunks take 55 ms of processor time per connection."""
_TRAILER_BYTES = 4096
"""Limit on trailers. The application ignores trailers, and gunicorn searches all trailers again for each piece."""
_RECEIVED_AT_ONCE = 8192
"""The size of gunicorn's reads while the length is unknown."""
_TURN_SECONDS = 0.001
_SHORTEST_SLEEP = 1e-6
"""Not 0, because gevent would then resume this connection before it polls the others."""
_HEAD_ENDS = b"\n\r\n"


class Connection(gevent.socket.socket):  # type: ignore[misc]  # gevent has no types
    """A client's socket with time limits. Each read yields to other connections."""

    def __init__(self, accepted: Any, idle_seconds: float) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.idle_seconds = idle_seconds
        self.reading = False
        self.request_ended()
        self.settimeout(REQUEST_SECONDS)

    @property
    def idle(self) -> bool:
        """Return whether no byte of a request has arrived since the last answer."""
        return self.reading and self._complete_by is None

    def request_ended(self) -> None:
        """Reset the state for the next request."""
        self._complete_by: float | None = None
        self._turn_ends = 0.0
        self._head: bytearray | None = bytearray()  # received so far; None within a body
        self._unread_allowed: int | None = None
        self._lingers = False
        self._unsent: bytes | None = b""  # the head of an answer; None before the head
        self._slow_body_until: float | None = None

    def head_ended(self) -> None:
        """Switch from reading the head of a request to reading its body, and to its answer."""
        self._head = self._unsent = None
        if self._complete_by is None:  # the head arrived together with the previous request
            self._begin()

    def allow_slow_body(self, seconds: float) -> None:
        """Let the client send this body for up to `seconds`, if no pause is longer than REQUEST_SECONDS."""
        self._slow_body_until = time.monotonic() + seconds

    def answered(self) -> None:
        """Allow the client to send only UNREAD_BODY_BYTES more of this request."""
        self._unread_allowed = UNREAD_BODY_BYTES
        self._slow_body_until = None

    def recv(self, size: int) -> bytes:
        """Return the received bytes. The result is empty if the client left, or is silent between two requests.

        Raises ConnectionResetError if the client leaves, is too slow or sends too much within a request. So an
        incomplete body is never treated as complete.
        """
        head = self._head
        if head is None:
            return self._receive(size)
        # gunicorn searches the whole head again for each piece: 32 KiB, sent byte by byte, took 3.5 s. So each piece
        # is at least as long as all previous pieces together, unless the head ends sooner.
        before = searched = len(head)
        head += self._receive(size)
        while (missing := min(before, size) - (len(head) - before)) > 0:
            if head.find(_HEAD_ENDS, max(0, searched - 2)) >= 0:
                break
            searched = len(head)
            head += self._receive(missing)
        return bytes(head[before:])

    def take_turn(self) -> None:
        """Let other connections run if this connection has run for a millisecond."""
        if time.monotonic() >= self._turn_ends:
            gevent.sleep(_SHORTEST_SLEEP)
            self._turn_ends = time.monotonic() + _TURN_SECONDS

    def _receive(self, size: int) -> bytes:
        timeout = self.idle_seconds
        if self._complete_by is not None:
            self.take_turn()
            if self._slow_body_until is not None:
                self._complete_by = min(time.monotonic() + REQUEST_SECONDS, self._slow_body_until)
            timeout = self._complete_by - time.monotonic()
            if timeout <= 0:
                raise _reset()
        if self._unread_allowed is not None:
            size = min(size, self._unread_allowed)
            if size <= 0:
                raise _reset()
        data = b""
        self.reading = True
        try:
            self.settimeout(timeout)
            data = super().recv(size)
        except TimeoutError:
            pass
        except OSError as error:
            if error.errno != errno.EBADF:  # gevent raises EBADF after a shutdown on this side
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

    def sendall(self, data: bytes) -> None:
        """Send all bytes. Raises ConnectionResetError if the client does not receive them in time.

        gunicorn sends the head of an answer by the first call, and the body by more calls. The head waits for the body,
        because each call costs a system call and a packet.
        """
        if self._unsent is None:
            self._unsent = data
            return
        data, self._unsent = self._unsent + data, b""
        self._lingers = False
        try:
            # gevent's sendall() makes another system call first, which costs 3 % of a cached answer's processor time.
            with contextlib.suppress(BlockingIOError):
                data = data[self.send(data, timeout=0.0) :]
            super().sendall(data)
        except TimeoutError:
            raise _reset() from None
        self._lingers = True

    def flush(self) -> None:
        """Send the head of an answer that has no body."""
        if self._unsent:
            self.sendall(b"")

    def close(self) -> None:
        """Close the connection after the client had time to read the answer (RFC 9112, section 9.6).

        Closing a socket with unread bytes resets the connection, and the client's system may then discard the answer.
        """
        with contextlib.suppress(OSError):  # the client has left
            self.flush()
        if self._lingers:
            self._linger()
        super().close()

    def _linger(self) -> None:
        self._lingers = False
        self._head = self._unread_allowed = None
        self._complete_by = until = time.monotonic() + LINGER_SECONDS
        read = 0
        with contextlib.suppress(OSError):  # the client has closed its side too, or the time is over
            self.shutdown(socket.SHUT_WR)
            while read < UNREAD_BODY_BYTES:
                read += len(self.recv(_RECEIVED_AT_ONCE))
            # The client still sends. The bytes fill the client's buffers and cost this process nothing.
            gevent.sleep(max(0.0, until - time.monotonic()))


def _reset() -> ConnectionResetError:
    return ConnectionResetError(errno.ECONNRESET, "the client disconnected, was too slow or sent too much data")


class _ChunkedReader(ChunkedReader):  # type: ignore[misc]  # gunicorn has no types
    """Reads a chunked body. Other connections run even while many small chunks are parsed without a read."""

    chunks_allowed: int | None = None
    """Number of further chunks to parse before the connection is reset; None for no limit."""

    def parse_chunk_size(self, unreader: Any, data: Any = None) -> Any:
        unreader.sock.take_turn()
        if self.chunks_allowed is not None:
            self.chunks_allowed -= 1
            if self.chunks_allowed < 0:
                raise _reset()
        return super().parse_chunk_size(unreader, data=data)


class _Request(http.Request):  # type: ignore[misc]  # gunicorn has no types
    """A request with a limit on the total size of its headers.

    gunicorn limits the number of headers and the size of each, which allows 800 KB in total. gunicorn's attribute
    `max_buffer_headers` has that total. No setting changes the attribute, and it limits the trailers too.
    """

    body: Any
    worker: Any
    _closes: bool | None = None

    def parse(self, unreader: Any) -> Any:
        # This limit applies until gunicorn finds the end of the headers. Bytes that were read past the end count too.
        self.max_buffer_headers = HEADER_BYTES + len(b"\r\n\r\n") + _RECEIVED_AT_ONCE
        unused = super().parse(unreader)
        self.max_buffer_headers = _TRAILER_BYTES
        return unused

    def set_body_reader(self) -> None:
        super().set_body_reader()
        if isinstance(self.body.reader, ChunkedReader):
            self.body = Body(_ChunkedReader(self, self.unreader))

    def parse_headers(self, data: bytes, from_trailer: bool = False) -> Any:
        if len(data) > HEADER_BYTES:
            raise LimitRequestHeaders("limit request headers together")
        return super().parse_headers(data, from_trailer)

    def should_close(self) -> bool:
        """Return whether the connection closes after the answer. The first call, when headers are written, decides.

        The connection also closes if the worker is stopping, or if too much of the body is unread.
        """
        if self._closes is None:
            self._closes = super().should_close() or not self.worker.alive or self.has_too_much_unread()
        return self._closes

    def has_too_much_unread(self) -> bool:
        """Return whether Content-Length shows that the unread rest of the body is too long to discard."""
        reader = self.body.reader
        return isinstance(reader, LengthReader) and reader.length > UNREAD_BODY_BYTES


class Requests(http.RequestParser):  # type: ignore[misc]  # gunicorn has no types
    """The requests of a connection, one after another."""

    mesg_class = _Request

    def finish_body(self, deadline: float | None = None, max_bytes: int | None = None) -> bool:
        """Discard the rest of a request's body. Return False if the connection must be closed.

        gunicorn calls this method before it reads the next request, and passes no limit. gunicorn's limit, `max_bytes`,
        ignores chunk sizes and chunk extensions. This method raises no errors, because the answer has been sent.
        """
        connection = self.unreader.sock
        if self.mesg is not None and isinstance(self.mesg.body.reader, _ChunkedReader):
            self.mesg.body.reader.chunks_allowed = _UNREAD_CHUNKS
        connection.answered()
        try:
            finished: bool = super().finish_body()
        except Exception:  # noqa: BLE001  # broken chunks, a client that left or sent too much
            finished = False
        if finished:
            connection.request_ended()
        return finished
