"""One rendering while it goes on."""

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
    """One rendering: for whom, by whom asked, within what, and what came of it so far."""

    def __init__(self, user: User, ask: Ask, limits: Limits, monotonic: Callable[[], float]) -> None:
        self.user = user
        self.ask = ask
        self.limits = limits
        self.budget = Budget(limits, monotonic)
        self.exchanges: list[Exchange] = []
        self.found: dict[Finding, None] = {}
        self.retried: str | None = None
        self.line = 1

    def note(self, finding: Finding) -> bool:
        """Keep a finding, once; say whether there is room for more. A loop can find a thousand faults a second."""
        if len(self.found) < self.limits.findings:
            self.found[finding] = None
            return True
        return finding in self.found


def line_of(token: Token | None, first: int) -> int:
    """Return the line of the message in which `token` is, when what holds it begins in line `first`."""
    if token is None or token.start_index < 0:
        return first
    return first + bisect_left(_newlines(token.source), token.start_index)


@lru_cache(maxsize=32)
def _newlines(source: str) -> list[int]:
    return [index for index, letter in enumerate(source) if letter == "\n"]
