"""A load balancer before a service: it hands requests on, or answers some of them itself, as one does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests


@contextmanager
def balancer(service: str, answers: Callable[[int], int | None]) -> Iterator[str]:
    """Yield the URL of one before `service`. `answers` says which status it gives by itself to the nth question."""
    lock = threading.Lock()
    asked = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

        def do_GET(self) -> None:
            self._hand_on(None)

        def do_POST(self) -> None:
            nonlocal asked
            with lock:
                asked += 1
                status = answers(asked)
            self._hand_on(status)

        def _hand_on(self, status: int | None) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers: dict[str, str] = {"Content-Type": "text/html", "Location": "https://elsewhere.example.com/"}
            content = b"<html><h1>Bad Gateway</h1></html>"
            if status is None:
                answer = requests.request(
                    self.command, service + self.path, headers=dict(self.headers), data=body, timeout=20
                )
                status, content = answer.status_code, answer.content
                headers = {name: answer.headers[name] for name in _HANDED_ON if name in answer.headers}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


_HANDED_ON = ("Content-Type", "X-Amplitude-Calls", "Cache-Control")
