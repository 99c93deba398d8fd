"""Records, updates and leases that all processes share through one Redis. Only `client` imports the library.

The types here are for callers that must not load the library.
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
    """Redis did not answer, or answered with an error. The command may have been executed."""


class StoredProfile(NamedTuple):
    """The record of an identity, and the updates about its user."""

    record: Record
    updates: Updates


@dataclass(frozen=True, slots=True)
class Lease:
    """The parts that this process is to fetch, and why a recent fetch of others failed in another process."""

    granted: frozenset[Part]
    faults: Mapping[Part, UpstreamError] = field(default_factory=dict)
