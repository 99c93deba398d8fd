"""Renders a Braze message with python-liquid. Each Connected Content tag calls the service."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from liquid.exceptions import LiquidError, LiquidInterrupt, StopRender
from liquid.output import LimitedStringIO

from proxy.liquid.environment import BrazeContext, BrazeEnvironment
from proxy.liquid.limits import MAX_FINDINGS, MAX_OUTPUT, MAX_SOURCE
from proxy.liquid.lint.tags import findings
from proxy.liquid.ruby import encodable
from proxy.liquid.scanner import Unreadable, line_at, markups, rewritten
from proxy.liquid.state import Aborted, Run
from proxy.liquid.types import SECONDS, AskForTag, Finding, Rendering, User


def render(
    source: str,
    user: User,
    ask: AskForTag,
    *,
    seconds: float = SECONDS,
    monotonic: Callable[[], float] = time.monotonic,
) -> Rendering:
    """Return the message that Braze would send to `user`, with the findings. `ask` answers each tag."""
    run = Run(user, ask, seconds, monotonic)
    source = encodable(source)
    try:
        if len(source) > MAX_SOURCE:
            raise Unreadable(1, f"the message is longer than {MAX_SOURCE:,} characters; shorten the message")
        pieces = markups(source)
        # Stops at the limit of findings.
        all(map(run.note, findings(pieces)))
        message = _message(rewritten(source, pieces), run)
    except Unreadable as unreadable:
        run.note(
            Finding(unreadable.line, "unreadable", unreadable.problem, "fix this line; Braze refuses the whole message")
        )
        return _rendering(run, "refused", reason=f"line {unreadable.line}: {unreadable.problem}")
    except Aborted as aborted:
        return _rendering(run, "aborted", reason=aborted.reason)
    except RecursionError:
        return _rendering(run, "refused", reason="an expression is nested too deeply; simplify the expression")
    except LiquidError as error:
        return _rendering(run, "refused", reason=_reason(error))
    if run.retried is not None:
        return _rendering(run, "retried", message=message, reason=run.retried)
    return _rendering(run, "sent", message=message, reason=_doubt(message, run))


def _doubt(message: str, run: Run) -> str:
    """Return why a message that Braze would send needs attention, or an empty text."""
    if not message.strip():
        return "the message is empty; add a text for users without data"
    if "Liquid error" in message:
        return "the message contains “Liquid error”; fix the problems below"
    for tag in run.tags:
        if (tag["status"] or 0) >= 400:
            return f"the call on line {tag['line']} failed with status {tag['status']}; fix its tag"
    return ""


def _message(plain: str, run: Run) -> str:
    environment = BrazeEnvironment(run)
    template = environment.from_string(plain)
    context = BrazeContext(template, globals=environment.globals)
    buffer = LimitedStringIO(MAX_OUTPUT)
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
    return Rendering(outcome, message, reason, tuple(run.tags), tuple(ordered))


def _reason(error: LiquidError) -> str:
    token = error.token
    where = ""
    if token is not None and token.start_index >= 0:
        where = f"line {line_at(token.source, token.start_index)}: "
    return where + re.sub(r"\s+", " ", str(error.message or "Liquid cannot read the message; check its syntax"))
