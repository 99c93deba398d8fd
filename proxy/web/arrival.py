"""Limits how long a request may wait for Amplitude. On a busy processor, the request has already waited to be read."""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING

from proxy.monitoring.clock import Clock

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
    if len(info) < _LAST_DATA_RECEIVED.size:  # an emulated kernel, such as gVisor's
        return 0.0
    (milliseconds,) = _LAST_DATA_RECEIVED.unpack(info)
    return float(milliseconds) / 1000


def wait_until(environ: WSGIEnvironment, clock: Clock, started: float, wait_seconds: float) -> float:
    """Return the time until which a request may wait for Amplitude (monotonic seconds).

    `started`: when the process began to serve the request (monotonic seconds). `wait_seconds`: the longest wait.
    """
    queue_seconds = max(0.0, seconds_since_arrival(environ) - (clock.monotonic() - started))
    # A busy processor delays the answer as long as it delayed the request. So of 1,000 callers that arrive at
    # once, the last one that is served stops waiting first. At least half of the wait remains. Otherwise, a request
    # that arrived during the start of the worker, about a second ago, would have no time for its call.
    return started + wait_seconds - min(2 * queue_seconds, wait_seconds / 2)
