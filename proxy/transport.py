"""A transport for requests whose timeout bounds the whole answer, and a session on it that does nothing unasked.

The `timeout` of requests bounds each read from the socket: an answer that drips a byte a second, in its
headers or its body, holds a thread for as long as it likes. Here the time that urllib3 gives the answer is
what all its reads together may take.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from proxy import __version__


class _UntilDeadline(io.RawIOBase):
    """Reads from a socket file, with the time left as the bound of each read."""

    def __init__(self, sock: socket.socket) -> None:
        self._raw = sock.makefile("rb", buffering=0)
        self._sock = sock
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the answer was not complete in time")
            self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedResponse(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_UntilDeadline(sock))


class _InTime(HTTPConnection):
    """Tries a host's addresses against one deadline, where urllib3 would give each of them the whole timeout."""

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

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(*args, **kwargs)
        _bound(manager)
        return manager


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}


class Session(requests.Session):
    """Follows no redirect, keeps no cookie, and sends no credentials but `auth`, whatever a .netrc says.

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
