"""Caches the parts of requests and answers that gunicorn computes each time.

Computing them takes a tenth of the processor time of a cached answer.
"""

from __future__ import annotations

import sys
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

import gunicorn.http.wsgi
import gunicorn.util


def install(cfg: Any) -> None:
    """Replace two functions of gunicorn in this process. `cfg`: gunicorn's configuration."""
    gunicorn.util.http_date = http_date
    # For each request, gunicorn creates a stream to gunicorn's log. This application does not use the stream.
    environ = gunicorn.http.wsgi.base_environ(cfg) | {"wsgi.errors": sys.stderr}
    gunicorn.http.wsgi.base_environ = lambda _: environ.copy()


def http_date() -> str:
    """Return the current time as the value of a `Date` header."""
    return _formatted(int(time.time()))


@lru_cache(1)
def _formatted(second: int) -> str:
    return formatdate(second, usegmt=True)
