"""Reads the lines of a response body as they arrive, in bounded memory, and detects an incomplete body."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

import requests

from proxy.api.user_rows import bounded_lines

_GZIP = b"\x1f\x8b"
GZIP_ERRORS = (EOFError, zlib.error)
"""The errors that an incomplete gzip stream raises."""


class IncompleteBody(Exception):
    """The body is incomplete or unreadable. A new request may succeed."""


def lines_of(response: requests.Response) -> Iterator[str]:
    """Yield the lines of a body.

    After the last complete line, an incomplete body raises IncompleteBody or GZIP_ERRORS. Raises RowTooLong.
    """
    raw = response.raw
    raw.auto_close = False  # urllib3 would close the body before the buffer is read
    raw.decode_content = False
    bounded = raw.chunked or raw.length_remaining is not None
    source: Any = raw
    match response.headers.get("Content-Encoding", "identity").strip().lower():
        case "identity":
            pass
        case "gzip" | "x-gzip":
            # Some storages send gzip without a request for it. urllib3 would accept an incomplete stream.
            source, bounded = gzip.GzipFile(fileobj=raw), True
        case coding:
            raise IncompleteBody(f"the Content-Encoding {coding[:40]!r} is not supported")
    buffered = io.BufferedReader(source, 65536)
    if buffered.peek(len(_GZIP))[: len(_GZIP)] == _GZIP:  # the file itself is compressed
        buffered, bounded = io.BufferedReader(gzip.GzipFile(fileobj=buffered), 65536), True
    lines = bounded_lines(io.TextIOWrapper(buffered, "utf-8-sig", "surrogateescape", newline=""))
    return lines if bounded else _terminated(lines)


def _terminated(lines: Iterator[str]) -> Iterator[str]:
    """Yield the lines of a body without a length. Such a body is incomplete if it ends within a line."""
    line = ""
    for line in lines:
        if not line.endswith(("\r", "\n")):
            break
        yield line
    if not line.endswith(("\r", "\n")):
        raise IncompleteBody("the body ends in the middle of a line")
