"""HTML pages and the files they load: a template, a strict policy, and names that change with their content."""

from __future__ import annotations

import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple

from flask import Blueprint, Response, render_template, request
from werkzeug.exceptions import NotFound

blueprint = Blueprint("pages", __name__)

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
"""What a page may load and do: nothing from elsewhere, nothing inline."""

_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "png": "image/png",
    "svg": "image/svg+xml",
}
_NAME = re.compile(r"(?:[a-z0-9-]+\.)+[a-z][a-z0-9-]*", re.IGNORECASE | re.ASCII)
_SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")
_A_YEAR = 31_536_000
_AN_HOUR = 3600


def page(template: str, **values: Any) -> Response:
    """Return the page of `template`, which extends `base.html` and names its files through `asset`."""
    response = Response(render_template(template, asset=asset, **values), content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {value}" for name, value in POLICY.items())
    return revalidated(response)


def host_in_braze() -> str:
    """Return the host that a tag names to have this service asked: `your-host` where it was opened at none for Braze.

    Braze calls names over TLS at its own port, so neither an address nor a host with a port is one.
    """
    host = request.host
    return host if _NAME.fullmatch(host) else "your-host"


def revalidated(response: Response) -> Response:
    """Let `response` be kept, but asked for again each time: 304 when it is still the same."""
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return _conditional(response)


def asset(name: str) -> str:
    """Return the URL of a file: with its tag, so that a browser may keep it for good and still sees the next one."""
    return f"/static/{name}?v={_file(name).tag}"


@blueprint.get("/static/<name>", provide_automatic_options=False)
def static(name: str) -> Response:
    """Answer one of the files that the pages load."""
    file = _file(name)
    response = Response(content_type=_TYPES[name.rpartition(".")[2]])
    response.headers["Vary"] = "Accept-Encoding"
    if file.squeezed and request.accept_encodings["gzip"]:
        response.headers["Content-Encoding"] = "gzip"
        response.set_data(file.squeezed)
        response.set_etag(f"{file.tag}-gzip")
    else:
        response.set_data(file.body)
        response.set_etag(file.tag)
    # Under a name with another tag it is not what was asked for, if better than nothing.
    lasting = f"v={file.tag}".encode() in request.query_string.split(b"&")
    response.headers["Cache-Control"] = (
        f"public, max-age={_A_YEAR}, immutable" if lasting else f"public, max-age={_AN_HOUR}"
    )
    return _conditional(response)


def _conditional(response: Response) -> Response:
    # Nothing here has a date. werkzeug would raise OverflowError for some that callers send.
    response.make_conditional({**request.environ, "HTTP_IF_MODIFIED_SINCE": None})
    del response.headers["Date"]  # the server has its own
    return response


class _File(NamedTuple):
    body: bytes
    tag: str
    squeezed: bytes | None
    """The same for a browser that takes gzip: of Swagger UI's 1.9 MB, a quarter."""


@cache
def _files() -> dict[str, Traversable]:
    """Return every file that is served, by name. What is not in here is not served, whatever the path says."""
    ours = {file.name: file for file in (files("proxy.web.pages") / "static").iterdir()}
    swagger_ui = files("flask_swagger_ui") / "dist"
    return {**ours, **{name: swagger_ui / name for name in _SWAGGER_UI}}


@cache
def _file(name: str) -> _File:
    if name not in _files():
        raise NotFound
    body = _files()[name].read_bytes()
    squeezed = gzip.compress(body, 6, mtime=0)
    return _File(body, hashlib.sha256(body).hexdigest()[:16], squeezed if len(squeezed) < len(body) else None)
