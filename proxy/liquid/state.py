"""The state of a rendering in progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from liquid import Token
from liquid.exceptions import ResourceLimitError

from proxy.liquid.braze_objects import misspelt
from proxy.liquid.limits import MAX_FINDINGS
from proxy.liquid.scanner import line_at
from proxy.liquid.types import Answer, AskForTag, Finding, Request, User


class Aborted(Exception):
    """An abort_message tag was reached."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Run:
    """A rendering in progress: user, calls, time limit, and the findings so far."""

    def __init__(
        self, user: User, ask: AskForTag, values: Mapping[str, Any], seconds: float, monotonic: Callable[[], float]
    ) -> None:
        self.user = user
        self.calls: list[tuple[Request, Answer]] = []
        """The calls so far, in the order of the tags in `tags` that made a call."""
        self._ask = ask
        self.open_blocks: list[str] = []
        """The Content Blocks that are being rendered, outermost first."""
        self.tags: list[dict[str, Any]] = []
        self.findings: dict[Finding, None] = {}
        self.values = values
        """The test values by name."""
        self.unknown_values: dict[str, int] = {}
        """The lines of the values that only Braze knows, by name."""
        self.retried: str | None = None
        self.empty_outputs: set[tuple[int, str]] = set()
        """Line and Liquid of each output that printed nothing."""
        self.line = 1
        """The line of the node being rendered. Lines of a template that this node parses count from here."""
        self._seconds = seconds
        self._monotonic = monotonic
        self._until = monotonic() + seconds

    def ask(self, request: Request) -> Answer | None:
        """Send a request and record the call. Returns None if the tag must wait."""
        answer = self._ask(request)
        if answer is not None:
            self.calls.append((request, answer))
        return answer

    def restart(self, ask: AskForTag) -> Run:
        """Return a new rendering for the same user, which must end at the same time."""
        return Run(self.user, ask, self.values, self._until - self._monotonic(), self._monotonic)

    def check_time(self) -> None:
        """Raise ResourceLimitError after the time limit."""
        if not self.in_time():
            raise ResourceLimitError(
                f"rendering takes longer than {self._seconds:g} s; simplify the message", token=None
            )

    def in_time(self) -> bool:
        """Return whether the time limit has not passed."""
        return self._monotonic() <= self._until

    def line_of(self, token: Token | None) -> int:
        """Return the line in the message of a token of the template being parsed."""
        if token is None or token.start_index < 0:
            return self.line
        return self.line - 1 + line_at(token.source, token.start_index)

    def note(self, finding: Finding) -> bool:
        """Add a finding once. Return whether there is space for more; a loop could add any number."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings[finding] = None
            return True
        return finding in self.findings

    def value_of(self, name: str) -> Any:
        """Return the test value of a name; None if it is missing, with a note."""
        self.need(name, self.line)
        return self.values.get(name)

    def need(self, name: str, line: int) -> None:
        """Record a value that only Braze knows. A name without a test value is noted once."""
        if name in self.unknown_values or len(self.unknown_values) >= MAX_FINDINGS:
            return
        self.unknown_values[name] = line
        if self.values.get(name) is not None:
            return
        if similar := misspelt(name):
            problem = f"{name} is not a Braze attribute, so it is empty"
            self.note(Finding(line, "misspelt-attribute", problem, f"write {similar}"))
        else:
            problem = f"only Braze knows the value of {name}, so it is empty in the preview"
            self.note(Finding(line, "unknown-attribute", problem, f"enter a test value for {name}", level="note"))
