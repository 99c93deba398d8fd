"""What goes in and out of a preview: for whom, what each tag asked and was told, what is sent. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SECONDS = 8.0
"""How long a rendering may take, with its calls."""

Level = Literal["problem", "note"]


@dataclass(frozen=True, slots=True)
class User:
    """Who the message is rendered for; empty texts for an anonymous user."""

    user_id: str = ""
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of a data route: `target` is path and query."""

    method: str
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    content_type: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; `headers` by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: str
    milliseconds: float


Ask = Callable[[Request], Answer]
"""Asks the service, and nothing else."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that breaks in Braze, or a note. `fix` is what to write instead."""

    line: int
    rule: str
    problem: str
    fix: str
    level: Level = "problem"


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one tag asked and was told. `answer` is None where the service was not called."""

    line: int
    url: str
    method: str
    called: str | None
    saved_as: str | None
    answer: Answer | None
    value: Any
    """What the template sees of the answer: JSON, text, or None."""
    logs_exposure: bool


@dataclass(frozen=True, slots=True)
class Rendering:
    """What Braze would do.

    `sent`: it sends `message`. `aborted`: an abort_message tag said `reason`. `retried`: a call with :retry has
    failed, so it tries again later; `message` is what this try would have been. `refused`: the template cannot
    be rendered, for `reason`.
    """

    outcome: Literal["sent", "aborted", "retried", "refused"]
    message: str = ""
    reason: str = ""
    exchanges: tuple[Exchange, ...] = ()
    findings: tuple[Finding, ...] = ()
