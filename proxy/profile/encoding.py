"""What Amplitude said, in the form in which it is kept: an object's names and values apart. Pure.

Users of one campaign differ in the values and hardly in the names: what follows from the names is found out once, and
the values go into an answer without being read. The first line is the names, as a JSON array; each further one is a
value. Anything but an object with something in it is a single line of JSON. What is long is compressed: with LZ4, of
which a user takes 290 bytes more than of deflate, and undoing it a tenth of the time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import lz4.block

from proxy.profile.json import write_json


def write(value: Any) -> bytes:
    """Return `value` as it is kept."""
    if not value or not isinstance(value, dict):
        return _packed(write_json(value))
    return assemble({name: write_json(one) for name, one in value.items()})


def assemble(values: Mapping[str, bytes]) -> bytes:
    """Return as it is kept the object of these names and values, which are JSON already, as compact as ours."""
    if not values:
        return b"{}"
    # Two names may be alike once each is in UTF-8; the later one wins, as in any JSON.
    lines = {write_json(name): one for name, one in values.items()}
    return _packed(b"\n".join([b"[" + b",".join(lines) + b"]", *lines.values()]))


def read(kept: bytes) -> Any:
    """Return the value that was written."""
    lines = text(kept).decode()
    if "\n" not in lines:
        return _decode(lines)
    names, *values = _decode(f"[{lines.replace(chr(10), ',')}]")
    return dict(zip(names, values, strict=True))


def split(kept: bytes) -> tuple[bytes, list[bytes]]:
    """Return the names of an object, as a JSON array, and its values, each as JSON; of anything else no names."""
    names, line, values = text(kept).partition(b"\n")
    return (names, values.split(b"\n")) if line else (b"[]", [])


def text(kept: bytes) -> bytes:
    """Return what is kept as it was before it was compressed: of anything but an object with something in it, JSON."""
    if kept[:1] != _COMPRESSED:
        return kept
    lines: bytes = lz4.block.decompress(memoryview(kept)[1:])
    return lines


_decode = json.JSONDecoder().decode
_COMPRESSED = b"\x04"  # as no JSON begins
_LONG = 512


def _packed(lines: bytes) -> bytes:
    return _COMPRESSED + lz4.block.compress(lines) if len(lines) >= _LONG else lines
