"""A transport for requests in which no response outlasts its call, or is taken for the response to another one.

Time: the `timeout` of requests bounds each read from the socket, so an answer that drips a byte a second holds a
thread for as long as it likes. Here the time that urllib3 gives the answer is what all its reads together may take.

Reuse: requests returns a connection to the pool as soon as a response seems to have ended. What arrives later is then
read as the response to the next request, which may be about another user. Here a connection is closed unless
`reuse_connection` is called after its response was read and found to be in order.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from http.client import HTTPException, HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from proxy import __version__

_MAX_HEAD_BYTES = 65_536
"""The longest head of a response, with all informational responses before it: they could follow each other forever."""


class InvalidResponse(HTTPException):
    """The upstream sent what no response to our requests may be."""


class _UntilDeadline(io.RawIOBase):
    """Reads from a socket file, with the time left as the bound of each read."""

    def __init__(self, sock: socket.socket) -> None:
        self._raw = sock.makefile("rb", buffering=0)
        self._sock = sock
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self.bytes_left: int | None = None
        """How many bytes may be read; None for any number."""
        self.ended = False
        """Whether the response has ended, after which nothing is read."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self.ended:
            return None
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer was not complete in time")
            self._sock.settimeout(left)
        size = self._raw.readinto(buffer)
        if self.bytes_left is not None:
            self.bytes_left -= size or 0
            if self.bytes_left < 0:
                raise InvalidResponse("the head of the response is too long")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _ResponseFile(io.BufferedReader):
    """Buffers a response. Closes the connection at the response's end when bytes after it have been read already."""

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

        http.client skips 100 (Continue) only, and takes any other informational response for the final one.
        """
        source = self.fp.source
        source.bytes_left = _MAX_HEAD_BYTES
        super().begin()
        while self.status < 200:
            if self.status == 101:
                raise InvalidResponse("the upstream switched protocols")
            self.headers = self.msg = None  # type: ignore[assignment]  # or begin() would return at once
            super().begin()
        source.bytes_left = None
        if not self._may_be_followed():
            self.will_close = True  # http.client then gives up the connection, and urllib3 opens another one

    def _may_be_followed(self) -> bool:
        """Return whether the head leaves no doubt of where the response ends and that the connection stays open.

        http.client looks only at the first of several headers of a name. What follows a malformed line of the head is
        lost to it; the email parser that it uses takes that for a text.
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


class _InTime(HTTPConnection):
    """Tries a host's addresses against one deadline, where urllib3 would give each of them the whole timeout.

    `_new_conn` and `_dns_host` are private to urllib3, whose public API has no place to bound a look-up's addresses.
    """

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open and nothing has arrived on it. The pool asks before it reuses a connection.

        urllib3 only looks whether the socket is readable, which does not show what TLS has decrypted already.
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
        return False  # the end of the connection, or a byte that answers nothing

    def _new_conn(self) -> socket.socket:
        if not isinstance(self.timeout, int | float):
            return super()._new_conn()
        name, whole = self._dns_host, self.timeout
        deadline = time.monotonic() + whole
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        try:
            while True:
                # A silent address must leave time for those after it.
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
            self._dns_host, self.timeout = name, whole


class _Connection(_InTime):
    response_class = _BoundedResponse


class _SecureConnection(_InTime, HTTPSConnection):
    response_class = _BoundedResponse


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class WholeAnswerAdapter(HTTPAdapter):
    """An HTTPAdapter, through a proxy too, on connections as described above. Never retries."""

    def __init__(self, *, connections: int) -> None:
        super().__init__(pool_connections=1, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _bound(self.poolmanager)

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Build the response of requests, on a connection that does not return to its pool by itself."""
        # urllib3 would release it when the last byte of the body has been read, before anybody has looked at the body.
        resp.release_conn = _keep_out_of_pool
        return super().build_response(req, resp)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        _bound(manager)
        return manager


def _keep_out_of_pool() -> None:
    pass


def reuse_connection(response: requests.Response) -> None:
    """Return the connection of a response in order to its pool, if the response was read to its end and no more came.

    A connection for which this is not called is closed when the response is.
    """
    raw = response.raw
    if raw.isclosed() and raw.connection is not None and raw.connection.is_connected:
        urllib3.HTTPResponse.release_conn(raw)


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class Session(requests.Session):
    """Follows no redirect, keeps no cookie, and sends no credentials but `auth`, whatever a .netrc says.

    Its responses must be closed; a connection is used again only after `reuse_connection`.

    An operator's proxy and certificates count, as they are for `url`, but are looked up once: requests would do it
    at each call.
    """

    def __init__(self, url: str, auth: AuthBase | None = None, *, connections: int = 1) -> None:
        super().__init__()
        self.auth = auth
        self.headers["User-Agent"] = f"connected-content-proxy/{__version__}"
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        if urlsplit(url).scheme != "http":  # that is a loopback address
            found = self.merge_environment_settings(url, {}, None, None, None)
            self.proxies = found["proxies"]
            self.verify = found["verify"]
        self.trust_env = False
        for scheme in ("http://", "https://"):
            self.mount(scheme, WholeAnswerAdapter(connections=connections))

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return no target. Even where it does not follow a redirect, requests reads its body whole, uncapped."""
        return None
