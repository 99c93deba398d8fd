"""Types of a preview: the user, the calls of each tag, the findings and the rendering."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SECONDS = 8.0
"""Time limit of a rendering, including its calls."""
OUR_LIMIT = "this is a limit of the preview, not of Braze"

NO_ALIASES: Mapping[str, Sequence[str]] = {}
"""No short names of any kind."""


@dataclass(frozen=True, slots=True)
class User:
    """The user that a message is rendered for. Both are empty for an anonymous user."""

    user_id: str = ""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a data route. `target` is path and query. `cache_only`: the call must not cost a call to Amplitude."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    content_type: str = ""
    cache_only: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: str
    milliseconds: float


Ask = Callable[[Request], Answer]
"""A function that sends a request to a service, and to no other host."""
AskForTag = Callable[[Request], Answer | None]
"""A function that answers the request of a tag. Returns None if the tag must wait for a rendering that makes calls."""


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """An answer that the page keeps, so that it can render again without a call."""

    request: Request
    status: int
    body: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that occurs in Braze, or a note. `fix`: the action for the author of the message.

    `line` and `column` count from 1. `column` and `length` count characters (Unicode code points); a range may extend
    over line breaks. `length` is 0 if only the line is known. `replacement` is the text that fixes the range, or None
    if the author must choose it.
    """

    line: int
    rule: str
    problem: str
    fix: str
    level: Literal["problem", "note"] = "problem"
    column: int = 1
    length: int = 0
    replacement: str | None = None


@dataclass(frozen=True, slots=True)
class Rendering:
    """The outcome of a message in Braze.

    `sent`: Braze sends `message`; it needs attention if there is a `reason`, because it is empty, holds an error of
    Liquid, or a call failed. `aborted`: an abort_message tag gave `reason`. `retried`: a call with :retry
    failed, so Braze tries again later; `message` is the text of this attempt. `refused`: the template cannot be
    rendered because of `reason`.
    """

    outcome: Literal["sent", "aborted", "retried", "refused"]
    message: str = ""
    reason: str = ""
    tags: tuple[dict[str, Any], ...] = ()
    """The report of each Connected Content tag that was rendered."""
    findings: tuple[Finding, ...] = ()
    unknown_values: tuple[tuple[str, int], ...] = ()
    """Name and line of each value that only Braze knows, also with a test value."""

    @property
    def good(self) -> bool:
        """Return whether Braze sends the message as the author wants."""
        return self.outcome == "sent" and not self.reason
