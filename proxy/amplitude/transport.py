"""Extends requests with a total timeout, and with connections that never mix up two responses.

Timeout: the `timeout` of requests limits each read from the socket, so a response of one byte a second could block a
thread without end. In this module, the timeout limits all reads of a response together.

Reuse: requests returns a connection to the pool as soon as a response seems to have ended. Bytes that arrive later
would be read as the response to the next request, which may be about another user. This module closes a connection
unless `reuse_connection` is called after the response was read and checked.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, NewConnectionError

from proxy import __version__

_MAX_HEAD_BYTES = 65_536
"""Maximum size of the head of a response, including all informational responses before it."""


_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The errors of a connection that the upstream has closed."""


_NOT_CONNECTED = "the connection was not opened"


class InvalidResponse(HTTPError):
    """The upstream sent an invalid response. urllib3 and requests pass errors of this class on unchanged."""


class ClosedOnReuse(HTTPError):
    """The upstream closed a reused connection before any byte of the response.

    The upstream probably closed the idle connection while the request was on its way (RFC 9112, section 9.3.1).
    urllib3 and requests pass errors of this class on unchanged.
    """


class _NoByte(ConnectionError):
    """The connection ended before any byte of the response."""


class _UntilDeadline(io.RawIOBase):
    """Reads from a socket until a deadline. Each read may take the remaining time."""

    def __init__(self, sock: socket.socket) -> None:
        self._raw = sock.makefile("rb", buffering=0)
        self._sock = sock
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.bytes_left: int | None = None
        """The number of bytes that may still be read; None for no limit."""
        self.ended = False
        """Whether the response has ended. No bytes are read after the end."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.ended:
            return None
        if self._deadline is not None:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("the answer was incomplete at the timeout")
            self._sock.settimeout(remaining)
        size = self._raw.readinto(buffer)
        if self.bytes_left is not None:
            self.bytes_left -= size or 0
            if self.bytes_left < 0:
                raise InvalidResponse("the response headers are too long")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _ResponseFile(io.BufferedReader):
    """Buffers a response. Closes the connection if bytes were read beyond the end of the response."""

    def __init__(self, sock: socket.socket) -> None:
        self.source = _UntilDeadline(sock)
        self._sock = sock
        super().__init__(self.source)

    def close(self) -> None:
        if not self.closed:
            self.source.ended = True
            if self.peek():
                self._sock.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp: _ResponseFile = _ResponseFile(sock)

    def begin(self) -> None:
        """Read the head of the final response.

        http.client skips only 100 (Continue) and returns any other informational response as the final one.
        """
        source = self.fp.source
        source.bytes_left = _MAX_HEAD_BYTES
        try:
            super().begin()
        except _CLOSED as error:
            if source.bytes_left == _MAX_HEAD_BYTES:
                raise _NoByte(type(error).__name__) from None
            raise
        while self.status < 200:
            if self.status == 101:
                raise InvalidResponse("the upstream switched protocols")
            self.headers = self.msg = None  # type: ignore[assignment]  # otherwise begin() would return at once
            super().begin()
        source.bytes_left = None
        if not self._allows_reuse():
            self.will_close = True  # http.client closes the connection, and urllib3 opens a new connection

    def _allows_reuse(self) -> bool:
        """Return whether the head defines the end of the response without ambiguity and keeps the connection open.

        http.client uses only the first of several headers with the same name, and ignores all headers after a malformed
        line.
        """
        lengths = self.msg.get_all("Content-Length", [])
        codings = self.msg.get_all("Transfer-Encoding", [])
        if codings:
            framed = not lengths and [coding.lower() for coding in codings] == ["chunked"]
        else:
            framed = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit()
        closes = "close" in ",".join(self.msg.get_all("Connection", [])).lower()
        malformed = bool(self.msg.defects or self.msg.get_payload())
        return self.version == 11 and framed and not closes and not malformed


class _Connection(HTTPConnection):
    """Tries all addresses of a host within one deadline. urllib3 would give each address the whole timeout.

    `_new_conn` and `_dns_host` are private to urllib3. Its public API has no alternative.
    """

    response_class = _BoundedResponse
    is_reused = False
    """Whether the connection has carried a response that `reuse_connection` accepted."""

    def connect(self) -> None:
        """Open the connection. A closed connection of the pool is opened again."""
        self.is_reused = False
        started = time.monotonic()
        try:
            super().connect()
        except Exception as error:
            error.add_note(_NOT_CONNECTED)
            raise
        if isinstance(self.timeout, int | float):
            # urllib3 would give the request the whole timeout again after a TLS handshake.
            self.timeout = max(self.timeout - (time.monotonic() - started), 0.001)

    def request(self, *args: Any, **kwargs: Any) -> None:
        """Send a request. Raises ClosedOnReuse.

        urllib3 ignores a ConnectionError here, because the upstream may have answered before it closed the connection.
        """
        try:
            super().request(*args, **kwargs)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            if self.is_reused:
                raise ClosedOnReuse(type(error).__name__) from None
            raise

    def getresponse(self) -> Any:
        """Return the response. Raises ClosedOnReuse."""
        try:
            return super().getresponse()
        except _NoByte as error:
            if self.is_reused:
                raise ClosedOnReuse(str(error)) from None
            raise

    @property
    def is_connected(self) -> bool:
        """Return whether the connection is open and no bytes have arrived. The pool checks this before each reuse.

        urllib3 only checks whether the socket is readable, and would miss bytes that TLS has already decrypted.
        """
        if self.sock is None:
            return False
        try:
            self.sock.settimeout(0)  # the next request sets it again
            self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False  # the end of the connection, or a byte that belongs to no request

    def _new_conn(self) -> socket.socket:
        if not isinstance(self.timeout, int | float):
            return super()._new_conn()
        host, timeout = self._dns_host, self.timeout
        deadline = time.monotonic() + timeout
        try:
            address_infos = socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in address_infos))
        try:
            while True:
                # An address that does not reply must leave time for the next addresses.
                self._dns_host = addresses.pop(0)
                self.timeout = max((deadline - time.monotonic()) / (len(addresses) + 1), 0.001)
                try:
                    sock = super()._new_conn()
                except (ConnectTimeoutError, NewConnectionError):
                    if not addresses:
                        raise
                else:
                    sock.settimeout(max(deadline - time.monotonic(), 0.001))
                    return sock
        finally:
            self._dns_host, self.timeout = host, timeout


class _SecureConnection(_Connection, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    """Uses the connections of this module, also through a proxy. Never retries."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Return a response whose connection does not return to the pool automatically."""
        # urllib3 would release the connection after the last byte of the body, before the body is checked.
        resp.release_conn = lambda: None
        return super().build_response(req, resp)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        _bound(manager)
        return manager


def read_body(response: requests.Response, max_bytes: int) -> bytes | None:
    """Return the decoded body; None if the body is larger than `max_bytes`. The request's timeout limits the time."""
    chunks = []
    size = 0
    while chunk := response.raw.read1(65536, decode_content=True):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            return None
    return b"".join(chunks)


def reuse_connection(response: requests.Response) -> None:
    """Return the connection of a valid response to its pool if the response was read to its end and no bytes follow.

    Otherwise the connection is closed with the response.
    """
    raw = response.raw
    if raw.isclosed() and raw.connection is not None and raw.connection.is_connected:
        raw.connection.is_reused = True  # type: ignore[union-attr]  # a connection of this module
        urllib3.HTTPResponse.release_conn(raw)


def is_unsent(error: BaseException) -> bool:
    """Return whether an error of a session occurred before any byte of the request was sent."""
    cause: BaseException | None = error
    while cause is not None:  # urllib3 and requests wrap the error of the connection
        if _NOT_CONNECTED in getattr(cause, "__notes__", ()):
            return True
        cause = cause.__context__
    return False


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class Session(requests.Session):
    """Follows no redirects, stores no cookies, and sends no credentials except `auth`, even with a .netrc.

    Responses must be closed. A connection is reused only after `reuse_connection`.

    The proxy and the certificates of the environment are read once, for `url`. requests would read them in each call.
    """

    def __init__(self, url: str, auth: AuthBase | None = None, *, connections: int = 1) -> None:
        super().__init__()
        self.auth = auth
        self.headers["User-Agent"] = f"connected-content-proxy/{__version__}"
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if urlsplit(url).scheme != "http":  # plain HTTP stays on this machine and needs no proxy
            environment = self.merge_environment_settings(url, {}, None, None, None)
            self.proxies = environment["proxies"]
            self.verify = environment["verify"]
        self.trust_env = False
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(pool_connections=1, pool_maxsize=connections))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return None, because requests would read the body of a redirect without a limit."""
        return None
