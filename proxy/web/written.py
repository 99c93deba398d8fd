"""Responses of the data routes: complete bytes and headers, sent as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Written(Response):
    """A body and all its headers.

    `pairs` are header names and values, with the type and without the length. All are generated here, so they contain
    no line break, which werkzeug would look for in each.
    """

    automatically_set_content_length = False

    def __init__(self, body: bytes, pairs: Iterable[tuple[str, str]], status: int = 200) -> None:
        super().__init__(status=status, headers=_Whole([*pairs, ("Content-Length", str(len(body)))]))
        self.response = self._body = [body]

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Add headers that the response does not have."""
        self.headers._list += pairs

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers; without those of a body when there is none."""
        return self.headers if self.status_code == 200 else super().get_wsgi_headers(environ)

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body, which needs no closing; nothing where HTTP allows no body."""
        if self.status_code == 200 and environ["REQUEST_METHOD"] != "HEAD":
            return self._body
        return super().get_app_iter(environ)


class _Whole(Headers):
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._list = pairs
