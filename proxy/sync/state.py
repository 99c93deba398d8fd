"""The interfaces of the accepted values and of their durable state.

`SyncState` has two implementations: SQLite in sync/, and Redis in storage/redis/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from proxy.storage.accepted_values import AcceptedValue


class AcceptedValues(Protocol):
    """The last accepted value of each attribute, by user id. Thread-safe."""

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value. Equal JSON values have equal digests; 1 and 1.0 are equal."""

    def read(self, user_ids: Sequence[str]) -> list[Mapping[str, AcceptedValue]]:
        """Return the accepted attributes of each user; empty for an unknown user."""

    def record(self, accepted: Sequence[tuple[str, Mapping[str, AcceptedValue]]]) -> None:
        """Store accepted attributes, and keep all other attributes. An older time never replaces a newer one."""

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users. Return the number of removed users."""


class SyncState(AcceptedValues, Protocol):
    """Accepted values that are stored durably, and belong to one endpoint and key of Braze."""

    def users(self) -> Iterator[tuple[str, Mapping[str, AcceptedValue]]]:
        """Yield every user of the state. Redis may yield a user twice."""

    def count(self) -> int:
        """Return the number of users."""

    def compare_owner(self, endpoint: str, api_key: str) -> list[str]:
        """Return the names of the settings that differ from the settings of the owner; empty without an owner."""

    def claim(self, endpoint: str, api_key: str, *, clear: bool) -> None:
        """Make an endpoint and a key the owner of the state. `clear`: remove all users first."""


def accepted_attributes(state: AcceptedValues, attributes: Mapping[str, Any], at: float) -> dict[str, AcceptedValue]:
    """Return the attributes in the form that `state` records. `at`: the time of the values (Unix seconds)."""
    return {name: AcceptedValue(state.digest(value), at) for name, value in attributes.items()}
