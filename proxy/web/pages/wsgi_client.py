"""Calls the service's own data routes in process, with the same checks, cache and quota as over HTTP."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder, run_wsgi_app

from proxy.liquid.types import Answer, Ask, Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def asker(
    app: WSGIApplication,
    headers: Mapping[str, str],
    address: str,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> Ask:
    """Return a function that calls `app` with these headers, which hold the credentials, as from `address`."""

    def ask(request: Request) -> Answer:
        path, _, query = request.target.partition("?")
        builder = EnvironBuilder(
            path,
            method=request.method,
            query_string=query,
            headers=Headers([*request.headers.items(), *headers.items()]),
            data=request.body.encode(errors="replace"),
            content_type=request.content_type or None,
            environ_base={"REMOTE_ADDR": address},
        )
        environ = builder.get_environ()
        started = monotonic()
        # In a separate context: otherwise Flask shares `g` with the outer request, and its log line gets mixed up.
        body, status, answered = contextvars.Context().run(run_wsgi_app, app, environ, True)
        text = b"".join(body).decode()
        milliseconds = (monotonic() - started) * 1000
        lower = {name.lower(): value for name, value in answered.items()}
        return Answer(int(status.partition(" ")[0]), lower, text, milliseconds)

    return ask
