"""Answers of the data routes: bytes and headers that are complete, sent as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Response
from werkzeug.datastructures import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Written(Response):
    """A body and all its headers. `pairs`: header names and values, every one of them made here and so without a line
    break, which werkzeug would look for in each; with the type, and without the length.
    """

    automatically_set_content_length = False

    def __init__(self, body: bytes, pairs: Iterable[tuple[str, str]], status: int = 200) -> None:
        super().__init__(status=status, headers=_Whole([*pairs, ("Content-Length", str(len(body)))]))
        self.response = self._body = [body]

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Add headers that are not there yet."""
        self.headers._list += pairs

    def get_wsgi_headers(self, environ: WSGIEnvironment) -> Headers:
        """Return the headers, without those of a body where there is none."""
        return self.headers if self.status_code == 200 else super().get_wsgi_headers(environ)

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        """Return the body, which needs no closing; nothing where HTTP wants no body."""
        if self.status_code == 200 and environ["REQUEST_METHOD"] != "HEAD":
            return self._body
        return super().get_app_iter(environ)


class _Whole(Headers):
    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._list = pairs
