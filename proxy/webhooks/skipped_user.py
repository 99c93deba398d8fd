"""The error for a user who is skipped."""

from __future__ import annotations


class SkippedUser(Exception):
    """A user has no usable update."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
