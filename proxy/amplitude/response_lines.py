"""Reads the lines of an answer's body as they come, and sees whether it came whole."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import Any

import requests

TORN = (EOFError, zlib.error)
"""What reading raises, beside what requests, urllib3 and the system do, where a gzip stream is not whole."""


class BrokenOff(Exception):
    """The body did not come whole. It may the next time."""


def lines_of(answer: requests.Response) -> Iterator[str]:
    """Return the lines of a body, as far as they come. What ends before its end raises, at the end of what came."""
    raw = answer.raw
    raw.auto_close = False  # or it would be closed while lines of it are still to be read
    raw.decode_content = False
    bounded = raw.chunked or raw.length_remaining is not None
    source: Any = raw
    match answer.headers.get("Content-Encoding", "identity").strip().lower():
        case "identity":
            pass
        case "gzip" | "x-gzip":
            # Some storages send what they keep, whatever was asked for. urllib3 would take half a stream for the whole.
            source, bounded = gzip.GzipFile(fileobj=raw), True
        case coding:
            raise BrokenOff(f"it comes in a coding that nobody asked for, {coding[:40]!r}")
    text = io.TextIOWrapper(io.BufferedReader(source, 65536), "utf-8-sig", "surrogateescape", newline="")
    return text if bounded else _terminated(text)


def _terminated(lines: Iterator[str]) -> Iterator[str]:
    """Yield lines whose number nothing tells but the end of the connection: it may have come within one."""
    line = ""
    for line in lines:
        if not line.endswith(("\r", "\n")):
            break
        yield line
    if not line.endswith(("\r", "\n")):
        raise BrokenOff("it ends within a line")
