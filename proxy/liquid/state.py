"""The state of a rendering in progress."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache

from liquid import Token

from proxy.liquid.limits import Budget, Limits
from proxy.liquid.types import Ask, Exchange, Finding, User


class Aborted(Exception):
    """An abort_message tag was reached."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Run:
    """A rendering in progress: user, calls, limits, and the findings so far."""

    def __init__(self, user: User, ask: Ask, limits: Limits, monotonic: Callable[[], float]) -> None:
        self.user = user
        self.ask = ask
        self.limits = limits
        self.budget = Budget(limits, monotonic)
        self.exchanges: list[Exchange] = []
        self.findings: dict[Finding, None] = {}
        self.retried: str | None = None
        self.line = 1

    def note(self, finding: Finding) -> bool:
        """Add a finding once. Return whether there is room for more: a loop can add a thousand a second."""
        if len(self.findings) < self.limits.findings:
            self.findings[finding] = None
            return True
        return finding in self.findings


def line_of(token: Token | None, first: int) -> int:
    """Return the line of `token` in the message. Its template begins in line `first`."""
    if token is None or token.start_index < 0:
        return first
    return first + bisect_left(_newlines(token.source), token.start_index)


@lru_cache(maxsize=32)
def _newlines(source: str) -> list[int]:
    return [index for index, letter in enumerate(source) if letter == "\n"]
