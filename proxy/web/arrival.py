"""When a request arrived: a busy process reads a request later than that."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_LAST_DATA_RECEIVED = struct.Struct("=52xI")
"""`tcpi_last_data_recv` in `struct tcp_info`, in milliseconds. Source: Linux, include/uapi/linux/tcp.h."""


def seconds_since_arrival(environ: WSGIEnvironment) -> float:
    """Return the seconds since the last byte of the request arrived; 0 if the system does not report them."""
    connection = environ.get("gunicorn.socket")
    if connection is None or sys.platform != "linux":
        return 0.0
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED.size)
    except OSError:  # a Unix socket
        return 0.0
    (milliseconds,) = _LAST_DATA_RECEIVED.unpack(info)
    return float(milliseconds) / 1000
