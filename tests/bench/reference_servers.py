"""Servers for comparison with the service: a Flask view, a bare WSGI function and nginx, with the same answers.

The two applications read their answer from the file in the variable REFERENCE_ANSWER, so that gunicorn can start them.
nginx caches the service's answers, one per user, and checks the credentials.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

from flask import Flask, Response

from proxy.app import create_app
from tests.bench.processes import AUTHORIZATION

ANSWER = "REFERENCE_ANSWER"
_SET_BY_SERVERS = {"date", "server", "connection", "content-length", "transfer-encoding"}


def save_answer(path: Path, headers: Iterable[tuple[str, str]], body: bytes) -> None:
    """Write an answer of the service to a file for the reference applications."""
    kept_headers = [(name, value) for name, value in headers if name.lower() not in _SET_BY_SERVERS]
    path.write_text(json.dumps({"headers": kept_headers, "body": body.decode()}))


def _answer() -> tuple[list[tuple[str, str]], bytes]:
    answer = json.loads(Path(os.environ[ANSWER]).read_text())
    return [(name, value) for name, value in answer["headers"]], answer["body"].encode()


def flask_app() -> Flask:
    """Return an application with one view that returns the answer."""
    headers, body = _answer()
    app = Flask("reference", static_folder=None)
    app.extensions |= create_app().extensions  # the worker stops these services

    @app.get("/v1/profile")
    def profile() -> Response:
        return Response(body, headers=headers)

    return app


class RawApp:
    """A minimal WSGI application."""

    def __init__(self) -> None:
        headers, self._body = _answer()
        self._headers = [*headers, ("Content-Length", str(len(self._body)))]
        self.extensions = create_app().extensions

    def __call__(self, _: Mapping[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", self._headers)
        return [self._body]


NGINX = """
{user} worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 4000; }}
http {{
  access_log off; keepalive_timeout 100; keepalive_requests 100000000; map_hash_bucket_size 512;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  proxy_cache_path {folder}/cache keys_zone=answers:16m;
  map $http_authorization $known {{ default 0; "{authorization}" 1; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      if ($known = 0) {{ return 401; }}
      proxy_pass {url}; proxy_cache answers; proxy_cache_key $arg_user_id; proxy_cache_valid 200 1h;
      proxy_ignore_headers Cache-Control Expires Set-Cookie Vary;
      add_header X-Cache $upstream_cache_status;
    }}
  }}
}}
"""


def nginx(folder: Path, port: int, url: str) -> list[str]:
    """Write the configuration of a cache in front of `url` into `folder`. Return the command that starts nginx."""
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(user=user, folder=folder, port=port, url=url, authorization=AUTHORIZATION))
    return ["nginx", "-p", str(folder), "-c", str(configuration)]
