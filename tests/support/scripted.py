"""Runs an HTTP server that answers POST requests as a test decides."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request. `number`: 0 for the first request of the server."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True)
class Answer:
    """An answer. `ends`: how the connection ends instead: `reset`, or `truncate` after the head of the answer."""

    status: int = 201
    body: Any = field(default_factory=lambda: {"message": "success"})
    headers: Mapping[str, str] = field(default_factory=dict)
    ends: str = ""


class ScriptedServer:
    """A server, used as a context manager. Records the requests, in the order in which they came."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        requests: list[Request] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    request = Request(len(requests), self.path, dict(self.headers), json.loads(body))
                    requests.append(request)
                reply = answer(request)
                if reply.ends == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                    return
                content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                self.send_response(reply.status)
                self.send_header("Content-Length", str(len(content) + (1 if reply.ends == "truncate" else 0)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = self.close_connection or bool(reply.ends)

            def log_message(self, *_: object) -> None:
                pass

            def finish(self) -> None:
                try:
                    super().finish()
                except OSError:
                    return  # the connection was reset

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # the client disconnected, as a test expects

        self.requests = requests
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
