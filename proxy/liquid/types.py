"""Types of a preview: the user, the calls of each tag, the findings and the rendering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SECONDS = 8.0
"""Time limit of a rendering, with its calls."""


@dataclass(frozen=True, slots=True)
class User:
    """The user that a message is rendered for. Both are empty for an anonymous user."""

    user_id: str = ""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """A call of a data route. `target` is path and query."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a call. `headers` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: str
    milliseconds: float


Ask = Callable[[Request], Answer]
"""Calls this service, and no other host."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that breaks in Braze, or a note. `fix` is what to write instead."""

    line: int
    rule: str
    problem: str
    fix: str
    level: Literal["problem", "note"] = "problem"


@dataclass(frozen=True, slots=True)
class Rendering:
    """The outcome of a message in Braze.

    `sent`: Braze sends `message`. `aborted`: an abort_message tag gave `reason`. `retried`: a call with :retry has
    failed, so Braze tries again later; `message` is the content of this try. `refused`: the template cannot be
    rendered, for `reason`.
    """

    outcome: Literal["sent", "aborted", "retried", "refused"]
    message: str = ""
    reason: str = ""
    tags: tuple[dict[str, Any], ...] = ()
    """The report of each Connected Content tag that was rendered."""
    findings: tuple[Finding, ...] = ()
