"""Records, updates and leases in a Redis that all processes share; no rate limiter, which is in `amplitude`.

Only `client` and `errors` import the library. This module has the types for callers that must not load the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.profile.errors import UpstreamError
from proxy.profile.parts import Part
from proxy.profile.record import Record
from proxy.profile.updates import Updates


class RedisUnavailable(Exception):
    """Redis did not answer, or returned an error. Redis may have executed the command.

    The text, if any, names the problem and the fix.
    """


class RedisRefused(RedisUnavailable):
    """Redis answers, but does not accept the user or the settings of REDIS_URL. Retrying does not help."""


class StateInUse(Exception):
    """Another run of `sync` holds the lock of the state. The text has the fix."""


class StoredProfile(NamedTuple):
    """The record of an identity, and the updates of its user."""

    record: Record
    updates: Updates


@dataclass(frozen=True, slots=True)
class Lease:
    """The parts that this process must fetch, and the recent failures of other processes by part."""

    granted: frozenset[Part]
    faults: Mapping[Part, UpstreamError] = field(default_factory=dict)
