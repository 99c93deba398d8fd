"""HTTP servers for the emulated APIs: threaded, without a log, and able to truncate bodies and end connections."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An answer whose body is bytes, text, or a value to send as JSON."""

    status: int
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    """Number of bytes at the end of the body that Content-Length counts but that are not sent."""
    unbounded: bool = False
    """Whether the body is sent without Content-Length, until the connection ends."""
    delay: float = 0.0
    """Seconds before the answer."""
    lost: bool = False
    """Whether the connection ends without the answer."""


class QuietServer(ThreadingHTTPServer):
    """Serves each connection on a thread."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing, because faults make clients disconnect."""


class QuietHandler(BaseHTTPRequestHandler):
    """Sends replies over HTTP/1.1."""

    protocol_version = "HTTP/1.1"
    # Unbuffered writes and Nagle's algorithm together cost 40 ms per answer.
    wbufsize = 65536
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def body(self) -> bytes:
        """Read the body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reset(self) -> None:
        """End the connection with RST, without an answer."""
        # With a linger time of zero, closing sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True

    def send(self, reply: Reply) -> None:
        """Send a reply. An incomplete reply ends the connection."""
        if reply.lost:
            self.close_connection = True
            return
        body, headers = reply.body, dict(reply.headers)
        if not isinstance(body, bytes):
            is_text = isinstance(body, str)
            headers.setdefault("Content-Type", "text/plain" if is_text else "application/json")
            body = (body if is_text else json.dumps(body)).encode()
        self.send_response(reply.status)
        if not reply.unbounded:  # first, because clients ignore all headers after a malformed header
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - reply.cut])
        self.close_connection = self.close_connection or reply.unbounded or reply.cut > 0
