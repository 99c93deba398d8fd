"""Calls the service's own data routes in process, with the same checks, cache and quota as over HTTP."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from werkzeug.datastructures import Headers
from werkzeug.test import Client

from proxy.liquid.types import Answer, Ask, Request
from proxy.web.data_routes import CACHE_ONLY

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def asker(app: WSGIApplication, headers: Mapping[str, str], address: str) -> Ask:
    """Return a function that sends requests to `app` as from `address`. `headers` contain the credentials."""
    client = Client(app, use_cookies=False)

    def ask(request: Request) -> Answer:
        path, _, query = request.target.partition("?")
        started = time.monotonic()
        # In one context, Flask would share `g` between both requests and mix up their log lines.
        answer = contextvars.Context().run(
            client.open,
            path,
            method=request.method,
            query_string=query,
            headers=Headers([*request.headers.items(), *headers.items()]),
            data=request.body.encode(errors="replace"),
            content_type=request.content_type or None,
            environ_base={"REMOTE_ADDR": address} | ({CACHE_ONLY: True} if request.cache_only else {}),
            buffered=True,
        )
        milliseconds = (time.monotonic() - started) * 1000
        return Answer(
            answer.status_code, {name.lower(): value for name, value in answer.headers}, answer.text, milliseconds
        )

    return ask
