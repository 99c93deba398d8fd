"""HTML pages with a strict Content-Security-Policy, and their static files with versioned URLs."""

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

from proxy import __version__

blueprint = Blueprint("pages", __name__)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of a page. It allows no content from other hosts, and no inline scripts or styles."""

_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
_NAME = re.compile(r"(?:[a-z0-9-]+\.)+[a-z][a-z0-9-]*", re.IGNORECASE | re.ASCII)
_SWAGGER_UI = ("swagger-ui-bundle.js", "swagger-ui.css")


def page(template: str, **values: Any) -> Response:
    """Render `template`, which extends `base.html` and builds URLs of static files with `asset`."""
    return allow_revalidation(fill(Response(), template, **values))


def fill(response: Response, template: str, **values: Any) -> Response:
    """Set the body of `response` to the page `template`, and its policy to that of a page."""
    response.set_data(render_template(template, asset=asset, version=__version__, **values))
    response.content_type = "text/html; charset=utf-8"
    response.headers["Content-Security-Policy"] = PAGE_POLICY
    return response


def host_in_braze() -> str:
    """Return the host for a tag: the host of the request, or `your-host` if Braze cannot call that host.

    Braze calls host names over TLS at the standard port. An IP address or a host with a port does not work.
    """
    host = request.host
    return host if _NAME.fullmatch(host) else "your-host"


def allow_revalidation(response: Response) -> Response:
    """Let a browser cache `response` and revalidate it each time. An unchanged response is a 304."""
    response.headers["Cache-Control"] = "no-cache"
    response.add_etag()
    return _conditional(response)


def uncached_response(data: bytes, content_type: str = "application/json") -> Response:
    """Return a response that no cache may store."""
    response = Response(data, content_type=content_type)
    response.headers["Cache-Control"] = "no-store"
    return response


def asset(name: str) -> str:
    """Return the URL of a static file with the tag of its version, so that a browser can cache the file forever."""
    return f"/static/{name}?v={load(name).tag}"


@blueprint.get("/static/<name>", provide_automatic_options=False)
def static(name: str) -> Response:
    """Return a static file."""
    file = load(name)
    response = Response(file.body, content_type=_TYPES[name.rpartition(".")[2]])
    response.headers["Vary"] = "Accept-Encoding"
    response.set_etag(file.tag)
    if file.compressed and request.accept_encodings["gzip"]:
        response.set_data(file.compressed)
        response.headers["Content-Encoding"] = "gzip"
        response.set_etag(f"{file.tag}-gzip")
    response.headers["Cache-Control"] = _lifetime(file.tag)
    return _conditional(response)


def _lifetime(tag: str) -> str:
    if not request.query_string:
        # A script imports other scripts without a tag. All must be of the same version.
        return "no-cache"
    # A URL with another tag asks for another version, so a browser may cache this version only briefly.
    immutable = f"v={tag}".encode() in request.query_string.split(b"&")
    return f"public, max-age={'31536000, immutable' if immutable else '3600'}"


def _conditional(response: Response) -> Response:
    # Files have no dates, and werkzeug raises OverflowError for some values of If-Modified-Since.
    response.make_conditional({**request.environ, "HTTP_IF_MODIFIED_SINCE": None})
    del response.headers["Date"]  # the server adds the header
    return response


class File(NamedTuple):
    """A static file. `tag` changes with the content."""

    body: bytes
    tag: str
    compressed: bytes | None
    """Body compressed by gzip, or None. Compression reduces Swagger UI's 1.9 MB to a quarter."""


@cache
def _files() -> dict[str, Traversable]:
    """Return all static files by name. The service returns no other files."""
    static_folder = files("proxy.web.pages") / "static"
    folders = static_folder, static_folder / "vendor"
    own = {file.name: file for folder in folders for file in folder.iterdir() if file.is_file()}
    swagger_ui = files("flask_swagger_ui") / "dist"
    return {**own, **{name: swagger_ui / name for name in _SWAGGER_UI}}


@cache
def load(name: str) -> File:
    """Return a static file, which is read on the first request. Raises NotFound."""
    if name not in _files():
        raise NotFound
    body = _files()[name].read_bytes()
    compressed = gzip.compress(body, 6, mtime=0)
    return File(body, hashlib.sha256(body).hexdigest()[:16], compressed if len(compressed) < len(body) else None)
