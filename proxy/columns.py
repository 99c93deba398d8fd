"""What Amplitude said, in the form in which it is kept: an object's names and values apart. Pure.

Users of one campaign differ in the values and hardly in the names: what follows from the names is found out once, and
the values go into an answer without being read. The first line is the names, as a JSON array; each further one is a
value. Anything but an object with something in it is a single line of JSON.
"""

from __future__ import annotations

import json
from typing import Any

from proxy import strictjson


def write(value: Any) -> bytes:
    """Return `value` as it is kept."""
    if not value or not isinstance(value, dict):
        return strictjson.write(value)
    # Two names may be alike once each is in UTF-8; the later one wins, as in any JSON.
    lines = {strictjson.write(name): strictjson.write(one) for name, one in value.items()}
    return b"\n".join([b"[" + b",".join(lines) + b"]", *lines.values()])


def read(kept: bytes) -> Any:
    """Return the value that was written."""
    names, newline, values = kept.partition(b"\n")
    if not newline:
        return json.loads(kept)
    return dict(zip(json.loads(names), json.loads(b"[" + values.replace(b"\n", b",") + b"]"), strict=True))


def split(kept: bytes) -> tuple[bytes, list[bytes]]:
    """Return the names of an object, as a JSON array, and its values, each as JSON; of anything else no names."""
    names, *values = kept.split(b"\n")
    return (names, values) if values else (b"[]", [])
