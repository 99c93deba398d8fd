"""Renders a Braze message with python-liquid. Each Connected Content tag calls the service."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from liquid.exceptions import LiquidError, LiquidInterrupt, ResourceLimitError, StopRender
from liquid.output import LimitedStringIO

from proxy.liquid.braze_objects import value_names
from proxy.liquid.environment import BrazeContext, BrazeEnvironment
from proxy.liquid.limits import MAX_FINDINGS, MAX_OUTPUT, MAX_SOURCE
from proxy.liquid.lint.tags import findings
from proxy.liquid.ruby import encodable
from proxy.liquid.scanner import HTML_COMMENT, TooLarge, Unreadable, line_at, markups, rewritten
from proxy.liquid.state import Aborted, Run
from proxy.liquid.types import OUR_LIMIT, SECONDS, Ask, Finding, Rendering, User

_LIQUID = re.compile(r"\{[{%]")


def render(
    source: str,
    user: User,
    ask: Ask,
    *,
    values: Mapping[str, Any] | None = None,
    seconds: float = SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> Rendering:
    """Return the message that Braze would send to `user`, with the findings. `ask` answers each tag.

    `values`: test values for what only Braze knows, by name (`proxy.liquid.braze_objects`).
    """
    run = Run(user, ask, values or {}, seconds, monotonic)
    source = encodable(source)
    try:
        if len(source) > MAX_SOURCE:
            raise TooLarge(1, f"the message is longer than {MAX_SOURCE:,} characters; preview a part of the message")
        pieces = markups(source)
        for name, line in value_names(pieces):
            run.need(name, line)
        for piece in pieces:
            if piece.name == HTML_COMMENT and _LIQUID.search(piece.text):
                run.note(_in_html_comment(piece.line))
        # Stops at the limit of findings.
        all(map(run.note, findings(pieces)))
        message = _message(rewritten(source, pieces), run)
    except TooLarge as large:
        return _rendering(run, "refused", reason=f"line {large.line}: {large.problem}; {OUR_LIMIT}")
    except Unreadable as unreadable:
        run.note(
            Finding(unreadable.line, "unreadable", unreadable.problem, "fix this line; Braze refuses the whole message")
        )
        return _rendering(run, "refused", reason=f"line {unreadable.line}: {unreadable.problem}")
    except Aborted as aborted:
        return _rendering(run, "aborted", reason=aborted.reason)
    except RecursionError:
        reason = "an expression is nested too deeply; simplify the expression"
        return _rendering(run, "refused", reason=reason)
    except LiquidError as error:
        return _rendering(run, "refused", reason=_reason(error))
    if run.retried is not None:
        return _rendering(run, "retried", message=message, reason=run.retried)
    return _rendering(run, "sent", message=message)


def _message(plain: str, run: Run) -> str:
    environment = BrazeEnvironment(run)
    template = environment.from_string(plain)
    context = BrazeContext(template, globals=environment.globals)
    buffer = LimitedStringIO(MAX_OUTPUT, newline="")
    try:
        for node in template.nodes:
            node.render(context, buffer)
    except (LiquidInterrupt, StopRender):
        pass  # a break outside of a loop ends the message
    return buffer.getvalue()


def _rendering(run: Run, outcome: Any, *, message: str = "", reason: str = "") -> Rendering:
    ordered = sorted(run.findings, key=lambda finding: finding.line)
    if len(ordered) >= MAX_FINDINGS:
        problem = f"the preview shows only the first {MAX_FINDINGS:,} findings"
        ordered.append(Finding(ordered[-1].line, "more-findings", problem, "fix these findings first", level="note"))
    unknown = tuple(run.unknown_values.items())
    return Rendering(outcome, message, reason, tuple(run.tags), tuple(ordered), unknown)


def _in_html_comment(line: int) -> Finding:
    return Finding(
        line,
        "html-comment",
        "Braze removes HTML comments first, so the Liquid in this comment does not run",
        "move the Liquid out of the comment if it should run",
        level="note",
    )


def _reason(error: LiquidError) -> str:
    token = error.token
    where = ""
    if token is not None and token.start_index >= 0:
        where = f"line {line_at(token.source, token.start_index)}: "
    reason = where + re.sub(r"\s+", " ", str(error.message or "Liquid cannot read the message; check its syntax"))
    return f"{reason}; {OUR_LIMIT}" if isinstance(error, ResourceLimitError) else reason
