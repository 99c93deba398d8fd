"""Reads the lines of a response body as they arrive, and detects an incomplete body."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

import requests

TORN = (EOFError, zlib.error)
"""The errors of an incomplete gzip stream, in addition to those of requests, urllib3 and the system."""


class BrokenOff(Exception):
    """The body is incomplete. A new request may succeed."""


def lines_of(response: requests.Response) -> Iterator[str]:
    """Yield the lines of a body. An incomplete body raises BrokenOff or one of TORN after its last complete line."""
    raw = response.raw
    raw.auto_close = False  # otherwise it would be closed before the buffer is read
    raw.decode_content = False
    bounded = raw.chunked or raw.length_remaining is not None
    source: Any = raw
    match response.headers.get("Content-Encoding", "identity").strip().lower():
        case "identity":
            pass
        case "gzip" | "x-gzip":
            # Some storages send gzip that was not requested. urllib3 would accept half a stream.
            source, bounded = gzip.GzipFile(fileobj=raw), True
        case coding:
            raise BrokenOff(f"it comes in a coding that nobody asked for, {coding[:40]!r}")
    text = io.TextIOWrapper(io.BufferedReader(source, 65536), "utf-8-sig", "surrogateescape", newline="")
    return text if bounded else _terminated(text)


def _terminated(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines of a body that ends with the connection, which may have ended within a line."""
    line = ""
    for line in lines:
        if not line.endswith(("\r", "\n")):
            break
        yield line
    if not line.endswith(("\r", "\n")):
        raise BrokenOff("it ends within a line")
