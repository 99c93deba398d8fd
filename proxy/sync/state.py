"""Defines what a state of sent values can do. Two implementations: SQLite in sync/, Redis in storage/redis/."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from proxy.storage.sent_values import Sent

__all__ = ["Sent", "SentState"]


class SentState(Protocol):
    """The last accepted value of each attribute, by user id. Thread-safe."""

    def digest(self, value: object) -> bytes:
        """Return the keyed digest of a JSON value. Equal JSON values have equal digests; 1 and 1.0 are equal."""

    def sent(self, user_ids: Sequence[str]) -> list[Mapping[str, Sent]]:
        """Return the accepted attributes of each user; empty for an unknown user."""

    def record(self, accepted: Sequence[tuple[str, Mapping[str, Sent]]]) -> None:
        """Store accepted attributes, and keep the others. An older time never replaces a newer time."""

    def users(self) -> Iterator[tuple[str, Mapping[str, Sent]]]:
        """Yield every user of the state."""

    def count(self) -> int:
        """Return the number of users."""

    def forget(self, user_ids: Sequence[str]) -> int:
        """Remove users. Return the number of removed users."""
