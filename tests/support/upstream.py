"""Runs an HTTP server that sends any bytes, for responses that no HTTP library would send."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Reply:
    """The bytes that answer a request.

    `ends`: how the connection ends when another request arrives, before any byte of an answer: "" (the connection stays
    open), "close" or "reset".
    `late`: bytes that are sent on the same connection before the next answer, or after `patience` seconds without a
    request.
    """

    now: bytes
    late: bytes = b""
    patience: float = 0.05
    close: bool = False
    ends: str = ""


class Upstream:
    """A server, used as a context manager. `users`: the requested user ids (or device ids), in order."""

    def __init__(self, reply: Callable[[str], Reply], tls: ssl.SSLContext | None = None) -> None:
        self._reply = reply
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.users: list[str] = []
        self.connections = 0
        self.replied = threading.Semaphore(0)
        """Released once per request, after the reply and the late bytes were sent or the client disconnected."""
        self.port = self._listener.getsockname()[1]
        self.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):  # the connection is already closed
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        # The client closes most connections early, as the tests expect.
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._open.append(connection)
            with connection:
                self._answer_all(connection)

    def _answer_all(self, connection: socket.socket) -> None:
        late, ends = b"", ""
        while request := _request(connection):
            query = dict(parse_qsl(urlsplit(request.split(" ")[1]).query))
            user = query.get("user_id") or query["device_id"]
            self.users.append(user)
            if ends:
                if ends == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            reply = self._reply(user)
            try:
                connection.sendall(late + reply.now)
                if reply.close:
                    connection.close()
                    return
                late, ends = reply.late, reply.ends
                if late and not select.select([connection], [], [], reply.patience)[0]:
                    connection.sendall(late)
                    late = b""
            finally:
                self.replied.release()


def _request(connection: socket.socket) -> str:
    """Return the head of the next request; an empty text at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        received = connection.recv(65536)
        if not received:
            return ""
        head += received
    return head.decode()
