"""Runs a load balancer in front of a service. The load balancer forwards requests or answers them itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

_FORWARDED = ("Content-Type", "X-Amplitude-Calls", "Cache-Control")


@contextmanager
def balancer(service: str, answers: Callable[[int], int | None]) -> Iterator[str]:
    """Yield the URL of a load balancer. `answers(n)` returns the status for the nth POST, or None to forward it."""
    lock = threading.Lock()
    posts = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

        def do_GET(self) -> None:
            self._forward(None)

        def do_POST(self) -> None:
            nonlocal posts
            with lock:
                posts += 1
                status = answers(posts)
            self._forward(status)

        def _forward(self, status: int | None) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers: dict[str, str] = {"Content-Type": "text/html", "Location": "https://elsewhere.example.com/"}
            content = b"<html><h1>Bad Gateway</h1></html>"
            if status is None:
                answer = requests.request(
                    self.command, service + self.path, headers=dict(self.headers), data=body, timeout=20
                )
                status, content = answer.status_code, answer.content
                headers = {name: answer.headers[name] for name in _FORWARDED if name in answer.headers}
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
